"""The stages that learn masks in place of searching: of one level, or of heads and FFN neurons and then of blocks of
what these leave (MLPruning, arXiv 2105.14636)."""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

from prunetime.core import artifact
from prunetime.core.arch import ArchSpec
from prunetime.core.arrays import Weights
from prunetime.core.mask import Mask, Scores
from prunetime.core.progress import Progress
from prunetime.errors import BudgetError
from prunetime.models.compact import compact, in_blocks, prefix_mask
from prunetime.models.encoder import SequenceClassifier, from_weights, weights_of
from prunetime.pipeline.context import Context, stage
from prunetime.pipeline.run import Run, digest_of
from prunetime.pipeline.stages.profile import MARGIN
from prunetime.pipeline.stages.search import leave_chosen
from prunetime.pipeline.student import (
    THREADS,
    distil,
    kept_of,
    manifest_of,
    sub_network,
    training_settings,
    write_artifact,
)
from prunetime.pruning.importance import load_scores, measure_block_importance, rank_transform
from prunetime.pruning.masks import Learned, MaskStep, mask_of
from prunetime.pruning.methods import LEARNED, Granularity, LearnedMethod
from prunetime.pruning.pruners import learning_rate
from prunetime.pruning.regularise import Microseconds
from prunetime.search.archive import Archive
from prunetime.settings import Settings
from prunetime.training.checkpoints import discard_checkpoints
from prunetime.training.distributed import fit_on_every_rank

OF_ROWS = 0.75
"""Where blocks follow, heads and FFN neurons leave this power of the share that is left in the end of the latency above
the floor: most of it is theirs, because at the same size they lose less than blocks do (docs/benchmarks.md)."""

EPOCHS = 2.0
"""For each level, times those of tuning."""

OF = {"rows": "heads and rows", "blocks": "blocks"}


@dataclass(frozen=True)
class Left:
    """The names of what learning a level leaves in the run folder."""

    artifact: str
    mask: str
    ratios: str


ROWS, LAST = Left("rows", "rows.json", "rows-ratios.json"), Left("learned", "mask.json", "learned-ratios.json")


@dataclass(frozen=True)
class Start:
    """The beginning of a level: the artifact called `name`, which is what `mask` keeps of the teacher."""

    name: str
    model: artifact.Artifact
    mask: Mask

    @classmethod
    def of_teacher(cls, context: Context) -> Start:
        return cls("teacher", context.teacher, Mask.full(context.config.dims))

    @classmethod
    def of_rows(cls, context: Context) -> Start:
        """The teacher, as its pruned heads and FFN neurons left it."""
        mask = Mask.from_json(context.run.read("rows.json"))
        return cls("rows", artifact.read(context.run.path("rows")), mask)


def method_of(context: Context) -> LearnedMethod:
    return LEARNED[context.settings.method]


def learn_structure(context: Context, target_us: float, other: Path | None) -> None:
    """Learns masks of all levels of the run's method, down to `target_us`; leaves `learned`, `mask.json` and
    `chosen.json`.

    Of two levels, the first is that of `rows`, or the best that the finished search in the folder `other` found.
    """
    levels, start = method_of(context).levels, Start.of_teacher(context)
    if len(levels) > 1:
        rows_us = _rows_us(context)
        if other:
            _tune_searched_rows(context, other, rows_us)
        else:
            learn_rows(context, level="rows", start=start, target_us=rows_us, left=ROWS)
        start = Start.of_rows(context)
    learn_last(context, level=levels[-1], start=start, target_us=target_us, left=LAST)
    predicted_us = _cost(context)(Mask.from_json(context.run.read("mask.json")).spec())
    leave_chosen(context.run, _digest(context, start.name, target_us), predicted_us)


def learned_weights(context: Context) -> Weights:
    return dict(artifact.read(context.run.path(LAST.artifact)).weights)


def _cost(context: Context) -> Microseconds:
    return Microseconds(context.latency, context.budget)


def _rows_us(context: Context) -> float:
    """The microseconds to which heads and FFN neurons go where blocks follow."""
    floor_us, dense_us = context.floor_us, context.dense_in_plan_us
    left = max(0.0, min(1.0, (context.budget_us * MARGIN - floor_us) / (dense_us - floor_us)))
    return float(floor_us + (dense_us - floor_us) * left**OF_ROWS)


def _digest(context: Context, start: str, target_us: float) -> str:
    manifest = context.run.path(f"{start}/manifest.json").read_text()
    settings = context.settings
    return digest_of([manifest, target_us, settings.block_shape, context.run_plan.to_json(), settings.seed])


def _learn_inputs(context: Context, start: Start, target_us: float, **_: Any) -> str:
    return _digest(context, start.name, target_us)


def _learn(
    context: Context, progress: Progress, level: Granularity, start: Start, target_us: float, left: Left
) -> None:
    """Learns the masks of one level, distilled from what it starts from, down to a predicted latency."""
    config, run, pruner = start.model.manifest.config, context.run, method_of(context).pruner
    model = from_weights(config, start.model.weights, spec=start.mask.spec())
    scores = rank_transform(_first_scores(context, level, model))
    block_shape = context.settings.block_shape if level == "blocks" else None
    step = MaskStep(config.dims, start.mask.spec(), _cost(context), target_us, block_shape, scores, pruner=pruner)
    learned = _train(context, model, start, step, progress)
    mask = mask_of(step, learned.kept, start.mask)
    weights = weights_of(model)
    kept = in_blocks(weights, mask) if block_shape else compact(weights, mask, config.dims)
    run.write(left.mask, mask.to_json())
    names = [f"{layer} {name.replace('_', ' ')}" for layer, own in enumerate(learned.kept) for name in own]
    ratios = learned.ratios.astype(float).round(4).tolist()
    run.write(left.ratios, {"of": OF[level], "target_us": target_us, "masks": names, "ratios": ratios})
    _leave(context, left.artifact, start.model, kept, mask.spec())


def _learn_title(_: Context, level: Granularity, target_us: float, **__: Any) -> str:
    return f"Learn which {OF[level]} to keep, down to {target_us:.0f} us"


learn_rows = stage("learn-{level}", _learn_title, astuple(ROWS), _learn_inputs)(_learn)
learn_last = stage("learn-{level}", _learn_title, astuple(LAST), _learn_inputs)(_learn)


def _searched_inputs(context: Context, theirs: Context, mask: Mask, rows_us: float) -> list[Any]:
    return [theirs.archive_digest, mask.to_json(), _digest(context, "teacher", rows_us)]


@stage(
    "learn-rows",
    lambda _, rows_us, **__: f"Tune what the search found within {rows_us:.0f} us",
    ["rows", "rows.json"],
    _searched_inputs,
)
def tune_rows(context: Context, progress: Progress, theirs: Context, mask: Mask, **_: Any) -> None:
    """Tunes the best heads and FFN neurons of a finished search, for blocks to be learned on."""
    folder = context.run.path("work/rows")
    student = sub_network(context, kept_of(theirs.elastic, mask), mask)
    distil(context, student, folder, progress)
    context.run.write("rows.json", mask.to_json())
    _leave(context, "rows", context.teacher, weights_of(student), mask.spec())
    discard_checkpoints(folder)


def _tune_searched_rows(context: Context, folder: Path, rows_us: float) -> None:
    """Takes as `rows` the best that the finished search in `folder` has in that latency, tuned.

    Raises BudgetError where all that it has drops tokens, or has blocks already.
    """
    run, dims = Run(folder, context.run.reporter), context.config.dims
    theirs = Context(run, Settings.from_json(run.read("run.json")["settings"]))
    with Archive(run.path("evaluations.jsonl"), theirs.archive_digest) as archive:
        specs = [theirs.settings.space(dims).spec(evaluation.genome) for evaluation in archive.within(rows_us)]
    plain = [spec for spec in specs if not any(layer.blocks or layer.tokens < 1.0 for layer in spec.layers)]
    if not plain:
        raise BudgetError(f"the search in {folder} has nothing of heads and rows alone within {rows_us:.0f} us")
    mask = prefix_mask(theirs.elastic.weights, plain[0], dims)
    tune_rows(context, theirs=theirs, mask=mask, rows_us=rows_us)


def _first_scores(context: Context, level: Granularity, model: SequenceClassifier) -> Scores:
    settings = context.settings
    if level == "rows":
        return load_scores(context.run.path("importance.safetensors"), model.config.dims)
    assert settings.block_shape is not None
    rows = context.run_plan.importance_rows
    data = context.source.training_data(rows, settings.seed)
    return measure_block_importance(
        model, data, settings.block_shape, settings.importance, rows, settings.seed, threads=THREADS
    )


def _train(context: Context, model: SequenceClassifier, start: Start, step: MaskStep, progress: Progress) -> Learned:
    amounts, settings = context.run_plan, context.settings
    data = context.source.training_data(amounts.tune_rows, settings.seed + 2)
    training = training_settings(context, EPOCHS * amounts.tune_epochs, amounts.tune_learning_rate)
    training = replace(training, distillation=replace(training.distillation, attention=1.0))
    step = replace(step, learning_rate=learning_rate(training.steps(len(data)), step.pruner))
    folder = context.run.path(f"work/learn-{'blocks' if step.block_shape else 'rows'}")
    manifest = start.model.manifest
    teacher = from_weights(manifest.config, start.model.weights, spec=manifest.spec)
    learned = fit_on_every_rank(model, data, training, folder, teacher, progress, mask_step=step).learned
    assert learned is not None
    discard_checkpoints(folder)
    return learned


def _leave(context: Context, name: str, teacher: artifact.Artifact, weights: Weights, spec: ArchSpec) -> None:
    model = from_weights(teacher.manifest.config, weights, spec=spec)
    provenance = {"role": name, "model": context.settings.model}
    manifest = manifest_of(context.source, model, context.plan, provenance)
    write_artifact(context.run.path(name), context.source, manifest, weights)
