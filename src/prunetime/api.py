"""The commands `prune`, `pick` and `profile` for Python. Models that are made are loaded by
`prunetime.load`, which needs none of this."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

from prunetime.core.arch import ArchSpec
from prunetime.core.budget import Budget
from prunetime.core.config import LogitRows
from prunetime.core.deprecation import warn_renamed
from prunetime.core.effort import Effort
from prunetime.core.precision import Precision, PrecisionPlan
from prunetime.inference.model import Model, load
from prunetime.latency.predictor import LatencyProfile
from prunetime.pipeline import auto
from prunetime.pipeline import prune as pipeline
from prunetime.pipeline.run import Reporter
from prunetime.pipeline.source import profile_of
from prunetime.settings import Settings

P = ParamSpec("P")

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Measured:
    """A model as it was measured on this machine and on the test data, by the engine.

    Attributes:
        p50_us: The median latency of a call, in microseconds.
        p99_us: The 99th percentile.
        ci95_us: The 95 % interval of the budget's statistic.
        metric: The name of the metric.
        value: The metric on the test data.
        ci95: Its 95 % interval.
        params: The number of parameters.
    """

    p50_us: float
    p99_us: float
    ci95_us: tuple[float, float]
    metric: str
    value: float
    ci95: tuple[float, float]
    params: int


@dataclass(frozen=True)
class Pruned:
    """The result of a run.

    Attributes:
        artifact: The folder of the pruned model.
        report: The report, an HTML page.
        budget_us: The budget in microseconds.
        dense: The dense model, fine-tuned, as it was measured.
        pruned: The pruned model.
        spec: What the pruned model keeps of every layer.
    """

    artifact: Path
    report: Path
    budget_us: float
    dense: Measured
    pruned: Measured
    spec: ArchSpec

    def load(self, threads: int = 1) -> Model:
        """Loads the artifact.

        Args:
            threads: Threads that compute one batch.

        Returns:
            The pruned model, ready to score.
        """
        return load(self.artifact, threads)


def _takes_single_settings(function: Callable[P, Pruned]) -> Callable[P, Pruned]:
    """Lets callers of before this release give the settings one by one: `prune(model, data, budget, out, seed=1)`."""
    call: Callable[..., Pruned] = function

    @wraps(function)
    def prune(*given: Any, **options: Any) -> Pruned:
        if isinstance(options.get("settings", next(iter(given), None)), Settings):
            return call(*given, **options)
        warn_renamed("prune(model, data, budget, out, ...)", "prune(Settings(model, data, budget, ...), out)")
        options |= dict(zip(("model", "data", "budget", "out"), given, strict=False))
        others = {name: options.pop(name) for name in ("out", "reporter", "report_to", "overwrite") if name in options}
        if "effort" in options:
            options["effort"] = Effort.named(options["effort"])
        return call(Settings(**options), **others)

    return prune


@_takes_single_settings
def prune(
    settings: Settings,
    out: PathLike,
    *,
    profile: PathLike | None = None,
    reporter: Reporter | None = None,
    report_to: Sequence[str] = (),
    overwrite: bool = False,
) -> Pruned:
    """Prunes a model into a latency budget, measured on this machine.

    The run folder `out` keeps what was done: the same call resumes an interrupted run, and reads a finished one.

    Args:
        settings: The model, the data, the budget, and how to prune.
        out: The run folder.
        profile: A latency profile that `prunetime profile` recorded on this machine; measured where it is not given.
        reporter: Takes what the run says of its progress; by default it goes to standard error.
        report_to: Trackers that losses go to: tensorboard, mlflow, wandb.
        overwrite: Whether a run that is in `out` is removed first.

    Returns:
        The folders of the model and its report, and what was measured.

    Raises:
        InputError: something given cannot be used, or `out` holds a run with other settings.
        BudgetError: no model inside the budget was found.

    Example:
        >>> settings = Settings("./my-bert", "train.tsv", Budget.ms(1.9, seq_len=48), text=("query", "title"))
        >>> prune(settings, "runs/ads").load().score([("red sofa", "velvet couch, red")])
    """
    given = Path(profile) if profile is not None else None
    chosen: Any = {"report_to": report_to, "overwrite": overwrite}
    return _pruned(auto.prune_by_method(settings, Path(out), reporter or _console(), given, **chosen))


def pick(
    run: PathLike, budget: Budget, out: PathLike, *, reporter: Reporter | None = None, overwrite: bool = False
) -> Pruned:
    """Takes the best model for another budget off the archive of a finished run.

    Args:
        run: The folder of a run that searched.
        budget: The time or share of dense; the setting is that of the run.
        out: The run folder of the new model.
        reporter: As for `prune`.
        overwrite: As for `prune`.

    Returns:
        The folders of the model and its report, and what was measured.

    Raises:
        InputError: `run` is no finished run, or its archive has nothing inside the budget.
        BudgetError: no model inside the budget was found.
    """
    return _pruned(pipeline.pick(Path(run), budget, Path(out), reporter or _console(), overwrite=overwrite))


def profile(model: str, budget: Budget, *, precision: Precision = "fp32", rows: LogitRows = "pooled") -> LatencyProfile:
    """Measures the latencies of the sub-layers of a model on this machine.

    Args:
        model: The folder of a Hugging Face model, or a hub id.
        budget: Says the setting: tokens, sequences, threads.
        precision: The precision of every matrix.
        rows: What the head reads: the `pooled` row of a sequence, or that of every one of its `tokens`; or there is
            none, and the pooled row is an `embedding`.

    Returns:
        A profile whose `predict(spec, budget)` gives the microseconds of any structure, and whose `to_json()` is what
        `prunetime prune --profile` reads.

    Raises:
        InputError: the model cannot be read, or is too short for the budget's sequences.
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
