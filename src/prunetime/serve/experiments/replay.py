"""Replays a labelled file through the arms of an experiment, as its traffic would go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prunetime.core.arrays import Float64Array
from prunetime.errors import InputError
from prunetime.inference.model import Model
from prunetime.serve.experiments.experiment import BLANKS, Experiment, ExperimentReport, report_of
from prunetime.serve.experiments.sequential import KeySums
from prunetime.tasks.data import group_ids
from prunetime.tasks.labels import LabelColumn
from prunetime.tasks.metrics import OrderKept, order_kept
from prunetime.tasks.table import Table

ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Judged:
    """The rule that makes outcomes of rows: a row with a score of at least `shown_from` is shown, and is a defect where
    its label is one of `defects`. `key` and `label` are columns."""

    key: str
    label: str
    defects: frozenset[str]
    shown_from: float = 0.5


@dataclass(frozen=True)
class Replayed:
    """The result of a replay: the numbers of rows and of shown rows in each arm, the report of the shown ones, and how
    far each arm but the control orders the rows of its keys as the control's model does (None: no two keys have rows
    to order)."""

    rows: Mapping[str, int]
    shown: Mapping[str, int]
    report: ExperimentReport
    order_kept: Mapping[str, OrderKept | None]


def replay(
    experiment: Experiment,
    models: Mapping[str, Model],
    table: Table,
    judged: Judged,
    on_progress: Callable[[int, int], None] | None = None,
) -> Replayed:
    """Scores every row of `table` with the model of its key's arm, and the rows of all arms but the control with the
    control's model, too. `on_progress` gets (scores done, scores in all).

    Raises InputError where a column is missing, a row has no label, no row has the label of a defect, or a model does
    not score by one number.
    """
    keys = [key.strip(BLANKS) for key in table.column(judged.key)]
    labels = LabelColumn.of(table, judged.label).classes()
    if missing := sorted(judged.defects - set(labels)):
        known = ", ".join(sorted(set(labels))[:8])
        raise InputError(f"no row has a {judged.label} of {', '.join(missing)}; there is {known}")
    control, *others = experiment.arms
    rows_of = _rows_of_arms(experiment, keys)
    scorer = _Scorer(models, table, len(keys) + sum(len(rows_of[arm.name]) for arm in others), on_progress)
    groups = group_ids(keys)
    shown: dict[str, int] = {}
    sums: dict[str, KeySums] = {}
    kept: dict[str, OrderKept | None] = {}
    for arm in experiment.arms:
        rows = rows_of[arm.name]
        scores = scorer.scores(arm.model, rows)
        shown_rows = [row for row, score in zip(rows, scores, strict=True) if score >= judged.shown_from]
        shown_of = Counter(keys[row] for row in shown_rows)
        defects_of = Counter(keys[row] for row in shown_rows if labels[row] in judged.defects)
        shown[arm.name] = len(shown_rows)
        sums[arm.name] = KeySums.of(list(shown_of.values()), [defects_of[key] for key in shown_of])
        if arm is not control:
            reference = scorer.scores(control.model, rows)
            kept[arm.name] = order_kept(scores, reference, groups[rows]) if rows else None
    return Replayed({name: len(rows) for name, rows in rows_of.items()}, shown, report_of(experiment, sums), kept)


def _rows_of_arms(experiment: Experiment, keys: Sequence[str]) -> dict[str, list[int]]:
    rows_of: dict[str, list[int]] = {arm.name: [] for arm in experiment.arms}
    for row, key in enumerate(keys):
        rows_of[experiment.arm_of(key).name].append(row)
    return rows_of


class _Scorer:
    """Scores rows of `table`, and tells how many of `total` scores are done."""

    def __init__(
        self, models: Mapping[str, Model], table: Table, total: int, on_progress: Callable[[int, int], None] | None
    ) -> None:
        self._models, self._table, self._total, self._on_progress = models, table, total, on_progress
        self._done = 0

    def scores(self, name: str, rows: Sequence[int]) -> Float64Array:
        """The scores [rows] of the model `name`; raises InputError where it does not score by one number."""
        parts = [np.zeros(0)]
        for start in range(0, len(rows), ROWS_AT_ONCE):
            part = rows[start : start + ROWS_AT_ONCE]
            columns = [self._table.column(text) for text in self._models[name].manifest.task.text]
            scores: Any = self._models[name].score([tuple(column[row] for column in columns) for row in part])
            if scores.ndim != 1 or scores.dtype.kind != "f":
                raise InputError(f"model {name} does not score by one number, so that nothing can be shown by it")
            parts.append(scores.astype(np.float64))
            self._done += len(part)
            if self._on_progress:
                self._on_progress(self._done, self._total)
        return np.concatenate(parts)
