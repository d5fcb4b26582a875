"""Reads a label column: the kind of task that its values are of, and the classes that they name."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from prunetime.core.task import Task
from prunetime.core.task_kind import TASK_KINDS, TaskKind
from prunetime.errors import InputError
from prunetime.tasks.multi_label import are_of_words, label_columns, label_lists, lists_of_columns
from prunetime.tasks.table import Table
from prunetime.tasks.tags import is_list

MAX_CLASSES = 1000

_INTEGER = re.compile(r"[+-]?[0-9]+")
_WHOLE = re.compile(r"([+-]?(?:0|[1-9][0-9]*))(\.0*)?")
"""A whole number as programs write it: without zeros in front; the second group is what makes it a float."""


@dataclass(frozen=True)
class LabelColumn:
    """The column `name` of a table, which has the labels `texts` [rows], without white space around them.

    Several `columns`, each of which says 0 or 1 of one label, are as a column of lists of the labels.
    """

    table: Table
    name: str
    texts: list[str]
    columns: tuple[str, ...]

    @classmethod
    def of(cls, table: Table, name: str) -> LabelColumn:
        """Raises InputError where a label is empty or NaN, or one of several columns says other than 0 or 1."""
        columns = label_columns(table, name)
        values = lists_of_columns(table, columns) if len(columns) > 1 else table.column(columns[0])
        column = cls(table, name, [value.strip() for value in values], columns)
        empty = [row for row, text in enumerate(column.texts) if text.lower() in ("", "nan", "+nan", "-nan")]
        if empty:
            raise InputError(f"{column.where}: empty or NaN label in {row_numbers(empty)}; remove them")
        return column

    @property
    def where(self) -> str:
        """For messages."""
        if len(self.columns) > 1:
            return f"{self.table.name}, columns {', '.join(self.columns)}"
        return f"{self.table.name}, column {self.columns[0]!r}"

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of all classes, in order, where the table or its columns say them."""
        return self.columns if len(self.columns) > 1 else self.table.class_names.get(self.columns[0], ())

    def classes(self) -> list[str]:
        """The class that each label names, [rows].

        A label is a name: `01` is not `1`. But a whole number in a column with class names is an index of one, and in a
        column of whole numbers, some of which were written as floats (as pandas does where values are missing), 1.0 is
        1.

        Raises InputError for a number that is no index of the column's class names, and where these are other numbers.
        """
        names = self.class_names
        if not names:
            return list(map(_as_integer, self.texts)) if _are_floats_of_integers(self.texts) else self.texts
        if strange := [name for number, name in enumerate(names) if name.isdecimal() and name != str(number)]:
            raise InputError(
                f"{self.where}: a class is called {strange[0]!r}, but is not the class of that number, so that labels "
                "can be read in two ways; give names that are no numbers"
            )
        as_indices = dict.fromkeys(names) | {str(number): name for number, name in enumerate(names)}
        unknown = [row for row, text in enumerate(self.texts) if _as_integer(text) not in as_indices]
        if unknown:
            raise InputError(
                f"{self.where}: label {self.texts[unknown[0]]!r} ({row_numbers(unknown)}) is none of the classes "
                f"{_numbered(names)} by {self.table.names_from}; remove such rows (-1 says that a row has no label)"
            )
        return [as_indices[_as_integer(text)] or text for text in self.texts]

    def distinct_classes(self) -> tuple[str, ...]:
        """The classes: in the order of the column's class names, or whole numbers by value and then names.

        Raises InputError where there are fewer than two, over a thousand, or they are numbers with a decimal comma.
        """
        if all(re.fullmatch(r"[+-]?[0-9]+,[0-9]+", text) for text in self.texts):
            raise InputError(
                f"{self.where}: {self.texts[0]!r} is a number with a comma; write a point, and no comma for thousands"
            )
        occurring = sorted(set(self.classes()), key=_order)
        if len(occurring) < 2:
            raise InputError(f"{self.where}: one class only, {occurring[0]!r}; a classifier needs rows of at least two")
        self._check_count(occurring, " --task regression takes numbers as numbers")
        return self.class_names or tuple(occurring)

    def lists(self) -> list[tuple[str, ...]]:
        """The labels of every row, any number; raises InputError as `label_lists` does."""
        return label_lists(self.where, self.texts, self.class_names)

    def distinct_labels(self) -> tuple[str, ...]:
        """The labels of lists, in the order of `distinct_classes`.

        Raises InputError where there are fewer than two, over a thousand, or no row has the label of a column.
        """
        occurring = sorted({label for labels in self.lists() for label in labels}, key=_order)
        if never := [name for name in self.columns if name not in occurring] if len(self.columns) > 1 else []:
            raise InputError(f"{self.where}: no row has the label {never[0]!r}; leave its column out of --label")
        names = self.class_names or tuple(occurring)
        if len(names) < 2:
            raise InputError(
                f"{self.where}: it has {len(names)} label{'s' * (not names)} in all; several are needed. A text that "
                "has one label or not is of two classes: a column of 0 and 1"
            )
        self._check_count(names)
        return names

    def _check_count(self, names: Sequence[str], hint: str = "") -> None:
        if len(names) > MAX_CLASSES:
            raise InputError(
                f"{self.where}: {len(names)} different labels, such as {names[0]!r} and {names[-1]!r}; the limit is "
                f"{MAX_CLASSES} classes. Is it the label column?{hint}"
            )

    def kind(self, texts: Sequence[str]) -> TaskKind:
        """The kind of task that the labels of these `texts` are of; see `tasks.data.task_of`."""
        if self.texts[0].startswith("{"):
            return "question-answering"
        if len(self.columns) > 1:
            return "multi-label-classification"
        if is_list(self.texts[0]):
            return "token-classification" if are_of_words(self.texts, texts) else "multi-label-classification"
        numbers = self.numbers()
        whole = all(_INTEGER.fullmatch(text) or _WHOLE.fullmatch(text) for text in self.texts)
        if self.class_names or numbers is None or whole:
            return "classification"
        return "relevance" if min(numbers) >= 0.0 and max(numbers) <= 1.0 else "regression"

    def numbers(self) -> list[float] | None:
        """The labels as numbers, None if not all are; InputError where one is infinite."""
        numbers = [number for text in self.texts if (number := _number(text)) is not None]
        if len(numbers) < len(self.texts):
            return None
        infinite = [row for row, number in enumerate(numbers) if math.isinf(number)]
        if infinite:
            raise InputError(
                f"{self.where}: label {self.texts[infinite[0]]!r} in {row_numbers(infinite)} is not finite"
            )
        return numbers

    def numbers_for(self, kind: TaskKind) -> list[float]:
        """The labels of a task of `kind` as numbers; raises InputError where one is none that the kind takes."""
        numbers = self.numbers()
        if numbers is None:
            row, text = next((row, text) for row, text in enumerate(self.texts) if _number(text) is None)
            raise InputError(f"{self.where}: {text!r} (row {row + 1}) is no number, as {kind} needs")
        outside = [row for row, number in enumerate(numbers) if not 0.0 <= number <= 1.0]
        if outside and TASK_KINDS[kind].score == "sigmoid":
            raise InputError(
                f"{self.where}: {numbers[outside[0]]:g} ({row_numbers(outside)}) is outside 0..1, as relevance is; "
                "scale it"
            )
        return numbers


def label_notes(table: Table, column: str, task: Task) -> list[str]:
    """Sentences on how the labels of a column were read, where they could have been read in another way."""
    columns = label_columns(table, column)
    if len(columns) > 1:
        return []
    raw = table.column(columns[0])
    texts = [value.strip() for value in raw]
    where = f"Labels of {table.name}, column {columns[0]!r}:"
    names = table.class_names.get(columns[0])
    notes = []
    if names and is_list(texts[0]) and any(re.match(r"\[\s*[0-9]", text) for text in texts):
        notes.append(f"{where} numbers are {_numbered(names)}, by {table.names_from}.")
    if task.traits.labels_words:
        return [*notes, f"{where} the scheme is {task.tag_scheme}."]
    if task.traits.score != "softmax":
        return notes
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


def _number(text: str) -> float | None:
    try:
        return float(text) if text.isascii() and "_" not in text else None
    except ValueError:
        return None


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
    number = _INTEGER.fullmatch(name) is not None
    return (not number, int(name) if number else 0, name)


def _numbered(names: Sequence[str]) -> str:
    shown = ", ".join(f"{number} = {name}" for number, name in enumerate(names[:12]))
    return f"{shown}{', ...' if len(names) > 12 else ''}"
