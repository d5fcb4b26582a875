"""CoNLL files: a word a line, its label in the last column, an empty line after a sentence."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from prunetime.errors import InputError
from prunetime.tasks.table import Table

COLUMNS = ("tokens", "tags")

DOCUMENT = "-DOCSTART-"
"""The word of a line between documents; it is part of no sentence."""


class ConllLine(NamedTuple):
    """A line with its number (from 1) and its columns."""

    number: int
    text: str
    columns: list[str]


def parse_conll(lines: Sequence[str], name: str) -> Table:
    """The sentences of the `lines` of a file, a row each, with the columns `tokens` and `tags`; messages call the file
    `name`.

    Columns are parted by spaces and tabs alone: other white space is text. A line that begins with `#` before the
    first word of a sentence is a comment, unless it has the columns of a word and a label that other words have.

    Raises InputError for a line that lacks a label or has another number of columns than the first, and where the
    first column counts words, as CoNLL-U does.
    """
    numbered = [ConllLine(number, line, re.findall("[^ \t]+", line)) for number, line in enumerate(lines, start=1)]
    certain = [
        line for line in numbered if line.columns and not line.text.startswith("#") and line.columns[0] != DOCUMENT
    ]
    width = len(certain[0].columns) if certain else 0
    labels = Counter(line.columns[-1] for line in certain)
    found = list(_sentences(numbered, width, labels, name))
    if found and all(line.columns[0] == str(place) for words in found for place, line in enumerate(words, start=1)):
        raise InputError(
            f"{name}, line {found[0][0].number}: the first column counts the words, as in CoNLL-U; give the word first "
            "and its label last"
        )
    rows = [
        tuple(json.dumps([line.columns[at] for line in words], ensure_ascii=False) for at in (0, -1)) for words in found
    ]
    return Table.of_rows(name, COLUMNS, rows)


def _sentences(lines: Sequence[ConllLine], width: int, labels: Counter[str], name: str) -> Iterator[list[ConllLine]]:
    """The lines of every sentence; each has `width` columns."""
    words: list[ConllLine] = []
    for line in lines:
        if not line.columns or line.columns[0] == DOCUMENT:
            if words:
                yield words
            words = []
        elif not line.text.startswith("#") or (len(line.columns) == width and line.columns[-1] in labels) or words:
            count, at = len(line.columns), f"{name}, line {line.number}: {line.text[:40]!r}"
            if count < 2:
                raise InputError(f"{at} has no label; give a word and its label")
            if count != width:
                raise InputError(
                    f"{at} has {count} columns, but the first word of the file has {width}; give every word as many, "
                    "its label in the last"
                )
            words.append(line)
    if words:
        yield words
