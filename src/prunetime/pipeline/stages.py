"""The stages between reading the sources and verifying: each turns earlier outputs into files of the run folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from prunetime._version import __version__
from prunetime.core import artifact
from prunetime.core.arch import ArchSpec
from prunetime.core.budget import Budget
from prunetime.core.mask import Mask
from prunetime.core.precision import PrecisionPlan
from prunetime.errors import InputError
from prunetime.inference.engine import Engine
from prunetime.latency import plans, profiling
from prunetime.latency.predictor import LatencyProfile
from prunetime.latency.sublayers import ProfileKey
from prunetime.latency.synthetic import random_batch, random_weights
from prunetime.models.compact import compact, ordered
from prunetime.models.encoder import SequenceClassifier, from_weights, weights_of
from prunetime.pipeline.pretrained import artifact_files
from prunetime.pipeline.run import Progress, Run, digest_of, digest_of_files
from prunetime.pipeline.settings import AUTO, Settings
from prunetime.pipeline.source import Source
from prunetime.pruning.importance import load_scores, measure_importance, save_scores
from prunetime.search.elastic import Sandwich
from prunetime.training.together import fit_on_every_rank

if TYPE_CHECKING:
    from prunetime.training.trainer import TrainingSettings

THREADS = len(os.sched_getaffinity(0))
"""Training and scoring use every core; what is timed uses as many threads as the budget says."""

SMALLEST = 0.05
"""Elastic training goes down to half the budget, but not below this share of the weights."""

SCORE = "agreement"
"""What a score is; archives of other scores are refused."""

MARGIN = 0.97
"""The search aims this far inside the budget, because predictions are off by a few per cent."""


class Models(NamedTuple):
    """What a search starts from."""

    teacher: artifact.Artifact
    elastic: artifact.Artifact


def search_plan(run: Run, source: Source, settings: Settings) -> PrecisionPlan:
    """The plan that latencies are predicted for: the precision asked for or, for `auto`, the fastest uniform one."""
    budget, config = settings.budget, source.pretrained.config

    def work(_: Progress) -> None:
        plan = PrecisionPlan()
        if settings.precision == AUTO:
            dense = ArchSpec.full(config.dims)
            model = plans.EngineArguments(config, random_weights(config, dense), dense, budget.threads)
            plan = plans.fastest_uniform(model, random_batch(config, budget.batch, budget.seq_len))
        else:
            plan = PrecisionPlan.uniform(settings.precision)
        run.write("plan.json", plan.to_json())

    run.do("plan", "Choose the precision to search in", [settings.precision, budget.to_json()], ["plan.json"], work)
    return PrecisionPlan.from_json(run.read("plan.json"))


def profile(run: Run, source: Source, settings: Settings, plan: PrecisionPlan, given: Path | None) -> LatencyProfile:
    """Measures this machine, or takes the recorded profile `given`; refuses a budget below the floor.

    Raises:
        ProfileError: the given profile is of another machine, engine build, model or setting, or lacks the blocks or
            the dropped tokens of `settings`.
        InputError: tokens are to be dropped where the head reads every token's row, or the budget is too small.
    """
    config, budget = source.pretrained.config, settings.budget
    if settings.tokens and not config.drops_tokens:
        raise InputError(
            "--tokens: no token of this model can be dropped, because its head reads other rows than the first token's "
            f"or {config.family} knows distances between tokens: leave it out"
        )
    covered: Any = {"blocks": settings.block_shape, "tokens": settings.tokens}
    key = ProfileKey.here(config, budget.threads, budget.batch, budget.seq_len, plan)
    inputs = {
        "key": digest_of(key.to_json()),
        **covered,
        "given": given.read_text() if given and given.is_file() else None,
    }

    def work(progress: Progress) -> None:
        if given:
            recorded = profiling.read(given, key)
            recorded.check_covers(**covered)
        else:
            tokenizer, pair = source.tokenizer, source.task.read_together
            recorded = profiling.record(config, tokenizer, pair, budget, plan=plan, **covered, on_progress=progress)
        run.write("profile.json", recorded.to_json())

    run.do("profile", "Profile this machine" if given is None else f"Read {given}", inputs, ["profile.json"], work)
    recorded = profiling.read(run.path("profile.json"), key)
    floor_us, dense_us = recorded.floor_and_dense(budget)
    run.reporter.say(
        f"dense {dense_us:.0f} us, floor (every layer gone) {floor_us:.0f} us, budget {budget.resolve(dense_us):.0f} us"
    )
    if recorded.noisy:
        run.reporter.say("measurements of this machine disagree: it is busy, and predictions may be off")
    check_above_floor(budget, floor_us, dense_us)
    return recorded


def check_above_floor(budget: Budget, floor_us: float, dense_us: float) -> None:
    """Raises InputError where what the search aims at, `MARGIN` times the budget, is not above the floor."""
    budget_us = budget.resolve(dense_us)
    if budget_us * MARGIN > floor_us:
        return
    least_us = floor_us / MARGIN
    if budget.share is None:
        least = f"more than {least_us:.4g}us"
    elif least_us < dense_us:
        least = f"more than {100 * least_us / dense_us:.3g}%"
    else:
        least = "a time, for no share of dense is above it"
    raise InputError(
        f"the budget {budget} is {budget_us:.4g} us, of which the search aims at {MARGIN:.0%}, "
        f"{budget_us * MARGIN:.4g} us: that is not above the floor of {floor_us:.4g} us, which this model takes here "
        f"with every layer gone (dense: {dense_us:.4g} us); give --latency {least}"
    )


def teacher(
    run: Run, source: Source, settings: Settings, plan: PrecisionPlan, inputs: Mapping[str, Any]
) -> artifact.Artifact:
    """Fine-tunes the dense model (or takes it as it is) and leaves it as the artifact `teacher`, run by `plan`."""
    effort = settings.effort

    def work(progress: Progress) -> None:
        from prunetime.training.trainer import discard_checkpoints  # only here: transformers is slow to import

        model = source.pretrained.model
        if not settings.teacher_ready:
            data = source.training_data(effort.teacher_rows, settings.seed)
            training = training_settings(settings, effort.teacher_epochs, effort.learning_rate)
            fit_on_every_rank(model, data, training, run.path("work/teacher"), on_progress=progress)
        provenance = {"role": "teacher", "model": settings.model}
        write_artifact(run.path("teacher"), source, manifest_of(source, model, plan, provenance), weights_of(model))
        discard_checkpoints(run.path("work/teacher"))

    title = "Take the model as the teacher" if settings.teacher_ready else "Fine-tune the dense teacher"
    run.do("teacher", title, {**inputs, "plan": plan.to_json()}, ["teacher"], work)
    return artifact.read(run.path("teacher"))


def training_settings(settings: Settings, epochs: float, learning_rate: float) -> TrainingSettings:
    """What teacher and sub-network are trained with."""
    from prunetime.training.trainer import TrainingSettings, best_device, best_precision

    threads = max(1, THREADS // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))  # torchrun's ranks of this machine
    return TrainingSettings(
        epochs,
        learning_rate=learning_rate,
        seed=settings.seed,
        threads=threads,
        precision=best_precision(),
        device=best_device(),
    )


def note_computer(run: Run, settings: Settings) -> None:
    """Leaves what the run's trainings are computed on as `computer.json`; says what of it has changed since then."""
    training = training_settings(settings, 1.0, 1.0)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    here = {"CPUs": THREADS, "processes": processes, "device": training.device, "precision": training.precision}
    if not run.path("computer.json").exists():
        run.write("computer.json", here)
        return
    before = run.read("computer.json")
    changes = [f"{name} {before.get(name)}, now {value}" for name, value in here.items() if before.get(name) != value]
    if changes:
        run.reporter.say(
            f"this run began with {'; '.join(changes)}: it goes on, and sums are rounded in another order, so that its "
            "models are not the same to the byte as without that change"
        )


def importance(run: Run, source: Source, settings: Settings, dense: artifact.Artifact, inputs: Any) -> None:
    """How much every head and row of the teacher matters."""
    rows = settings.effort.importance_rows

    def work(progress: Progress) -> None:
        model = from_weights(dense.manifest.config, dense.weights)
        data = source.training_data(rows, settings.seed)
        scores = measure_importance(
            model, data, settings.importance, rows, settings.seed, THREADS, on_progress=progress
        )
        save_scores(scores, run.path("importance.safetensors"))

    run.do("importance", "Importance of heads and rows", inputs, ["importance.safetensors"], work)


def elastic(
    run: Run, source: Source, settings: Settings, dense: artifact.Artifact, latency: LatencyProfile
) -> artifact.Artifact:
    """Trains the sub-networks of the teacher all at once, heads and rows in order of importance.

    From half the budget to all of dense, so that the sub-networks of other budgets can be scored as well. The whole is
    distilled from the teacher, for it has seen the labels already: on labels alone it learns the rows by heart
    (docs/STATUS.md, "Measured").

    Leaves `elastic`, and in `elastic.json` the metric of teacher, elastic encoder and its smallest sub-network.
    """
    effort, budget, config = settings.effort, settings.budget, dense.manifest.config
    _, dense_us = latency.floor_and_dense(budget)
    smallest = min(1.0, max(SMALLEST, round(budget.resolve(dense_us) / dense_us / 2, 2)))
    sub_networks = Sandwich(settings.space(config.dims), smallest, budget.seq_len)

    def work(progress: Progress) -> None:
        from prunetime.training.trainer import discard_checkpoints

        scores = load_scores(run.path("importance.safetensors"), config.dims)
        model = from_weights(config, ordered(dense.weights, scores, config.dims))
        training = training_settings(settings, effort.elastic_epochs, effort.elastic_learning_rate)
        data = source.training_data(effort.elastic_rows, settings.seed + 1)
        teacher_model, folder = from_weights(config, dense.weights), run.path("work/elastic")
        fit_on_every_rank(model, data, training, folder, teacher_model, progress, sub_networks=sub_networks)
        manifest = manifest_of(source, model, dense.manifest.plan, {"role": "elastic", "model": settings.model})
        write_artifact(run.path("elastic"), source, manifest, weights_of(model))
        discard_checkpoints(run.path("work/elastic"))
        value = metric_on_valid(source, effort.finalist_rows, settings.seed)
        engine = engine_of(artifact.read(run.path("elastic")))
        measured = {"teacher": value(engine_of(dense)), "whole": value(engine)}
        engine.select(sub_networks.smallest_spec())
        run.write("elastic.json", measured | {"smallest": value(engine)})

    teacher_manifest = run.path("teacher/manifest.json").read_text()
    importance_digest = digest_of_files([run.path("importance.safetensors")])
    inputs = [teacher_manifest, importance_digest, repr(sub_networks), asdict(effort), settings.seed]
    run.do("elastic", "Train all sub-networks at once", inputs, ["elastic", "elastic.json"], work)
    found = run.read("elastic.json")
    run.reporter.say(
        f"{source.metric.name} on valid rows: teacher {found['teacher']:.4f}, elastic {found['whole']:.4f}, "
        f"its smallest sub-network ({smallest:.0%} of the weights) {found['smallest']:.4f}"
    )
    return artifact.read(run.path("elastic"))


def engine_of(unpruned: artifact.Artifact) -> Engine:
    return Engine(unpruned.manifest.config, unpruned.weights, THREADS, plan=unpruned.manifest.plan)


def metric_on_valid(source: Source, rows: int, seed: int) -> Callable[[Engine], float]:
    """The metric of an engine's answers on up to `rows` valid rows, whole groups, drawn by `seed`."""
    valid = source.roles.valid
    chosen = whole_groups(valid.groups, rows, seed)
    inputs, labels, groups = source.valid.select(chosen), valid.labels[chosen], valid.groups[chosen]
    return lambda engine: source.metric.value(inputs.scores(engine.logits(inputs.tokens)), labels, groups)


def whole_groups(groups: NDArray[np.int64], rows: int, seed: int) -> NDArray[np.int64]:
    """Indices, ascending, of the rows of randomly drawn groups: as many groups as fit into `rows`, at least one."""
    ids = np.random.default_rng(seed).permutation(np.unique(groups))
    counts = dict(zip(*np.unique(groups, return_counts=True), strict=True))
    total = np.cumsum([counts[group] for group in ids])
    drawn = ids[: max(1, int(np.searchsorted(total, rows, side="right")))]
    return np.flatnonzero(np.isin(groups, drawn))


def tune(
    run: Run,
    source: Source,
    settings: Settings,
    dense: artifact.Artifact,
    begin: Callable[[Mask], artifact.Weights],
    provenance: Any,
) -> None:
    """Distils the teacher into what `mask.json` keeps; leaves it as the artifact `candidate`.

    `begin` gives the weights of what a mask keeps, before they are tuned.
    """
    mask = Mask.from_json(run.read("mask.json"))

    def work(progress: Progress) -> None:
        from prunetime.training.trainer import discard_checkpoints

        student = from_weights(dense.manifest.config, begin(mask), spec=mask.spec())
        distil(source, settings, dense, student, run.path("work/tune"), progress)
        manifest = manifest_of(source, student, dense.manifest.plan, provenance)
        weights = weights_of(student)
        plan = final_plan(source, settings, manifest, weights)
        write_artifact(run.path("candidate"), source, replace(manifest, plan=plan), weights)
        discard_checkpoints(run.path("work/tune"))

    inputs = {"mask": mask.to_json(), "chosen": run.read("chosen.json"), "provenance": provenance}
    run.do("tune", "Tune the sub-network", inputs, ["candidate"], work)


def kept_of(elastic: artifact.Artifact, mask: Mask) -> artifact.Weights:
    """The weights of what `mask` keeps of the elastic encoder."""
    return compact(elastic.weights, mask, elastic.manifest.config.dims)


def distil(
    source: Source,
    settings: Settings,
    dense: artifact.Artifact,
    student: SequenceClassifier,
    folder: Path,
    progress: Progress,
) -> None:
    """Trains `student`, distilled from the teacher; checkpoints go to `folder`."""
    effort = settings.effort
    training = training_settings(settings, effort.tune_epochs, effort.tune_learning_rate)
    data = source.training_data(effort.tune_rows, settings.seed + 1)
    teacher_model = from_weights(dense.manifest.config, dense.weights)
    fit_on_every_rank(student, data, training, folder, teacher=teacher_model, on_progress=progress)


def final_plan(
    source: Source, settings: Settings, manifest: artifact.Manifest, weights: artifact.Weights
) -> PrecisionPlan:
    """How the candidate is run, with what that was measured to lose of the metric on valid rows against fp32."""
    if settings.precision == "fp32":
        return PrecisionPlan()
    budget, config = settings.budget, manifest.config
    value = metric_on_valid(source, settings.effort.finalist_rows, settings.seed)
    sign = 1.0 if source.metric.higher_is_better else -1.0
    quick = plans.EngineArguments(config, weights, manifest.spec, THREADS)
    exact = value(quick.engine(PrecisionPlan()))

    def loss(engine: Engine) -> float:
        return sign * (exact - value(engine))

    if settings.precision != AUTO:
        plan = PrecisionPlan.uniform(settings.precision)
        return replace(plan, quality_loss=loss(quick.engine(plan)))
    model = replace(quick, threads=budget.threads)
    batch = random_batch(config, budget.batch, budget.seq_len)
    return plans.choose(model, batch, loss, settings.max_loss)


def manifest_of(source: Source, model: SequenceClassifier, plan: PrecisionPlan, provenance: Any) -> artifact.Manifest:
    """What an artifact of `model` for the run's task says of itself."""
    return artifact.Manifest(model.config, model.spec, plan, source.task, {"prunetime": __version__, **provenance})


def write_artifact(folder: Path, source: Source, manifest: artifact.Manifest, weights: artifact.Weights) -> None:
    """Writes an artifact of the run's task, in place of what was there."""
    files = artifact_files(manifest, weights, source.tokenizer_files)
    shutil.rmtree(folder, ignore_errors=True)
    artifact.write(folder, manifest, weights, files)


def archive_digest(run: Run, settings: Settings) -> str:
    """What the scores in the archive depend on: teacher, elastic encoder and the rows scored."""
    manifests = [run.path(f"{model}/manifest.json").read_text() for model in Models._fields]
    return digest_of([SCORE, *manifests, settings.effort.score_rows, settings.seed])
