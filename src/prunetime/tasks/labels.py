"""Reads a label column: the kind of task that its values are of, and the classes that they name."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from prunetime.core.task import Task
from prunetime.core.task_kind import TaskKind
from prunetime.errors import InputError
from prunetime.tasks.table import Table
from prunetime.tasks.tags import is_list

MAX_CLASSES = 1000

_INTEGER = re.compile(r"[+-]?[0-9]+")
_WHOLE = re.compile(r"([+-]?(?:0|[1-9][0-9]*))(\.0*)?")
"""A whole number as programs write it: without zeros in front; the second group is what makes it a float."""


def label_texts(table: Table, column: str) -> list[str]:
    """The values of a label column without white space around them, [rows]; InputError where one is empty or NaN."""
    values = [value.strip() for value in table.column(column)]
    empty = [row for row, value in enumerate(values) if not value or value.lower() in ("nan", "+nan", "-nan")]
    if empty:
        raise InputError(f"{table.name}, column {column!r}: empty or NaN label in {row_numbers(empty)}; remove them")
    return values


def class_labels(table: Table, column: str, texts: Sequence[str]) -> list[str]:
    """The class that each of the labels `texts` of a column names, [rows].

    A label is a name: `01` is not `1`. But a whole number in a column with class names is an index of one, and in a
    column of whole numbers, some of which were written as floats (as pandas does where values are missing), 1.0 is 1.

    Raises InputError for a number that is no index of the column's class names, and where these are other numbers.
    """
    names = table.class_names.get(column)
    if names is None:
        return [_as_integer(text) for text in texts] if _are_floats_of_integers(texts) else list(texts)
    if strange := next((name for number, name in enumerate(names) if name.isdecimal() and name != str(number)), None):
        raise InputError(
            f"{table.name}, column {column!r}: a class is called {strange!r}, but is not the class of that number, so "
            "that labels can be read in two ways; give names that are no numbers"
        )
    as_indices = dict.fromkeys(names) | {str(number): name for number, name in enumerate(names)}
    unknown = [row for row, text in enumerate(texts) if _as_integer(text) not in as_indices]
    if unknown:
        raise InputError(
            f"{table.name}, column {column!r}: label {texts[unknown[0]]!r} ({row_numbers(unknown)}) is none of the "
            f"classes {_numbered(names)} by {table.names_from}; remove such rows (-1 says that a row has no label)"
        )
    return [as_indices[_as_integer(text)] or text for text in texts]


def classes_of(table: Table, column: str, texts: Sequence[str]) -> tuple[str, ...]:
    """The classes of a label column: in the order of its class names, or whole numbers by value and then names.

    Raises InputError where there are fewer than two, over a thousand, or they are numbers with a decimal comma.
    """
    where = f"{table.name}, column {column!r}"
    if all(re.fullmatch(r"[+-]?[0-9]+,[0-9]+", text) for text in texts):
        raise InputError(f"{where}: {texts[0]!r} is a number with a comma; write a point, and no comma for thousands")
    occurring = sorted(set(class_labels(table, column, texts)), key=_order)
    if len(occurring) < 2:
        raise InputError(f"{where}: one class only, {occurring[0]!r}; a classifier needs rows of at least two")
    if len(occurring) > MAX_CLASSES:
        raise InputError(
            f"{where}: {len(occurring)} different labels, such as {occurring[0]!r} and {occurring[-1]!r}; the limit is "
            f"{MAX_CLASSES} classes. Is it the label column? --task regression takes numbers as numbers"
        )
    return tuple(table.class_names.get(column, occurring))


def kind_of(table: Table, column: str, texts: Sequence[str]) -> TaskKind:
    """The kind of task that labels are of; see `tasks.data.task_of`."""
    if texts[0].startswith("{"):
        return "question-answering"
    if is_list(texts[0]):
        return "token-classification"
    numbers = numbers_of(f"{table.name}, column {column!r}", texts)
    whole = all(_INTEGER.fullmatch(text) or _WHOLE.fullmatch(text) for text in texts)
    if column in table.class_names or numbers is None or whole:
        return "classification"
    return "relevance" if min(numbers) >= 0.0 and max(numbers) <= 1.0 else "regression"


def label_notes(table: Table, column: str, task: Task) -> list[str]:
    """Sentences on how the labels of a column were read, where they could have been read in another way."""
    raw = table.column(column)
    texts = [value.strip() for value in raw]
    where = f"Labels of {table.name}, column {column!r}:"
    names = table.class_names.get(column)
    notes = []
    if task.traits.labels_words:
        if names and re.match(r"\[\s*[0-9]", texts[0]):
            notes.append(f"{where} numbers are {_numbered(names)}, by {table.names_from}.")
        return [*notes, f"{where} the scheme is {task.tag_scheme}."]
    if task.traits.score != "softmax":
        return []
    integers = [text for text in texts if _INTEGER.fullmatch(text)]
    if names and any(text not in names for text in texts):
        notes.append(f"{where} numbers are {_numbered(names)}, by {table.names_from}.")
    elif names is None and _are_floats_of_integers(texts):
        notes.append(f"{where} whole numbers written as floats are classes, such as {_as_integer(texts[0])}.")
    elif len(integers) == len(texts) and not set(texts) <= {"0", "1"}:
        notes.append(f"{where} whole numbers are {len(task.labels)} classes; --task regression takes them as numbers.")
    if named := next((text for text in integers if not _WHOLE.fullmatch(text)), None):
        notes.append(f"{where} {named!r} is a name, and not the class {int(named)}.")
    if spaced := sum(value != text for value, text in zip(raw, texts, strict=True)):
        notes.append(f"{where} white space around {spaced} labels is left out.")
    return notes


def numbers_of(where: str, texts: Sequence[str]) -> list[float] | None:
    """`texts` as numbers, None if not all are; InputError where one is infinite."""
    numbers = [number for text in texts if (number := number_of(text)) is not None]
    if len(numbers) < len(texts):
        return None
    infinite = [row for row, number in enumerate(numbers) if math.isinf(number)]
    if infinite:
        raise InputError(f"{where}: label {texts[infinite[0]]!r} in {row_numbers(infinite)} is not finite")
    return numbers


def number_of(text: str) -> float | None:
    """The number that a text is; None where it is none."""
    try:
        return float(text) if text.isascii() and "_" not in text else None
    except ValueError:
        return None


def check_relevance(where: str, numbers: Sequence[float]) -> None:
    """Raises InputError where a number is outside of 0..1."""
    outside = [row for row, number in enumerate(numbers) if not 0.0 <= number <= 1.0]
    if outside:
        raise InputError(
            f"{where}: {numbers[outside[0]]:g} ({row_numbers(outside)}) is outside 0..1, as relevance is; scale it"
        )


def first_row(texts: Sequence[str], wrong: Callable[[str], bool]) -> str:
    """The first text that is `wrong`, and its row, for messages."""
    row = next(row for row, text in enumerate(texts) if wrong(text))
    return f"{texts[row]!r} (row {row + 1})"


def row_numbers(rows: Sequence[int]) -> str:
    """The numbers of `rows` from 1, the first five of them, for messages."""
    shown = ", ".join(str(row + 1) for row in rows[:5])
    more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
    return f"row{'s' if len(rows) > 1 else ''} {shown}{more}"


def _are_floats_of_integers(texts: Sequence[str]) -> bool:
    whole = [_WHOLE.fullmatch(text) for text in texts]
    return all(whole) and any(found[2] for found in whole if found)


def _as_integer(text: str) -> str:
    """1.0 as 1; another text as it is."""
    found = _WHOLE.fullmatch(text)
    return str(int(found[1])) if found and found[2] else text


def _order(name: str) -> tuple[bool, int, str]:
    """Whole numbers by value, however large, and then names."""
    number = _INTEGER.fullmatch(name) is not None
    return (not number, int(name) if number else 0, name)


def _numbered(names: Sequence[str]) -> str:
    shown = ", ".join(f"{number} = {name}" for number, name in enumerate(names[:12]))
    return f"{shown}{', ...' if len(names) > 12 else ''}"
