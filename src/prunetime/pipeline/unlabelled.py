"""Data without labels: the task is then the model's own, and its answers are what to keep."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from prunetime.core.progress import Say
from prunetime.core.task import Task
from prunetime.core.task_kind import TASK_KINDS
from prunetime.errors import InputError
from prunetime.models.checkpoint import folder_of
from prunetime.pipeline.convert import Found, found_in
from prunetime.settings import Settings
from prunetime.tasks.data import LABELS, Columns, guess_columns
from prunetime.tasks.labels import LabelColumn
from prunetime.tasks.multi_label import has_label
from prunetime.tasks.roles import Roles
from prunetime.tasks.table import Table

TablePart = tuple[Table, Columns]
"""A table and which of its columns are what."""


def train_columns(settings: Settings, table: Table, say: Say) -> Columns:
    """The columns of the train data, as `guess_columns` finds them; `label` is empty where the data has no labels.

    Raises InputError as that does, and for data without labels where labels are needed: a teacher is fine-tuned on
    them, unless the model is the teacher already, or embeds texts.
    """
    label = settings.label
    elsewhere = label is not None and not has_label(table, label) and (settings.valid or settings.test)
    columns, guess = guess_columns(
        table, settings.text or (), None if elsewhere else label, settings.group, may_lack_labels=True
    )
    if elsewhere:
        columns = replace(columns, label="")
    if not columns.label and not settings.teacher_ready and settings.task != "similarity":
        raise InputError(
            f"{table.name}: the label has no column of a usual name; the columns are {', '.join(table.columns)}. Give "
            "--label COLUMN. Without labels no teacher can be fine-tuned: give --teacher-ready and a model that is "
            "fine-tuned for the task already, or --task similarity to keep the embeddings that the model gives"
        )
    if guess:
        say(guess)
    return columns


def own_columns(table: Table, train: Columns, label: str | None) -> Columns:
    """The columns of valid or test data, which may have labels where the train data has none.

    Where the train data has single texts, for their embeddings, labelled data may have pairs in other columns.
    """
    text = train.text if len(train.text) == 2 or train.text[0] in table.columns else ()
    if label is not None and not has_label(table, label):
        return Columns(text or train.text, "", train.group)
    return guess_columns(table, text, label, train.group, may_lack_labels=True)[0]


def task_of_model(settings: Settings, train: TablePart, others: Iterable[TablePart], say: Say) -> Task:
    """The task that the model's head is for, of the texts of `train`; of single texts that are embedded, of two each.

    The classes have the names that the model has for them. Where it names none, they are those of labelled data among
    `others`, in their order.

    Raises InputError where the model has no head for the task that is asked for, or one for parts of texts.
    """
    table, columns = train
    found = found_in(folder_of(settings.model), settings.task)
    traits = TASK_KINDS[found.kind]
    if traits.rows == "tokens":
        raise InputError(
            f"{table.name} has no labels: {found.kind} needs them, for the parts of texts that they mark; runs without "
            "labels are of classes, relevance, numbers and embeddings. Give --label COLUMN"
        )
    if settings.doc_stride is not None:
        raise InputError(f"a task of {found.kind} reads no windows; leave --doc-stride out")
    text = columns.text
    if traits.reads_apart and len(text) == 1:
        text = (*text, "other" if text[0] != "other" else "text")
    say(
        f"{table.name} has no labels: {settings.model} is the teacher as it is, of {found.kind}, and the metric is "
        "agreement with it."
    )
    return Task(found.kind, _names(found, others), text, settings.budget.seq_len, threshold=found.threshold)


def paired_roles(roles: Roles, task: Task, seed: int) -> Roles:
    """The roles, in which single texts of a task of pairs are beside others of their role."""
    if not task.pair or len(roles.train.texts[0]) == 2:
        return roles
    train, valid, test = (
        role.paired(seed) if len(role.texts[0]) == 1 else role for role in (roles.train, roles.valid, roles.test)
    )
    return replace(roles, train=train, valid=valid, test=test)


def _names(found: Found, others: Iterable[TablePart]) -> tuple[str, ...]:
    if not all(re.fullmatch(r"LABEL_[0-9]+", name) for name in found.labels):
        return found.labels
    for table, columns in others:
        if columns.label and found.labels:
            names = LABELS[found.kind].names(LabelColumn.of(table, columns.label), found.kind)
            if len(names) == len(found.labels):
                return names
    return found.labels
