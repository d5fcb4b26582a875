"""Replays a labelled file through the arms of an experiment, as its traffic would go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prunetime.errors import InputError
from prunetime.inference.model import Model
from prunetime.serve.experiments.experiment import BLANKS, Experiment, ExperimentReport, report_of
from prunetime.serve.experiments.sequential import KeySums
from prunetime.tasks.labels import LabelColumn
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
    """The result of a replay: the numbers of rows and of shown rows in each arm, and the report of the shown ones."""

    rows: Mapping[str, int]
    shown: Mapping[str, int]
    report: ExperimentReport


def replay(
    experiment: Experiment,
    models: Mapping[str, Model],
    table: Table,
    judged: Judged,
    on_progress: Callable[[int, int], None] | None = None,
) -> Replayed:
    """Scores every row of `table` with the model of its key's arm. `on_progress` gets (rows done, rows in all).

    Raises InputError where a column is missing, a row has no label, no row has the label of a defect, or a model does
    not score by one number.
    """
    keys = [key.strip(BLANKS) for key in table.column(judged.key)]
    labels = LabelColumn.of(table, judged.label).classes()
    if missing := sorted(judged.defects - set(labels)):
        known = ", ".join(sorted(set(labels))[:8])
        raise InputError(f"no row has a {judged.label} of {', '.join(missing)}; there is {known}")
    arms = [experiment.arm_of(key) for key in keys]
    rows, shown = Counter[str](), Counter[str]()
    sums: dict[str, KeySums] = {}
    done = 0
    for arm in experiment.arms:
        shown_of, defects_of = Counter[str](), Counter[str]()
        mine = [row for row, each in enumerate(arms) if each is arm]
        rows[arm.name] = len(mine)
        for start in range(0, len(mine), ROWS_AT_ONCE):
            part = mine[start : start + ROWS_AT_ONCE]
            for row, score in zip(part, _scores(models[arm.model], arm.model, table, part), strict=True):
                if score >= judged.shown_from:
                    shown_of[keys[row]] += 1
                    defects_of[keys[row]] += labels[row] in judged.defects
            done += len(part)
            if on_progress:
                on_progress(done, len(arms))
        shown[arm.name] = shown_of.total()
        sums[arm.name] = KeySums.of(list(shown_of.values()), [defects_of[key] for key in shown_of])
    return Replayed(rows, shown, report_of(experiment, sums))


def _scores(model: Model, name: str, table: Table, rows: Sequence[int]) -> list[float]:
    columns = [table.column(text) for text in model.manifest.task.text]
    scores: Any = model.score([tuple(column[row] for column in columns) for row in rows])
    if scores.ndim != 1 or scores.dtype.kind != "f":
        raise InputError(f"model {name} does not score by one number, so that nothing can be shown by it")
    found: list[float] = scores.tolist()
    return found
