"""Labelled examples of a task: which columns are what, what the labels mean, and the rows read with it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from prunetime.core.arrays import Array, Float32Array, Int64Array
from prunetime.core.task import DOC_STRIDE, Task
from prunetime.core.task_kind import TASK_KINDS, TaskKind
from prunetime.errors import InputError
from prunetime.tasks.answers import gold_answers, is_squad, lacks_answers
from prunetime.tasks.labels import LabelColumn, row_numbers
from prunetime.tasks.multi_label import label_columns
from prunetime.tasks.table import Table
from prunetime.tasks.tags import WORDS, gold_tags, sentences, tag_column, tag_names

LABEL_NAMES = ("label", "labels", "target", "class", "relevance", "score")
"""Column names that are taken as the label; `label` itself wins over the others."""

GROUP_NAMES = ("group", "query_id", "qid", "query", "question_id")

TEXT_NAMES = ("text", "query", "title", "sentence", "question", "passage", "document", "premise", "hypothesis")


@dataclass(frozen=True)
class Columns:
    """Names of the one or two text columns, of the label column (empty where rows have no labels), and of the column of
    the group, if there is one.

    Where each of several labels has a column, `label` names them as `join_columns` does.
    """

    text: tuple[str, ...]
    label: str
    group: str | None


@dataclass(frozen=True)
class Examples:
    """Rows of `table` as the task sees them, all of length [rows].

    - `texts`: one or two texts of each row
    - `labels`: int64 class indices into `task.labels`, float32 (of several labels [rows, labels], 0 or 1), or tuples:
      of `Answer` (question answering), or of the names of the words' labels (token classification); NaN where the
      table has no labels
    - `groups`: int64 ids; equal where the group's text is, in whatever table or order
    - `rows`: which rows of `table` these are
    - `group`: the column of the groups; None where a row's group is its first text
    """

    table: Table
    texts: list[tuple[str, ...]]
    labels: Array
    groups: Int64Array
    rows: Int64Array
    group: str | None

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def labelled(self) -> bool:
        return self.labels.dtype.kind != "f" or not np.isnan(self.labels).any()

    def paired(self, seed: int) -> Examples:
        """The examples, of one text each, with the text of another one drawn by `seed` beside it."""
        order = np.random.default_rng(seed).permutation(len(self))
        beside = dict(zip(order.tolist(), np.roll(order, -1).tolist(), strict=True))
        return replace(self, texts=[(*texts, *self.texts[beside[row]]) for row, texts in enumerate(self.texts)])

    def select(self, rows: Array | Sequence[int]) -> Examples:
        """The examples at `rows` (indices or booleans), in that order."""
        chosen = np.arange(len(self))[np.asarray(rows)]
        arrays = {name: getattr(self, name)[chosen] for name in ("labels", "groups", "rows")}
        return replace(self, texts=[self.texts[row] for row in chosen], **arrays)

    def column(self, name: str) -> list[str]:
        """Values of a column of the table for these rows."""
        values = self.table.column(name)
        return [values[row] for row in self.rows]


def guess_columns(
    table: Table,
    text: Sequence[str] = (),
    label: str | None = None,
    group: str | None = None,
    *,
    may_lack_labels: bool = False,
) -> tuple[Columns, str]:
    """The columns given, the others guessed from names and values, and a sentence that says what was guessed.

    Questions with a context and `answers` are taken as such, a context a group. The sentence is empty when nothing was
    guessed. A table without a column that could be the label is taken to have none where it `may_lack_labels`. Raises
    InputError for a given column that is missing and where more than one guess is possible.
    """
    labels = label_columns(table, label) if label else ()
    for name in (*text, *filter(None, (group,))):
        table.column(name)
    if len(text) > 2 or len(set(text)) != len(text):
        raise InputError(f"--text {','.join(text)}: one or two different columns hold text")
    guessed = []
    squad = label in (None, "answers") and is_squad(table)
    tags = tag_column(table)
    if label is None:
        label = "answers" if squad else tags or _guess_label(table, (*text, group), may_lack_labels)
        labels = (label,) if label else ()
        guessed.append(f"label = {label}" if label else "no column is a label")
    if not text:
        text = ("question", "context") if squad else (WORDS,) if tags else _guess_text(table, labels)
        guessed.append(f"text = {','.join(text)}")
    if group is None:
        names = ("context",) if squad else GROUP_NAMES
        named = [name for name in names if name in table.columns and name not in labels]
        group = named[0] if len(named) == 1 else None
        guessed.append(f"group = {group}" if group else f"a row's group is its {text[0]}")
    sentence = f"Guessed from the columns of {table.name}: {'; '.join(guessed)}." if guessed else ""
    return Columns(tuple(text), label, group), sentence


def task_of(
    table: Table, columns: Columns, max_length: int, kind: TaskKind | None = None, *, doc_stride: int | None = None
) -> Task:
    """The task that the labels of `table`, the training data, are of.

    Without `kind`: whole numbers (also as floats, 1.0) and names are classes; other numbers are relevance if all lie in
    0..1, and regression if not; objects are answers, lists the labels of words where they are as long as their texts,
    and otherwise of texts, as several label columns are. `max_length` is in tokens. Windows of
    question answering share `doc_stride` of them, by default 128 or half of `max_length`. Raises InputError for empty,
    NaN or infinite labels, for one class only, and for labels that are not of `kind`.
    """
    column = LabelColumn.of(table, columns.label)
    column.numbers()
    kind = kind or column.kind(table.column(columns.text[0]))
    if len(column.columns) > 1 and not TASK_KINDS[kind].is_multi_label:
        raise InputError(f"{column.where}: {kind} has one label column; give one, or --task multi-label-classification")
    windows = TASK_KINDS[kind].reads_windows
    if windows and doc_stride is None:
        doc_stride = min(DOC_STRIDE, max_length // 2)
    elif doc_stride is not None and not windows:
        raise InputError(f"{column.where}: a task of {kind} reads no windows; leave --doc-stride out")
    names = LABELS[kind].names(column, kind)
    return Task(kind, names, columns.text, max_length, doc_stride, windows and lacks_answers(column.texts))


def examples(table: Table, columns: Columns, task: Task) -> Examples:
    """The rows of `table`, checked; without labels where `columns` name none.

    Raises InputError, naming rows (the first row of data is row 1), for an empty text, a label that is empty, NaN or
    not one of the task's, where all rows have the same label, and for answers as `gold_answers` does.
    """
    texts = list(zip(*(_texts(table, name) for name in columns.text), strict=True))
    if task.traits.labels_words:
        texts = [(text,) for text in sentences(f"{table.name}, column {columns.text[0]!r}", [row[0] for row in texts])]
    labels = _labels(table, columns.label, task, texts) if columns.label else np.full(len(texts), np.nan, np.float32)
    groups = _texts(table, columns.group) if columns.group else [row[0] for row in texts]
    return Examples(table, texts, labels, group_ids(groups), np.arange(len(texts), dtype=np.int64), columns.group)


def _labels(table: Table, name: str, task: Task, texts: Sequence[tuple[str, ...]]) -> Array:
    column = LabelColumn.of(table, name)
    labels = LABELS[task.kind].values(column, task, texts)
    if labels.dtype != object and len(np.unique(labels)) < 2:
        raise InputError(
            f"{column.where}: one class only, every label is {column.texts[0]!r}; give rows of at least two"
        )
    return labels


def _class_indices(column: LabelColumn, task: Task, _: Sequence[tuple[str, ...]]) -> Int64Array:
    """The class of every label, [rows]. A number whose name is none of the task's may be the name of a class itself:
    artifacts from before class names were read have the numbers."""
    index = {name: number for number, name in enumerate(task.labels)}
    names = column.classes()
    found = [index.get(name, index.get(text)) for name, text in zip(names, column.texts, strict=True)]
    unknown = [row for row, number in enumerate(found) if number is None]
    if unknown:
        raise InputError(
            f"{column.where}: label {names[unknown[0]]!r} ({row_numbers(unknown)}) is not one of the "
            f"task's: {', '.join(task.labels)}"
        )
    return np.array(found, np.int64)


def _answers(column: LabelColumn, task: Task, texts: Sequence[tuple[str, ...]]) -> Array:
    return gold_answers(column.where, column.texts, [context for _, context in texts], task.unanswerable)


def _tags(column: LabelColumn, task: Task, texts: Sequence[tuple[str, ...]]) -> Array:
    labels = gold_tags(column.where, column.texts, column.class_names, [row[0] for row in texts])
    strange = sorted({tag for of_row in labels for tag in of_row} - set(task.labels))
    if strange:
        raise InputError(f"{column.where}: label {strange[0]!r} is not one of the task's: {', '.join(task.labels)}")
    return labels


def _tag_names(column: LabelColumn, _: TaskKind) -> tuple[str, ...]:
    names = column.class_names
    return tag_names(column.where, gold_tags(column.where, column.texts, names), names)


def _label_matrix(column: LabelColumn, task: Task, _: Sequence[tuple[str, ...]]) -> Float32Array:
    """1 for the labels that every row has, 0 for others, [rows, labels]."""
    index = {name: number for number, name in enumerate(task.labels)}
    lists = column.lists()
    found = np.zeros((len(lists), len(index)), np.float32)
    for row, labels in enumerate(lists):
        if strange := [label for label in labels if label not in index]:
            raise InputError(
                f"{column.where}, row {row + 1}: label {strange[0]!r} is not one of the task's, which are those of its "
                f"training data: {', '.join(task.labels)}"
            )
        found[row, [index[label] for label in labels]] = 1.0
    return found


class LabelReader(NamedTuple):
    """How the labels of a kind of task are read: the `names` of the task's labels, none where they are numbers or
    answers, and the `values` [examples] that metrics and training take. Both raise InputError for a bad label."""

    names: Callable[[LabelColumn, TaskKind], tuple[str, ...]]
    values: Callable[[LabelColumn, Task, Sequence[tuple[str, ...]]], Array]


def _no_names(column: LabelColumn, kind: TaskKind) -> tuple[str, ...]:
    column.numbers_for(kind)
    return ()


_NUMBERS = LabelReader(_no_names, lambda column, task, _: np.array(column.numbers_for(task.kind), np.float32))

LABELS: dict[TaskKind, LabelReader] = {
    "classification": LabelReader(lambda column, _: column.distinct_classes(), _class_indices),
    "multi-label-classification": LabelReader(lambda column, _: column.distinct_labels(), _label_matrix),
    "relevance": _NUMBERS,
    "regression": _NUMBERS,
    "question-answering": LabelReader(lambda *_: (), _answers),
    "token-classification": LabelReader(_tag_names, _tags),
    "similarity": _NUMBERS,
}


def normalized(text: str) -> str:
    """`text` without differences of case and white space."""
    return " ".join(text.casefold().split())


def group_ids(texts: Sequence[str]) -> Int64Array:
    """An id of each normalised text that depends on nothing else, [rows]."""
    ids = {text: stable_hash(normalized(text)) >> 1 for text in set(texts)}
    return np.array([ids[text] for text in texts], np.int64)


def stable_hash(text: str) -> int:
    """64 bits of `text`, the same everywhere."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _guess_label(table: Table, taken: Sequence[str | None], may_lack: bool) -> str:
    named = [name for name in table.columns if name.lower() in LABEL_NAMES and name not in taken]
    exact = [name for name in named if name.lower() == "label"]
    candidates = exact or named
    if len(candidates) == 1:
        return candidates[0]
    if may_lack and not candidates:
        return ""
    which = f"could be {' or '.join(candidates)}" if candidates else "has no column of a usual name"
    raise InputError(
        f"{table.name}: the label {which}; the columns are {', '.join(table.columns)}. Give --label COLUMN"
    )


def _guess_text(table: Table, labels: Sequence[str]) -> tuple[str, ...]:
    candidates = [name for name, values in table.columns.items() if name not in labels and _is_text(name, values)]
    if len(candidates) in (1, 2):
        return tuple(candidates)
    which = (
        f"{len(candidates)} columns hold text: {', '.join(candidates)}" if candidates else "no column looks like text"
    )
    raise InputError(f"{table.name}: {which}; the columns are {', '.join(table.columns)}. Give --text COLUMN[,COLUMN]")


def _is_text(name: str, values: list[str]) -> bool:
    return name.lower().rstrip("0123456789_") in TEXT_NAMES or sum(" " in v.strip() for v in values) > len(values) / 2


def _texts(table: Table, name: str) -> list[str]:
    values = table.column(name)
    empty = [row for row, value in enumerate(values) if not value.strip()]
    if empty:
        raise InputError(f"{table.name}, column {name!r}: no text in {row_numbers(empty)}; fill or remove them")
    return values
