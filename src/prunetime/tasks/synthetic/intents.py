"""`synthetic:intents`: made questions to a shop's customer service, in one of 77 classes: what is wanted, and of what.

Most classes have few rows, and the words of a row often stand in no other row of its class: a class is an intent
(`cancel`, `status`, ...) that is put in one of fifteen ways, of a topic (`order`, `refund`, ...) that has eight names.
Some rows begin with an aside on another topic.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from prunetime.tasks.synthetic.random_choices import RandomChoices, misspelled
from prunetime.tasks.synthetic.vocabulary import table_name
from prunetime.tasks.table import Table

COLUMNS = ("text", "intent")

MISSPELLED = 0.2
"""The share of rows with a misspelled word."""

ASIDE, BEFORE, AFTER = 0.3, 0.3, 0.3
"""The shares of rows with an aside on another topic, with a greeting, and with a sentence at the end."""

_WORDS: Any = json.loads(files(__package__).joinpath("intents.json").read_text("utf-8"))
_TOPICS: dict[str, list[str]] = _WORDS["topics"]
_INTENTS: dict[str, list[str]] = _WORDS["intents"]


def intents(rows: int, seed: int) -> Table:
    """Returns `rows` questions with the columns text and intent, such as "cancel order".

    Same `rows` and `seed`, same table everywhere. A longer table starts with the shorter one's rows.
    Raises InputError for fewer than one row.
    """
    name = table_name("intents", rows, seed)
    choices = RandomChoices(seed)
    return Table.of_rows(name, COLUMNS, [_question(choices) for _ in range(rows)])


def _question(choices: RandomChoices) -> tuple[str, str]:
    topic, intent = choices.one_of(list(_TOPICS)), choices.one_of(list(_INTENTS))
    parts = [choices.one_of(_INTENTS[intent]).format(choices.one_of(_TOPICS[topic]))]
    if choices.chance(ASIDE):
        other = choices.other_than(topic, list(_TOPICS))
        parts.insert(0, choices.one_of(_WORDS["asides"]).format(choices.one_of(_TOPICS[other])))
    if choices.chance(BEFORE):
        parts.insert(0, choices.one_of(_WORDS["before"]))
    if choices.chance(AFTER):
        parts.append(choices.one_of(_WORDS["after"]))
    text = " ".join(parts)
    return misspelled(text, choices) if choices.chance(MISSPELLED) else text, f"{intent} {topic}"
