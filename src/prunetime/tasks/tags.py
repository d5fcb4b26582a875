"""Words with labels: the columns that have them, which labels are understood, and how predicted spans are judged.

Tjong Kim Sang and De Meulder, "Introduction to the CoNLL-2003 Shared Task", arXiv cs/0306050.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from prunetime.core.arrays import Array
from prunetime.core.tag_scheme import FORMS, OUTSIDE, ROLES, scheme_of
from prunetime.core.task import Tagged
from prunetime.errors import InputError
from prunetime.tasks.table import Table

WORDS = "tokens"
TAGS = ("ner_tags", "tags", "labels", "pos_tags")
"""As the `datasets` library has them: lists of words, and of their labels."""


def tag_column(table: Table) -> str | None:
    """The column with lists of the labels of the words in `tokens`; None where the table is of something else."""
    lists = (name for name in TAGS if name in table.columns and is_list(table.columns[name][0]))
    return next(lists, None) if WORDS in table.columns else None


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
        words = list_of(where, row, value)
        for word in words:
            if not isinstance(word, str) or len(word.split()) != 1:
                raise InputError(f"{where}, row {row + 1}: {word!r} is no word; words are texts without white space")
        if not words:
            raise InputError(f"{where}, row {row + 1}: no words; remove the row")
        found.append(" ".join(words))
    return found


def gold_tags(
    where: str, values: Sequence[str], class_names: Sequence[str] = (), texts: Sequence[str] | None = None
) -> Array:
    """The labels of every row's words, tuples of names (objects, [rows]); whole numbers are indices into `class_names`.

    Raises InputError, naming rows, where they are no list, not as many as the words of the row's text, or where one is
    neither a name nor an index of one.
    """
    found = np.empty(len(values), object)
    for row, value in enumerate(values):
        at = f"{where}, row {row + 1}"
        found[row] = tuple(_tag_name(at, tag, class_names) for tag in list_of(where, row, value))
        words = None if texts is None else len(texts[row].split())
        if words not in (None, len(found[row])):
            raise InputError(
                f"{at}: {len(found[row])} labels for {words} words; give one for each (or --task "
                "multi-label-classification, if they are labels of the whole text)"
            )
    return found


def _tag_name(at: str, tag: object, class_names: Sequence[str]) -> str:
    name = tag.strip() if isinstance(tag, str) else str(tag) if type(tag) is int else ""
    if not name:
        raise InputError(f"{at}: {tag!r} is no label of a word; give a name, such as {OUTSIDE} or B-PER")
    if not class_names:
        if isinstance(tag, int):
            raise InputError(
                f"{at}: the label {tag} is a number, and nothing says which is {OUTSIDE}; give names or, beside the "
                "file, a dataset card (README.md) or dataset_infos.json that has the names of the column's ClassLabel"
            )
        return name
    if name in class_names:
        return name
    if not name.isdecimal() or int(name) >= len(class_names):
        raise InputError(
            f"{at}: the label {tag} is none of 0 to {len(class_names) - 1}, nor of their names {', '.join(class_names)}"
        )
    return class_names[int(name)]


def tag_names(where: str, tags: Array, class_names: Sequence[str] = ()) -> tuple[str, ...]:
    """All labels: `O` first, then in the order of `class_names`, or of the alphabet without them.

    Raises InputError as `check_scheme` does.
    """
    labels = class_names or sorted({tag for of_row in tags for tag in of_row})
    check_scheme(where, labels)
    return tuple(sorted(labels, key=lambda tag: tag != OUTSIDE))


def check_scheme(where: str, labels: Sequence[str]) -> None:
    """Raises InputError where `labels` mark spans in no way that we know, or in more than one."""
    inside = [label for label in labels if label != OUTSIDE]
    if inside == list(labels) and all(label.isdecimal() for label in inside):
        raise InputError(
            f"{where}: the labels {', '.join(inside[:5])} are numbers, and nothing says which is {OUTSIDE}; give names"
        )
    scheme = scheme_of(tuple(labels))
    letters = defaultdict(set)
    for tag in filter(None, map(scheme.parse, inside)):
        letters[tag.role if tag.letter else None].add(tag.letter or tag.name)
    odd = letters.pop(None, set())
    twice = [sorted(each) for each in letters.values() if len(each) > 1]
    nested = [label for label in inside if "|" in label and all(map(_is_tag, label.split("|")))]
    brackets = [label for label in inside if re.fullmatch(r"\*\)?|\(.+\*\)?", label)]
    fault = None
    if nested:
        fault = f"{nested[0]!r} is of spans inside spans"
    elif brackets:
        fault = f"{brackets[0]!r} marks spans by brackets"
    elif not scheme.letters and scheme_of(tuple(label.upper() for label in labels)).letters:
        fault = f"{', '.join(inside[:3])} are written in small letters"
    elif scheme.letters and odd:
        fault = f"{min(odd)!r} is not written as other labels are, {scheme}"
    elif twice:
        fault = f"{' and '.join(twice[0])} would both mark the {ROLES[twice[0][0]]} of a span"
    if fault:
        raise InputError(
            f"{where}: {fault}; write labels as IOB1, IOB2, IOE1, IOE2, BIOES, BILOU or BMEWO has them (B-PER, B_PER, "
            f"PER-B or B), and {OUTSIDE} outside of spans"
        )


def _is_tag(label: str) -> bool:
    return label == OUTSIDE or any(re.fullmatch(form, label) for name, form in FORMS.items() if name != "letter")


def span_counts(predicted: Tagged, gold: Sequence[str]) -> tuple[int, int, int]:
    """Spans that are right (label and words), said, and there."""
    said, there = set(predicted.scheme.spans(predicted.labels)), set(predicted.scheme.spans(gold))
    return len(said & there), len(said), len(there)


def word_counts(predicted: Tagged, gold: Sequence[str]) -> tuple[int, int]:
    """Words that are right, and all."""
    return sum(one == other for one, other in zip(predicted.labels, gold, strict=True)), len(gold)


def list_of(where: str, row: int, value: str) -> list[Any]:
    """The list that a value of a row is, as JSON; raises InputError where it is none."""
    try:
        found = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}, row {row + 1}: {value[:40]!r} is no list ({error})") from error
    if not isinstance(found, list):
        raise InputError(f"{where}, row {row + 1}: {value[:40]!r} is no list")
    return found
