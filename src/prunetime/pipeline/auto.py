"""`--method auto`: learned masks, a search that begins with what they keep, and blocks learned on what that found. Each
is measured inside the budget, and the best one is kept.

What one run made of equal inputs, such as the teacher and what one would take instead, the next ones take over.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunetime.core import artifact
from prunetime.errors import BudgetError
from prunetime.inference.model import load
from prunetime.latency import profiling
from prunetime.pipeline.context import RUN_PLAN, Context
from prunetime.pipeline.prune import RESULT, as_begun, begin, check_workers, prune
from prunetime.pipeline.run import SUB_RUNS, Reporter, Run
from prunetime.pipeline.stages.alternatives import discard_alternatives
from prunetime.pipeline.stages.lossless import is_lossless
from prunetime.pipeline.student import THREADS
from prunetime.pruning.methods import PruningMethod
from prunetime.report.render import PAGE
from prunetime.settings import Settings
from prunetime.training.tracking import reporting

if TYPE_CHECKING:
    from prunetime.search.cluster import Workers


METHODS: dict[str, PruningMethod] = dict(zip(SUB_RUNS, ("multilevel", "search", "multilevel"), strict=True))
"""By folder, in the order in which they are run: each begins with what the one before came to."""


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
    best gives `out` its artifact and report. Where nothing has to be pruned, the others are not begun. Resumable.

    Returns its result, with its `method` and what each has on `valid` rows.

    Raises:
        InputError: something given cannot be used, or `out` holds a run with other settings.
        BudgetError: none found a model inside the budget.
    """
    run = Run(out, reporter)
    with run.locked():
        context = Context(run, as_begun(settings, run, overwrite=overwrite))
        settings = context.settings
        if result := begin(context, overwrite=overwrite):
            return result
        check_workers(settings.method, workers, reporter)
        runs = {
            name: replace(settings, method=method, tokens=settings.tokens and method == "search")
            for name, method in METHODS.items()
        }
        if profile:
            for own in runs.values():
                profiling.parse(profile).check_covers(own.block_shape, own.tokens)
        first = next(iter(METHODS))
        judge = Context(Run(out / first, reporter), runs[first])  # it has the teacher and the plan of all
        results: dict[str, dict[str, Any]] = {}
        values: dict[str, float] = {}
        failures = []
        earlier: list[Path] = []
        for name, own in runs.items():
            if earlier:
                own = replace(own, effort=judge.run_plan)
            reporter.say(f"{name}, in {out / name}")
            try:
                scoring = workers if own.method == "search" else None
                results[name] = prune(
                    own, out / name, reporter, profile, workers=scoring, earlier=earlier, runs=len(METHODS)
                )
            except BudgetError as error:
                failures.append(f"{name}: {error}")
                continue
            finally:
                earlier = [*earlier, out / name]
                if (out / name / RUN_PLAN).exists():
                    shutil.copy(out / name / RUN_PLAN, run.path(RUN_PLAN))
            values[name] = judge.metric_on_valid(load(out / name / "artifact", THREADS).engine)
            if is_lossless(Run(out / name, reporter)):
                reporter.say(f"{name} is kept: nothing has to be pruned, so the other methods are not tried")
                break
        if not results:
            raise BudgetError("; ".join(failures))
        best = max(results, key=lambda name: context.better(values[name]))
        of_each = ", ".join(f"{name} {values[name]:.4f}" for name in results)
        reporter.say(f"{context.source.valid_metric.name} on valid rows: {of_each}; {best} is kept")
        artifact.copy_folder(out / best / "artifact", run.path("artifact"))
        shutil.copy(out / best / PAGE, run.path(PAGE))
        folders = {"artifact": str(run.path("artifact")), "report": str(run.path(PAGE))}
        for folder in earlier:
            discard_alternatives(Run(folder, reporter))
        result = results[best] | folders | {"method": best, "valid": values}
        run.write(RESULT, result)
        return result
