"""The whole road: `prune` from a model, data and a budget; `pick` another budget off a finished run's archive."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prunetime._version import __version__
from prunetime.core import artifact
from prunetime.core.budget import Budget
from prunetime.core.machine import this_machine
from prunetime.core.mask import Mask
from prunetime.errors import BudgetError, InputError
from prunetime.export.card import artifact_card
from prunetime.latency.predictor import LatencyProfile
from prunetime.pipeline import choosing, stages, verify
from prunetime.pipeline.front import measure_front
from prunetime.pipeline.learning import LAST, Learning
from prunetime.pipeline.pretrained import hub_id
from prunetime.pipeline.run import Progress, Reporter, Run, digest_of
from prunetime.pipeline.settings import Settings
from prunetime.pipeline.source import Source, check_trainable, load_source, model_digest
from prunetime.pruning.methods import LEARNED
from prunetime.report.render import render

if TYPE_CHECKING:
    from prunetime.search.cluster import Workers

ATTEMPTS = 3
"""Searches of one run: the first, and two with the predictor tightened."""

SURE = 0.985
"""A structure that measures more of its budget than this before tuning is searched for again: that costs a minute, to
find out after tuning costs many. At the last attempt, one that may fit is tuned."""

LOOSE = 0.93
"""A structure that takes less than this of its predicted time is searched for again, once, with so much more predicted
time: a part of the budget would be left unused."""

RESULT = "result.json"

NOT_OF_THE_TEACHER = ("budget", "slices", "method", "tokens", "blocks")
"""Settings that teacher and importance do not depend on."""

KEPT_FOR_PICK = ("plan.json", "profile.json", "evaluations.jsonl")
MODELS_FOR_PICK = stages.Models._fields


def prune(
    settings: Settings,
    out: Path,
    reporter: Reporter,
    profile: Path | None = None,
    *,
    workers: Workers | None = None,
    other: Path | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Runs the pipeline into the folder `out`, resuming what an earlier call with equal settings left there.

    With `overwrite` a run that is there is removed, and this one starts afresh.
    `other` is a run of the other method: learning takes heads and rows of its search, or a search begins with the keep
    ratios that it learned.
    Candidates are scored by `workers`, or in this process where there are none: the same result.
    Returns the result that the command line prints as JSON.

    Raises:
        InputError: something given cannot be used, or `out` holds a run with other settings.
        BudgetError: no model inside the budget was found in three attempts.
    """
    run = Run(out, reporter)
    with run.locked():
        source, inputs = begin(run, settings, overwrite=overwrite)
        if result := finished(run):
            return result
        stages.note_computer(run, settings)
        check_workers(settings, workers, reporter)
        plan = stages.search_plan(run, source, settings)
        latency = stages.profile(run, source, settings, plan, profile)
        verify.check_tail(run, source, settings.budget, plan, latency)
        dense = stages.teacher(run, source, settings, plan, inputs)
        stages.importance(run, source, settings, dense, inputs)
        if settings.method in LEARNED:
            way = _learned(run, source, settings, dense, latency, other)
        else:
            models = stages.Models(dense, stages.elastic(run, source, settings, dense, latency))
            way = _searched(run, source, settings, models, latency, workers=workers, other=other)
        return _into_budget(run, source, settings, dense, latency, way)


def pick(
    origin: Path,
    amount: Budget,
    out: Path,
    reporter: Reporter,
    *,
    workers: Workers | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Takes the best model for another budget off the archive of the finished run `origin`, tunes and verifies it.

    Scored are only what the surrogate of the search expects most of there, as many as there are finalists, and the
    finalists. The new budget is the run's with the time or share of `amount`. `workers` and `overwrite` as for `prune`.

    Raises:
        InputError: `origin` is no finished run, or its archive has nothing inside the budget.
        BudgetError: no model inside the budget was found in three attempts.
    """
    before = Run(origin, reporter)
    settings = Settings.from_json(before.read("run.json")["settings"])
    check_searched(origin, settings)
    budget = replace(settings.budget, us=amount.us, share=amount.share)
    settings = settings.with_budget(budget)
    needed = (*KEPT_FOR_PICK, *MODELS_FOR_PICK)
    missing = [name for name in needed if not before.path(name).exists()]
    if missing:
        raise InputError(f"{origin} is no finished run: it lacks {', '.join(missing)}; run `prunetime prune` first")
    if out.resolve() == origin.resolve():
        raise InputError(f"{out} is the run to pick from: choose another --out")
    run = Run(out, reporter)
    with run.locked():
        source, _ = begin(run, settings, overwrite=overwrite)
        if result := finished(run):
            return result
        for name in KEPT_FOR_PICK:
            if not run.path(name).exists():  # what was picked is added to the evaluations
                artifact.write_text(run.path(name), before.path(name).read_text(encoding="utf-8"))
        for name in MODELS_FOR_PICK:
            if not run.path(name).exists():
                artifact.copy_folder(before.path(name), run.path(name))
        stages.note_computer(run, settings)
        check_workers(settings, workers, reporter)
        models = stages.Models(*(artifact.read(run.path(name)) for name in MODELS_FOR_PICK))
        plan = models.teacher.manifest.plan
        latency = stages.profile(run, source, settings, plan, before.path("profile.json"))
        verify.check_tail(run, source, settings.budget, plan, latency)

        def choose(target_us: float) -> None:
            proposed = choosing.propose(run, settings, models, latency, target_us)

            def work(progress: Progress) -> None:
                with choosing.scoring(models.elastic, workers) as scorer_for:
                    choosing.score_proposed(run, source, settings, models, proposed, scorer_for, on_progress=progress)
                    choosing.leave_choice(run, source, settings, models, target_us, scorer_for)

            inputs = {"archive": stages.archive_digest(run, settings), "target_us": target_us}
            run.do(
                "search", f"Pick within {target_us:.0f} us", inputs, ["search.json", "mask.json", "chosen.json"], work
            )

        way = Way(choose, partial(stages.kept_of, models.elastic), searched=True)
        return _into_budget(run, source, settings, models.teacher, latency, way)


@dataclass(frozen=True)
class Way:
    """How a structure is found: `choose` leaves the best predicted to take so many microseconds as `mask.json`, with
    `chosen.json`; `begin` gives its weights, to be tuned; `searched` says whether an archive of others is left, too."""

    choose: Callable[[float], None]
    begin: Callable[[Mask], artifact.Weights]
    searched: bool


def _searched(
    run: Run,
    source: Source,
    settings: Settings,
    models: stages.Models,
    latency: LatencyProfile,
    *,
    workers: Workers | None,
    other: Path | None,
) -> Way:
    space, seeds = settings.space(source.pretrained.config.dims), []
    if other:
        learned = Mask.from_json(Run(other, run.reporter).read("rows.json"))
        seeds = [space.widened(learned.spec())]

    def choose(target_us: float) -> None:
        choosing.choose(run, source, settings, models, latency, target_us, workers=workers, seeds=seeds)

    return Way(choose, partial(stages.kept_of, models.elastic), searched=True)


def _learned(
    run: Run,
    source: Source,
    settings: Settings,
    dense: artifact.Artifact,
    latency: LatencyProfile,
    other: Path | None,
) -> Way:
    learning, rows = Learning(run, source, settings, latency), None
    if len(learning.method.levels) > 1:
        rows = learning.searched_rows(other, dense) if other else learning.rows(dense)

    def begin(_: Mask) -> artifact.Weights:
        return dict(artifact.read(run.path(LAST.artifact)).weights)

    return Way(partial(learning.last, dense, rows), begin, searched=False)


def check_searched(origin: Path, settings: Settings) -> None:
    """Raises InputError where the run `origin` has no archive, because it did not search."""
    if settings.method == "auto":
        raise InputError(f"{origin} holds several runs, of --method auto: take {origin / 'search'}")
    if settings.method != "search":
        raise InputError(
            f"{origin} was made with --method {settings.method}, which learns one structure and leaves no archive of "
            "others: run `prunetime prune` with the other budget"
        )


def check_workers(settings: Settings, workers: Workers | None, reporter: Reporter) -> None:
    """Raises InputError where `workers` do not start, or there is no search whose candidates they could score."""
    if workers is None:
        return
    if settings.method in LEARNED:
        raise InputError(f"--workers score the candidates of a search, and --method {settings.method} has none")
    with reporter.stage("Start a worker"):
        workers.check()


def begin(run: Run, settings: Settings, *, overwrite: bool = False) -> tuple[Source, dict[str, Any]]:
    """Loads the sources and writes `run.json`, or checks that the one there is of the same run.

    With `overwrite` a run that is there is removed, once the sources could be read.
    """
    with run.reporter.stage("Load model and data"):
        source = load_source(settings, run.reporter.say)
        check_trainable(source, settings)
        roles = {name: getattr(source.roles, name) for name in ("train", "valid", "test")}
        inputs = {
            "model": model_digest(source),
            "data": digest_of([[role.texts, role.labels.tolist()] for role in roles.values()]),
            "settings": settings.to_json() | dict.fromkeys(NOT_OF_THE_TEACHER),
        }
    given = settings.to_json()
    record: dict[str, Any] = {
        "settings": given,
        "digest": digest_of(inputs | {"settings": given | {"slices": None}}),
        "task": source.task.to_json(),
        "columns": {"text": list(source.columns.text), "label": source.columns.label, "group": source.columns.group},
        "metric": source.metric.name,
        "higher_is_better": source.metric.higher_is_better,
        "rows": {name: len(role) for name, role in roles.items()},
        "groups": {name: len(np.unique(role.groups)) for name, role in roles.items()},
        "dims": source.pretrained.config.dims.to_json(),
        "warnings": list(source.roles.warnings),
        "machine": this_machine().to_json(),
        "versions": {
            "prunetime": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers", "numpy", "tokenizers")},
        },
    }
    if overwrite:
        run.clear()
    if run.path("run.json").exists():
        found = run.read("run.json")
        if found["digest"] != record["digest"]:
            changed = [k for k, v in record["settings"].items() if found["settings"].get(k) != v]
            what = f"its {', '.join(changed)} differ" if changed else "its model or data files have changed since"
            raise InputError(f"{run.folder} holds another run: {what}; choose another --out, or --overwrite")
    else:
        run.write("run.json", record)
    return source, inputs


def _into_budget(
    run: Run,
    source: Source,
    settings: Settings,
    dense: artifact.Artifact,
    latency: LatencyProfile,
    way: Way,
) -> dict[str, Any]:
    """Chooses, tunes and verifies; where the measured latency is over the budget, tightens the target and repeats.

    `attempts.json` keeps what was measured over what was predicted, and the failure where it was over the budget.
    """
    budget = settings.budget
    floor_us, dense_us = latency.floor_and_dense(budget)
    budget_us = budget.resolve(dense_us)
    while True:
        attempts = run.read("attempts.json") if run.path("attempts.json").exists() else []
        failed = [attempt for attempt in attempts if attempt["failure"]]
        target_us = budget_us * stages.MARGIN / _off_by(attempts)
        if failed and target_us <= floor_us:
            raise BudgetError(f"{failed[-1]['failure']}; tightened by that, the prediction leaves no model at all")
        way.choose(target_us)
        predicted_share = run.read("chosen.json")["predicted_us"] / budget_us
        verdict = verify.gate(run, source, budget, dense.manifest.plan)
        if not attempts and (over := verdict.ci95[1] / verdict.limit / predicted_share) < LOOSE:
            attempts.append({"measured_over_predicted": over, "failure": None})
            run.write("attempts.json", attempts)
            run.reporter.say(
                f"the structure measured {verdict.describe()}, at most {over:.0%} of its prediction: "
                "searching again with the predictor loosened"
            )
            continue
        noisy, reached = False, verdict.measured
        last = len(failed) + 1 == ATTEMPTS
        if verdict.measured <= SURE * verdict.limit or (last and verdict.ci95[0] <= verdict.limit):
            if way.searched:
                measure_front(run, source, settings, latency, dense.manifest.plan)
            provenance: dict[str, Any] = {"model": settings.model, "seed": settings.seed}
            if base := hub_id(settings.model):
                provenance["base_model"] = base
            stages.tune(run, source, settings, dense, way.begin, provenance)
            verdict = verify.verify(run, source, settings, dense)
            if verdict.met:
                return _finish(run)
            # By its upper end a verdict is not met: tightened by less, the same structure would be chosen again.
            noisy, reached = verdict.noisy, verdict.ci95[1]
        failure = (
            f"attempt {len(failed) + 1}: the pruned model measured {verdict.describe()}, "
            f"the budget is {budget} = {budget_us:.0f} us"
        )
        if noisy or last:
            for stage in ("gate", "verify"):  # the same command measures again
                run.forget(stage)
            why = "the machine is too noisy to judge: run it again when it is quiet" if noisy else "giving up"
            raise BudgetError(f"{failure}; {why}")
        attempts.append({"measured_over_predicted": reached / verdict.limit / predicted_share, "failure": failure})
        run.write("attempts.json", attempts)
        run.reporter.say(f"{failure}; searching again with the predictor tightened")


def _off_by(attempts: list[dict[str, Any]]) -> float:
    """Measured over predicted, as far as `attempts` tell: of those over the budget the most, and at least 1; where none
    was, of the one that was far inside it."""
    over = [float(attempt["measured_over_predicted"]) for attempt in attempts if attempt["failure"]]
    if over:
        return max(1.0, *over)
    return float(attempts[0]["measured_over_predicted"]) if attempts else 1.0


def _finish(run: Run) -> dict[str, Any]:
    """Turns the verified candidate into the artifact, with what was measured on its card, and writes the report."""
    verified: dict[str, Any] = run.read("verify.json")
    candidate = artifact.read(run.path("candidate"))
    measured = {key: verified[key] for key in ("budget", "dense", "pruned", "machine")}
    manifest = replace(candidate.manifest, provenance={**candidate.manifest.provenance, "measured": measured})
    files = {
        **artifact.other_files(candidate.folder),
        "model_card.md": artifact_card(manifest, measured).encode(),
    }
    shutil.rmtree(run.path("artifact"), ignore_errors=True)
    artifact.write(run.path("artifact"), manifest, candidate.weights, files)
    report = render(run.folder)
    keys = ("budget_us", "dense", "pruned", "spec")
    result = {key: verified[key] for key in keys} | {"artifact": str(run.path("artifact")), "report": str(report)}
    run.write(RESULT, result)
    shutil.rmtree(run.path("candidate"))
    return result


def finished(run: Run) -> dict[str, Any] | None:
    """The result of a run that had come to its end before."""
    if not (run.path(RESULT).exists() and run.path("artifact").exists()):
        return None
    shutil.rmtree(run.path("candidate"), ignore_errors=True)
    run.reporter.say("this run is finished: nothing is left to do")
    result: dict[str, Any] = run.read(RESULT)
    return result
