"""Several labels a text: the columns that have them, and the labels that their values name."""

from __future__ import annotations

import json
from collections.abc import Sequence

from prunetime.errors import InputError
from prunetime.tasks.table import Table, join_columns, split_columns
from prunetime.tasks.tags import is_list, list_of

YES_OR_NO = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}
"""The values of a column that says whether a text has a label."""

IN_COLUMNS = "labels as 0 and 1 go into columns of their own, --label a,b,c"


def label_columns(table: Table, label: str) -> tuple[str, ...]:
    """The columns that `label` names: the one that is called so, or one for every label, as `join_columns` writes them.

    Raises InputError where the table lacks one, or one is named twice.
    """
    if label in table.columns:
        return (label,)
    names = split_columns(label)
    if len(set(names)) < len(names):
        raise InputError(f"--label {label}: a column is named twice; give each label's column once")
    for name in names:
        table.column(name)
    return names


def has_label(table: Table, label: str) -> bool:
    """Whether the table has all columns that `label` names."""
    return label in table.columns or set(split_columns(label)) <= set(table.columns)


def lists_of_columns(table: Table, names: Sequence[str]) -> list[str]:
    """The labels of every row, lists as JSON: the names of those columns that say 1.

    Raises InputError where a value is not 0 or 1.
    """
    found: list[list[str]] = [[] for _ in range(len(table))]
    for name in names:
        for row, value in enumerate(table.column(name)):
            has = YES_OR_NO.get(value.strip().lower())
            if has is None:
                raise InputError(
                    f"{table.name}, column {name!r}, row {row + 1}: {value[:40]!r} is not 0 or 1, which say whether a "
                    f"text has the label; --label {join_columns(names)} takes each column as one label"
                )
            if has:
                found[row].append(name)
    return [json.dumps(labels, ensure_ascii=False) for labels in found]


def label_lists(where: str, values: Sequence[str], class_names: Sequence[str]) -> list[tuple[str, ...]]:
    """The labels of every row, from lists as JSON; whole numbers are indices into `class_names`, and without these
    names of labels.

    Raises InputError, naming rows, where a value is no list of labels, or has one twice.
    """
    found = []
    for row, value in enumerate(values):
        at = f"{where}, row {row + 1}"
        if not is_list(value):
            raise InputError(f'{at}: {value[:40]!r} is no list of labels; write [] for none, ["a", "b"] for two')
        labels = tuple(_label(at, label, class_names) for label in list_of(where, row, value))
        if len(set(labels)) < len(labels):
            twice = next(label for label in labels if labels.count(label) > 1)
            raise InputError(f"{at}: the label {twice!r} is there twice; a list has each label once ({IN_COLUMNS})")
        found.append(labels)
    return found


def _label(at: str, label: object, class_names: Sequence[str]) -> str:
    name = label.strip() if isinstance(label, str) else str(label) if type(label) is int else ""
    if not name:
        raise InputError(f"{at}: {label!r} is no label; a list has names, or whole numbers ({IN_COLUMNS})")
    if not class_names or name in class_names:
        return name
    if not name.isdecimal() or int(name) >= len(class_names):
        raise InputError(
            f"{at}: the label {label!r} is none of 0 to {len(class_names) - 1}, nor of their names "
            f"{', '.join(class_names[:12])}{', ...' * (len(class_names) > 12)}"
        )
    return class_names[int(name)]


def are_of_words(values: Sequence[str], texts: Sequence[str]) -> bool:
    """Whether lists are labels of words rather than of texts: at least half have as many as their text has words."""
    as_many = sum(len(list_of("labels", row, value)) == _words(texts[row]) for row, value in enumerate(values))
    return 2 * as_many >= len(values)


def _words(text: str) -> int:
    """The number of words of a text, or of a list of words as JSON."""
    if is_list(text):
        try:
            return len(json.loads(text))
        except (ValueError, RecursionError):
            pass
    return len(text.split())
