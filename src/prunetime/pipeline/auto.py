"""`--method auto`: learned masks, a search that begins with what they keep, and blocks learned on what that found. Each
is measured inside the budget, and the best one is kept."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunetime.core import artifact
from prunetime.errors import BudgetError
from prunetime.inference.model import load
from prunetime.latency import profiling
from prunetime.pipeline.context import Context
from prunetime.pipeline.prune import RESULT, begin, check_workers, prune
from prunetime.pipeline.run import SUB_RUNS, Reporter, Run
from prunetime.pipeline.student import THREADS
from prunetime.pruning.methods import PruningMethod
from prunetime.report.render import PAGE
from prunetime.settings import Settings
from prunetime.training.tracking import reporting

if TYPE_CHECKING:
    from prunetime.search.cluster import Workers


@dataclass(frozen=True)
class SubRun:
    """A run of `method`, that begins with what the run in the folder `other` came to."""

    method: PruningMethod
    other: str | None = None


METHODS = dict(
    zip(SUB_RUNS, (SubRun("multilevel"), SubRun("search", "multilevel"), SubRun("multilevel", "search")), strict=True),
)
"""By folder, in the order in which they are run."""

SHARED = ("plan.json", "teacher", "importance.safetensors")
"""The outputs that later runs take over from the first; each is of the stage with its name."""


def prune_by_method(
    settings: Settings,
    out: Path,
    reporter: Reporter,
    profile: Path | None = None,
    *,
    workers: Workers | None = None,
    report_to: Sequence[str] = (),
    overwrite: bool = False,
) -> dict[str, Any]:
    """`prune`, or `prune_by_all_methods` where the method is auto; trainings are reported to those trackers (see
    `training.tracking`)."""
    into = prune_by_all_methods if settings.method == "auto" else prune
    with reporting(report_to, out):
        return into(settings, out, reporter, profile, workers=workers, overwrite=overwrite)


def prune_by_all_methods(
    settings: Settings,
    out: Path,
    reporter: Reporter,
    profile: Path | None = None,
    *,
    workers: Workers | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Prunes as `prune` does by each of `METHODS`, into a folder of `out` each; the one whose metric on valid rows is
    best gives `out` its artifact and report. Resumable.

    Returns its result, with its `method` and what each has on `valid` rows.

    Raises:
        InputError: something given cannot be used, or `out` holds a run with other settings.
        BudgetError: none found a model inside the budget.
    """
    run = Run(out, reporter)
    with run.locked():
        context = Context(run, settings)
        if result := begin(context, overwrite=overwrite):
            return result
        check_workers(settings.method, workers, reporter)
        runs = {
            name: replace(settings, method=way.method, tokens=settings.tokens and way.method == "search")
            for name, way in METHODS.items()
        }
        if profile:
            for own in runs.values():
                profiling.parse(profile).check_covers(own.block_shape, own.tokens)
        results: dict[str, dict[str, Any]] = {}
        values: dict[str, float] = {}
        failures = []
        for name, way in METHODS.items():
            own = runs[name]
            other = out / way.other if way.other else None
            reporter.say(f"{name}, in {out / name}")
            if other:
                _share(other, out / name, reporter)
            try:
                scoring = workers if own.method == "search" else None
                results[name] = prune(own, out / name, reporter, profile, workers=scoring, other=other)
            except BudgetError as error:
                failures.append(f"{name}: {error}")
                continue
            values[name] = context.metric_on_valid(load(out / name / "artifact", THREADS).engine)
        if not results:
            raise BudgetError("; ".join(failures))
        best = max(results, key=lambda name: context.better(values[name]))
        of_each = ", ".join(f"{name} {values[name]:.4f}" for name in results)
        reporter.say(f"{context.source.metric.name} on valid rows: {of_each}; {best} is kept")
        artifact.copy_folder(out / best / "artifact", run.path("artifact"))
        shutil.copy(out / best / PAGE, run.path(PAGE))
        folders = {"artifact": str(run.path("artifact")), "report": str(run.path(PAGE))}
        result = results[best] | folders | {"method": best, "valid": values}
        run.write(RESULT, result)
        return result


def _share(first: Path, other: Path, reporter: Reporter) -> None:
    """Gives the run `other` the teacher of `first`, whose stage has the same inputs."""
    names = [*SHARED, *(f"stages/{name.partition('.')[0]}.json" for name in SHARED)]
    Run(other, reporter).check_free()
    if (other / names[-1]).exists() or not all((first / name).exists() for name in names):
        return
    (other / "stages").mkdir(parents=True, exist_ok=True)
    for name in names:
        if (first / name).is_dir():
            artifact.copy_folder(first / name, other / name)
        else:
            shutil.copy(first / name, other / name)
