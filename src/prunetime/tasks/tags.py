"""Words with labels: the columns and the CoNLL files that have them, and how predicted spans are judged.

Tjong Kim Sang and De Meulder, "Introduction to the CoNLL-2003 Shared Task", arXiv cs/0306050.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunetime.errors import InputError
from prunetime.task import OUTSIDE, Tagged, chunks
from prunetime.tasks.table import Table

WORDS = "tokens"
TAGS = ("ner_tags", "tags", "labels", "pos_tags")
"""As the `datasets` library has them: lists of words, and of their labels."""


def parse_conll(text: str, name: str) -> Table:
    """The sentences of a CoNLL file, a row each, with the columns `tokens` and `tags`: a word a line, its label in the
    last column, and an empty line after a sentence. Lines of `-DOCSTART-` and comments are left out."""
    sentences: list[tuple[list[str], list[str]]] = [([], [])]
    for number, line in enumerate(text.split("\n"), start=1):
        fields = line.split()
        if not fields or fields[0] == "-DOCSTART-":
            sentences.append(([], []))
        elif not line.startswith("# "):
            if len(fields) < 2:
                raise InputError(
                    f"{name}, line {number}: {line.strip()[:40]!r} has no label; give a word and its label"
                )
            sentences[-1][0].append(fields[0])
            sentences[-1][1].append(fields[-1])
    rows = [tuple(json.dumps(part, ensure_ascii=False) for part in each) for each in sentences if each[0]]
    return Table.of_rows(name, (WORDS, "tags"), rows)


def tag_column(table: Table) -> str | None:
    """The column with the labels of the words in `tokens`; None where the table is of something else."""
    return next((name for name in TAGS if name in table.columns), None) if WORDS in table.columns else None


def is_list(value: str) -> bool:
    return value.lstrip().startswith("[")


def sentences(where: str, values: Sequence[str]) -> list[str]:
    """Texts of lists of words (as JSON), a space between words; a text that is none stays.

    Raises InputError, naming rows, for a list that is empty or has what is no word.
    """
    found = []
    for row, value in enumerate(values):
        if not is_list(value):
            found.append(value)
            continue
        words = _list(where, row, value)
        for word in words:
            if not isinstance(word, str) or len(word.split()) != 1:
                raise InputError(f"{where}, row {row + 1}: {word!r} is no word; words are texts without white space")
        if not words:
            raise InputError(f"{where}, row {row + 1}: no words; remove the row")
        found.append(" ".join(words))
    return found


def gold_tags(where: str, values: Sequence[str], texts: Sequence[str] | None = None) -> NDArray[Any]:
    """The labels of every row's words, tuples of names (objects, [rows]).

    Raises InputError, naming rows, where they are no list, or not as many as the words of the row's text.
    """
    found = np.empty(len(values), object)
    for row, value in enumerate(values):
        found[row] = tuple(str(tag) for tag in _list(where, row, value))
        words = None if texts is None else len(texts[row].split())
        if words not in (None, len(found[row])):
            raise InputError(f"{where}, row {row + 1}: {len(found[row])} labels for {words} words; give one for each")
    return found


def names_of(tags: NDArray[Any]) -> list[str]:
    """All labels, `O` first."""
    return sorted({tag for of_row in tags for tag in of_row}, key=lambda tag: (tag != OUTSIDE, tag))


def span_counts(predicted: Tagged, gold: Sequence[str]) -> tuple[int, int, int]:
    """Spans that are right (label and words), said, and there."""
    said, there = set(chunks(predicted.labels)), set(chunks(gold))
    return len(said & there), len(said), len(there)


def word_counts(predicted: Tagged, gold: Sequence[str]) -> tuple[int, int]:
    """Words that are right, and all."""
    return sum(one == other for one, other in zip(predicted.labels, gold, strict=True)), len(gold)


def _list(where: str, row: int, value: str) -> list[Any]:
    try:
        found = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}, row {row + 1}: {value[:40]!r} is no list ({error})") from error
    if not isinstance(found, list):
        raise InputError(f"{where}, row {row + 1}: {value[:40]!r} is no list")
    return found
