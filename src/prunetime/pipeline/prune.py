"""The pipeline from end to end: `prune` from a model, data and a budget; `pick` another budget off a run's archive."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
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
from prunetime.pipeline import next_action
from prunetime.pipeline.context import MODELS, PREFIX_REPAIR, RUN_PLAN, Context
from prunetime.pipeline.next_action import Attempt
from prunetime.pipeline.run import SUB_RUNS, Reporter, Run, digest_of
from prunetime.pipeline.source import check_trainable
from prunetime.pipeline.stages.alternatives import compare, discard_alternatives, kept_files
from prunetime.pipeline.stages.baselines import compare_baselines
from prunetime.pipeline.stages.front import measure_front
from prunetime.pipeline.stages.learn import learn_structure, learned_weights
from prunetime.pipeline.stages.lossless import answer_without_pruning, is_lossless
from prunetime.pipeline.stages.measure import check_tail, precheck
from prunetime.pipeline.stages.profile import MARGIN, choose_plan, profile_machine
from prunetime.pipeline.stages.run_plan import plan_run
from prunetime.pipeline.stages.search import EVALUATIONS, pick_structure, propose, search
from prunetime.pipeline.stages.structures import structures
from prunetime.pipeline.stages.teacher import elastic, importance, teach
from prunetime.pipeline.stages.tune import Begin, tune
from prunetime.pipeline.stages.verify import verify
from prunetime.pipeline.student import kept_of, note_computer
from prunetime.pruning.methods import LEARNED, PruningMethod
from prunetime.report.render import render
from prunetime.settings import AUTO, Settings

if TYPE_CHECKING:
    from prunetime.search.cluster import Workers

RESULT = "result.json"

FILES_FOR_PICK = ("plan.json", "profile.json", EVALUATIONS)
FILES_OF_SOME = (RUN_PLAN, "dense.json", PREFIX_REPAIR)
"""Taken over by `pick` where they are there."""


@dataclass(frozen=True)
class Strategy:
    """A strategy finds a structure.

    `choose` leaves the best that is predicted to take so many microseconds as `mask.json`, with `chosen.json`; `begin`
    gives its weights, to be tuned; `searched` says whether it leaves an archive of others, too.
    """

    choose: Callable[[float], None]
    begin: Begin
    searched: bool


def prune(
    settings: Settings,
    out: Path,
    reporter: Reporter,
    profile: Path | None = None,
    *,
    workers: Workers | None = None,
    earlier: Sequence[Path] = (),
    runs: int = 1,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Runs the pipeline into the folder `out`, resuming what an earlier call with equal settings left there.

    With `overwrite` a run that is there is removed, and this one starts afresh.
    Of `earlier` runs, of other methods, it takes over what they made of equal inputs. It begins with what the last of
    them came to: learning takes heads and rows of its search, or a search begins with the keep ratios that it learned.
    `runs` have the time that the settings give, and follow the plan of the first of them; where they are several,
    models that were compared are left for the others.
    Candidates are scored by `workers`, or in this process where there are none: the same result.
    Returns the result that the command line prints as JSON.

    Raises:
        InputError: something given cannot be used, or `out` holds a run with other settings.
        BudgetError: no model inside the budget was found in three attempts.
    """
    run = Run(out, reporter, [Run(folder, reporter) for folder in earlier])
    other = earlier[-1] if earlier else None
    with run.locked():
        context = Context(run, as_begun(settings, run, overwrite=overwrite), profile, workers, runs)
        if result := begin(context, overwrite=overwrite):
            return result
        _check_machine(context)
        choose_plan(context)
        _measure_machine(context)
        plan_run(context)
        teach(context)
        compare_baselines(context)
        if answer_without_pruning(context):
            return _finish(context, compare(context, {}) if settings.beside else "candidate")
        importance(context)
        if settings.method in LEARNED:
            learn = partial(learn_structure, context, other=other)
            return _into_budget(context, Strategy(learn, lambda _: learned_weights(context), searched=False))
        elastic(context)
        seeds = []
        if other:
            learned = Mask.from_json(Run(other, reporter).read("rows.json"))
            seeds = [context.space.widened(learned.spec())]
        return _into_budget(context, _search_strategy(context, partial(_search, context, seeds)))


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
    settings = settings_of_search(before)
    settings = settings.with_budget(replace(settings.budget, us=amount.us, share=amount.share))
    missing = [name for name in (*FILES_FOR_PICK, *MODELS) if not before.path(name).exists()]
    if missing:
        raise InputError(f"{origin} is no finished run: it lacks {', '.join(missing)}; run `prunetime prune` first")
    if out.resolve() == origin.resolve():
        raise InputError(f"{out} is the run to pick from: choose another --out")
    run = Run(out, reporter)
    with run.locked():
        context = Context(run, settings, before.path("profile.json"), workers)
        if result := begin(context, overwrite=overwrite):
            return result
        for name in (*FILES_FOR_PICK, *(name for name in FILES_OF_SOME if before.path(name).exists())):
            if not run.path(name).exists():  # what was picked is added to the evaluations
                artifact.write_bytes(run.path(name), before.path(name).read_bytes())
        for name in MODELS:
            if not run.path(name).exists():
                artifact.copy_folder(before.path(name), run.path(name))
        _check_machine(context)
        _measure_machine(context)
        return _into_budget(context, _search_strategy(context, partial(_pick, context)))


def _search(context: Context, seeds: list[Any], target_us: float) -> None:
    """Searches; where a structure was over its prediction it picks a smaller one, which the archive has."""
    attempts = _attempts(context.run)
    if attempts and attempts[-1].failure:
        _pick(context, target_us)
    else:
        search(context, target_us=target_us, seeds=seeds)


def _pick(context: Context, target_us: float) -> None:
    propose(context, target_us=target_us)
    pick_structure(context, target_us=target_us)


def _search_strategy(context: Context, choose: Callable[[float], None]) -> Strategy:
    return Strategy(choose, lambda mask: kept_of(context.elastic, mask), searched=True)


def _check_machine(context: Context) -> None:
    """Raises InputError where workers that were given do not start, or would have nothing to do."""
    note_computer(context.run)
    check_workers(context.settings.method, context.workers, context.run.reporter)


def _measure_machine(context: Context) -> None:
    """Measures what predictions and verdicts need, and refuses a budget that cannot be met or judged."""
    profile_machine(context)
    check_tail(context)


def settings_of_search(run: Run) -> Settings:
    """The settings of a run that searched; raises InputError where it has no archive, because it did not."""
    settings = Settings.from_json(run.read("run.json")["settings"])
    is_auto = settings.method == "auto"
    if is_lossless(Run(run.path(SUB_RUNS[0]), run.reporter) if is_auto else run):
        raise InputError(
            f"{run.folder} has no archive to take others from: the dense model in a faster precision was inside its "
            "budget, so that nothing was searched; run `prunetime prune` with the other budget"
        )
    if is_auto:
        raise InputError(f"{run.folder} holds several runs, of --method auto: take {run.path('search')}")
    if settings.method != "search":
        raise InputError(
            f"{run.folder} was made with --method {settings.method}, which learns one structure and leaves no archive "
            "of others: run `prunetime prune` with the other budget"
        )
    return settings


def check_workers(method: PruningMethod, workers: Workers | None, reporter: Reporter) -> None:
    """Raises InputError where `workers` do not start, or there is no search whose candidates they could score."""
    if workers is None:
        return
    if method in LEARNED:
        raise InputError(f"--workers score the candidates of a search, and --method {method} has none")
    with reporter.stage("Start a worker"):
        workers.check()


def as_begun(settings: Settings, run: Run, *, overwrite: bool) -> Settings:
    """The settings of the run that is there, where its command was the same in an earlier version."""
    return settings.as_begun(run.read("run.json")) if run.path("run.json").exists() and not overwrite else settings


def begin(context: Context, *, overwrite: bool = False) -> dict[str, Any] | None:
    """Loads the sources and writes `run.json`, or checks that the one there is of the same run.

    With `overwrite` a run that is there is removed, once the sources could be read. Returns the result of a run that is
    finished.
    """
    run, settings = context.run, context.settings
    with run.reporter.stage("Load model and data"):
        source = context.source
        check_trainable(source, settings)
        others = context.beside
    roles = {name: getattr(source.roles, name) for name in ("train", "valid", "test")}
    of_models = settings.of_models()
    beside = {"beside": [[other.model, other.digest] for other in others]} if others else {}
    record: dict[str, Any] = {
        "settings": settings.to_json(),
        "defaults": {"precision": AUTO},
        "digest": digest_of(context.given | {"settings": of_models | {"slices": None}} | beside),
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
    if not run.path("run.json").exists():
        run.write("run.json", record)
        return None
    found = run.read("run.json")
    if found["digest"] != record["digest"]:
        changed = [k for k, v in of_models.items() if found["settings"].get(k) != v]
        changed += ["beside"] if found["settings"].get("beside", []) != list(settings.beside) else []
        what = f"its {', '.join(changed)} differ" if changed else "its model or data files have changed since"
        raise InputError(f"{run.folder} holds another run: {what}; choose another --out, or --overwrite")
    result = _finished(run)
    if result is None and found["settings"] != record["settings"]:
        run.write("run.json", found | {"settings": record["settings"]})
    return result


def _into_budget(context: Context, strategy: Strategy) -> dict[str, Any]:
    """Chooses, tunes and verifies; where the measured latency is over the budget, tightens the target and repeats.

    `attempts.json` keeps what was measured over what was predicted, and the failure where it was over the budget.
    """
    run, budget_us = context.run, context.budget_us
    while True:
        attempts = _attempts(run)
        target_us = budget_us * MARGIN / next_action.correction(attempts)
        failures = [attempt.failure for attempt in attempts if attempt.failure]
        if failures and target_us <= context.floor_us:
            raise BudgetError(f"{failures[-1]}; tightened by that, the prediction leaves no model at all")
        strategy.choose(target_us)
        predicted = run.read("chosen.json")["predicted_us"] / budget_us
        verdict = precheck(context)
        action, over = next_action.after_precheck(attempts, verdict, predicted)
        if action == "tune":
            if strategy.searched:
                measure_front(context)
            tune(context, begin=strategy.begin)
            verdict = verify(context)
            action, over = next_action.after_verify(attempts, verdict, predicted)
        if action == "finish":
            tuned = structures(context) if context.run_plan.compares else {}
            return _finish(context, compare(context, tuned) if tuned or context.beside else "candidate")
        if action == "loosen":
            _keep(run, [*attempts, Attempt(over, None)])
            run.reporter.say(
                f"the structure measured {verdict.describe()}, at most {over:.0%} of its prediction: "
                "choosing again with the predictor loosened"
            )
            continue
        failure = (
            f"attempt {len(failures) + 1}: the pruned model measured {verdict.describe()}, "
            f"the budget is {context.budget} = {budget_us:.0f} us"
        )
        if action != "tighten":
            for stage in ("gate", "verify"):  # the same command measures again
                run.forget(stage)
            noisy = "the machine is too noisy to judge: run it again when it is quiet"
            raise BudgetError(f"{failure}; {noisy if action == 'wait' else 'giving up'}")
        _keep(run, [*attempts, Attempt(over, failure)])
        run.reporter.say(f"{failure}; choosing again with the predictor tightened")


def _attempts(run: Run) -> list[Attempt]:
    return [Attempt(**each) for each in run.read("attempts.json")] if run.path("attempts.json").exists() else []


def _keep(run: Run, attempts: list[Attempt]) -> None:
    run.write("attempts.json", [asdict(attempt) for attempt in attempts])


def _finish(context: Context, answer: str) -> dict[str, Any]:
    """Turns the model in the folder `answer` into the artifact, with what was measured on its card, and writes the
    report."""
    run = context.run
    verified: dict[str, Any] = run.read("verify.json")
    candidate = artifact.read(run.path(answer))
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
    if better := kept_files(run):
        result["better"] = {name: str(file) for name, file in better.items()}
    run.write(RESULT, result)
    shutil.rmtree(run.path("candidate"))
    if context.runs == 1:
        discard_alternatives(run)
    return result


def _finished(run: Run) -> dict[str, Any] | None:
    """The result of a run that had come to its end before."""
    if not (run.path(RESULT).exists() and run.path("artifact").exists()):
        return None
    shutil.rmtree(run.path("candidate"), ignore_errors=True)
    run.reporter.say("this run is finished: nothing is left to do")
    result: dict[str, Any] = run.read(RESULT)
    return result
