"""What the command line does, for Python: `prune`, `pick` and `profile`. Models that are made are loaded by
`prunetime.load`, which needs none of this."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from prunetime.core.arch import ArchSpec
from prunetime.core.budget import Budget
from prunetime.core.config import LogitRows
from prunetime.core.precision import Precision, PrecisionPlan
from prunetime.errors import InputError
from prunetime.inference.model import Model, load
from prunetime.latency.predictor import LatencyProfile
from prunetime.pipeline import auto
from prunetime.pipeline import prune as pipeline
from prunetime.pipeline.run import Reporter
from prunetime.pipeline.settings import EFFORTS, Settings
from prunetime.pipeline.source import profile_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from prunetime.core.arch import BlockShape
    from prunetime.core.task_kind import TaskKind
    from prunetime.pruning.importance import Criterion
    from prunetime.pruning.methods import Method

PathLike = str | os.PathLike[str]


class Options(TypedDict, total=False):
    """Settings of `prune` that have a usual value: those of `prunetime prune --help`, with `_` for `-`."""

    valid: str
    test: str
    text: tuple[str, ...]
    label: str
    group: str
    task: TaskKind
    doc_stride: int
    metric: str
    slices: tuple[str, ...]
    teacher_ready: bool
    seed: int
    effort: str
    precision: str
    max_loss: float
    importance: Criterion
    tokens: bool
    blocks: BlockShape
    method: Method


@dataclass(frozen=True)
class Measured:
    """A model on this machine and on the test rows: latency of a call in microseconds, `value` of the `metric` by the
    engine, each with its 95 % interval, and the number of parameters."""

    p50_us: float
    p99_us: float
    ci95_us: tuple[float, float]
    metric: str
    value: float
    ci95: tuple[float, float]
    params: int


@dataclass(frozen=True)
class Pruned:
    """What a run came to: the folders of the model and its report, and what was measured of it and of the dense one."""

    artifact: Path
    report: Path
    budget_us: float
    dense: Measured
    pruned: Measured
    spec: ArchSpec

    def load(self, threads: int = 1) -> Model:
        """The pruned model, ready to score."""
        return load(self.artifact, threads)


def prune(
    model: str,
    data: str,
    budget: Budget,
    out: PathLike,
    *,
    reporter: Reporter | None = None,
    report_to: Sequence[str] = (),
    overwrite: bool = False,
    **options: Unpack[Options],
) -> Pruned:
    """Prunes `model` (a folder, or a hub id) into `budget` on `data` (a file, a hub id, or `synthetic:NAME`).

    The run folder `out` keeps what was done: the same call resumes what was interrupted, and is done at once where it
    was finished. With `overwrite` a run that is there is removed first. Progress goes to standard error, or to
    `reporter`; losses to the trackers `report_to` (tensorboard, mlflow, wandb).

    Raises:
        InputError: something given cannot be used, or `out` holds a run with other settings.
        BudgetError: no model inside the budget was found.
    """
    given: dict[str, Any] = dict(options)
    effort = given.pop("effort", "standard")
    if effort not in EFFORTS:
        raise InputError(f"effort is {effort!r}; it must be one of {', '.join(EFFORTS)}")
    settings = Settings(model, data, budget, effort=EFFORTS[effort], **given)
    chosen: Any = {"report_to": report_to, "overwrite": overwrite}
    return _pruned(auto.prune_by_method(settings, Path(out), reporter or _console(), **chosen))


def pick(
    run: PathLike, budget: Budget, out: PathLike, *, reporter: Reporter | None = None, overwrite: bool = False
) -> Pruned:
    """The best model for another budget off the archive of a finished `run`; `overwrite` and errors as of `prune`."""
    return _pruned(pipeline.pick(Path(run), budget, Path(out), reporter or _console(), overwrite=overwrite))


def profile(model: str, budget: Budget, *, precision: Precision = "fp32", rows: LogitRows = "pooled") -> LatencyProfile:
    """This machine's latencies of the sub-layers of `model` in the setting of `budget`, for a head that reads `rows`.

    `predict(spec, budget)` gives the microseconds of any structure, `to_json` what `prunetime prune --profile` reads.
    Raises InputError where the model cannot be read.
    """
    return profile_of(model, budget, PrecisionPlan.uniform(precision), rows)[1]


def _pruned(result: dict[str, Any]) -> Pruned:
    return Pruned(
        artifact=Path(result["artifact"]),
        report=Path(result["report"]),
        budget_us=result["budget_us"],
        dense=_measured(result["dense"]),
        pruned=_measured(result["pruned"]),
        spec=ArchSpec.from_json(result["spec"]),
    )


def _measured(row: dict[str, Any]) -> Measured:
    pairs = {name: (row[name][0], row[name][1]) for name in ("ci95_us", "ci95")}
    return Measured(**{**row, **pairs})


def _console() -> Reporter:
    from prunetime.pipeline.progress import ConsoleReporter

    return ConsoleReporter()
