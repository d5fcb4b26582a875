"""`synthetic:question-answering`: made stock lists of shops, and questions whose answers are parts of them.

A context tells of several products, a sentence for every attribute, in any order. A question asks for one attribute of
one product, most often by another word than the context's: `How large is the settee?` of a context with a couch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from prunetime.errors import InputError
from prunetime.tasks.answers import COLUMNS
from prunetime.tasks.synthetic.relevance import RandomChoices
from prunetime.tasks.synthetic.vocabulary import BRANDS, COLORS, KINDS, UNITS, ProductKind
from prunetime.tasks.table import Table

PRODUCTS = (3, 9)
"""Least and most products of a context."""

QUESTIONS = 5
"""The number of questions on a context."""

OTHER_WORD = 0.6
"""How often a question calls the product by another name than the context."""

SENTENCES = {
    "brand": ("The {thing} is made by {value}.", "{value} sells the {thing}.", "Our {thing} is from {value}."),
    "color": (
        "The {thing} is {value}.",
        "We have the {thing} in {value} only.",
        "Painted {value}, the {thing} is new.",
    ),
    "material": (
        "The {thing} is made of {value}.",
        "They used {value} for the {thing}.",
        "Our {thing} of {value} is here.",
    ),
    "size": (
        "The {thing} has a size of {value}.",
        "At {value}, the {thing} is in stock.",
        "We list the {thing} as {value}.",
    ),
    "part": (
        "The {value} comes with the {thing}.",
        "The {thing} includes the {value}.",
        "Buy the {thing} and get the {value}.",
    ),
}

QUESTIONS_ON = {
    "brand": ("Who makes the {thing}?", "Which brand is the {thing}?"),
    "color": ("What color is the {thing}?", "In which color is the {thing}?"),
    "material": ("What is the {thing} made of?", "Which material is the {thing}?"),
    "size": ("How large is the {thing}?", "What size does the {thing} have?"),
    "part": ("What comes with the {thing}?", "What does the {thing} include?"),
}


@dataclass(frozen=True)
class Fact:
    """The value of an attribute of a product, which the context calls `name`."""

    kind: ProductKind
    name: str
    attribute: str
    value: str


def question_answering(rows: int, seed: int) -> Table:
    """`rows` questions in the columns of SQuAD (`tasks.answers.COLUMNS`), each with one answer.

    Same `rows` and `seed`, same table everywhere. A longer table starts with the shorter one's rows.
    """
    if rows < 1:
        raise InputError(f"synthetic:question-answering with rows={rows}: give at least 1")
    choices = RandomChoices(seed)
    found: list[tuple[str, ...]] = []
    while len(found) < rows:
        facts = choices.shuffled(_facts(choices))
        sentences = [choices.one_of(SENTENCES[fact.attribute]) for fact in facts]
        context, starts = "", []
        for fact, sentence in zip(facts, sentences, strict=True):
            before = sentence[: sentence.index("{value}")].format(thing=fact.name)
            starts.append(len(context) + len(before))
            context += sentence.format(thing=fact.name, value=fact.value) + " "
        context = context.strip()
        for index in choices.shuffled(range(len(facts)))[:QUESTIONS]:
            fact = facts[index]
            other = choices.chance(OTHER_WORD)
            thing = choices.other_than(fact.name, fact.kind.names) if other else fact.name
            question = choices.one_of(QUESTIONS_ON[fact.attribute]).format(thing=thing)
            answers = json.dumps({"text": [fact.value], "answer_start": [starts[index]]})
            found.append((f"{len(found)}", fact.kind.category, context, question, answers))
    return Table.of_rows(f"synthetic:question-answering?rows={rows}&seed={seed}", COLUMNS, found[:rows])


def _facts(choices: RandomChoices) -> list[Fact]:
    """All that a context tells."""
    low, high = PRODUCTS
    facts = []
    for kind in choices.shuffled(KINDS)[: low + choices.below(high - low + 1)]:
        name = choices.one_of(kind.names)
        values = {
            "brand": choices.one_of(BRANDS),
            "color": choices.one_of(choices.one_of(COLORS)),
            "material": choices.one_of(kind.materials),
            "size": choices.one_of(UNITS[kind.unit][1]).format(choices.one_of(kind.sizes)),
            "part": choices.one_of(kind.parts),
        }
        facts += [Fact(kind, name, attribute, value) for attribute, value in values.items()]
    return facts
