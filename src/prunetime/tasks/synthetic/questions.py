"""`synthetic:question-answering`: made stock lists of shops, and questions whose answers are parts of them.

A context tells of several products, a sentence for every attribute, in any order. A question asks for one attribute of
one product, most often by another word than the context's: `How large is the settee?` of a context with a couch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from prunetime.tasks.answers import COLUMNS
from prunetime.tasks.synthetic.random_choices import RandomChoices
from prunetime.tasks.synthetic.vocabulary import COLORS, KINDS, QUESTIONS_ON, SENTENCES, UNITS, ProductKind, table_name
from prunetime.tasks.table import Table

PRODUCTS = (3, 9)
"""Least and most products of a context."""

QUESTIONS = 5
"""The number of questions on a context."""

OTHER_WORD = 0.6
"""How often a question calls the product by another name than the context."""


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
    name = table_name("question-answering", rows, seed)
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
    return Table.of_rows(name, COLUMNS, found[:rows])


def _facts(choices: RandomChoices) -> list[Fact]:
    facts = []
    for kind in choices.shuffled(KINDS)[: choices.between(*PRODUCTS)]:
        name = choices.one_of(kind.names)
        values = {
            "brand": choices.one_of(kind.values["brand"]),
            "color": choices.one_of(choices.one_of(COLORS)),
            "material": choices.one_of(kind.materials),
            "size": choices.one_of(UNITS[kind.unit][1]).format(choices.one_of(kind.sizes)),
            "part": choices.one_of(kind.parts),
        }
        facts += [Fact(kind, name, attribute, value) for attribute, value in values.items()]
    return facts
