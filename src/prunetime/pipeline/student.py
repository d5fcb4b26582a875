"""Training the models of a run, and writing them as artifacts of its task."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prunetime._version import __version__
from prunetime.core import artifact
from prunetime.core.arrays import Weights
from prunetime.core.mask import Mask
from prunetime.core.precision import PrecisionPlan
from prunetime.core.progress import Progress
from prunetime.inference.engine import Engine
from prunetime.models.batches import TrainingData
from prunetime.models.compact import compact, ordered
from prunetime.models.distill import Distillation
from prunetime.models.encoder import SequenceClassifier, from_weights, weights_of
from prunetime.pipeline.context import Context
from prunetime.pipeline.planning import rate_of_width
from prunetime.pipeline.pretrained import artifact_files
from prunetime.pipeline.run import Run
from prunetime.pipeline.source import Source
from prunetime.pruning.importance import load_scores
from prunetime.pruning.repair import repair
from prunetime.tasks.metrics import agreed_labels
from prunetime.training.distributed import fit_on_every_rank
from prunetime.training.head_start import start_head

if TYPE_CHECKING:
    from prunetime.training.settings import TrainingSettings
    from prunetime.training.stopping import LearningCurve

THREADS = len(os.sched_getaffinity(0))
"""Training and scoring use every core; what is timed uses as many threads as the budget says."""


LEAST_BETWEEN_LOOKS = 20
"""The fewest steps between two looks at valid rows."""


def training_settings(context: Context, epochs: float, learning_rate: float, batch_size: int = 32) -> TrainingSettings:
    """The settings that teacher and sub-networks are trained with."""
    from prunetime.training.settings import TrainingSettings, best_device, best_precision

    threads = max(1, THREADS // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))  # torchrun's ranks of this machine
    return TrainingSettings(
        epochs,
        batch_size,
        learning_rate,
        seed=context.settings.seed,
        threads=threads,
        precision=best_precision(),
        device=best_device(),
        distillation=Distillation(task=float(context.source.labelled)),
    )


def until_valid_rows_say(context: Context, settings: TrainingSettings, rows: int) -> TrainingSettings:
    """The settings of the same training, but for that it ends when valid rows do not get better; as the plan says."""
    from prunetime.training.stopping import Stopping

    looks = context.run_plan.looks
    if not looks:
        return settings
    half_epoch = math.ceil(settings.steps(rows) / settings.epochs / 2)
    every = max(LEAST_BETWEEN_LOOKS, min(math.ceil(settings.steps(rows) / looks), half_epoch))
    return replace(settings, stopping=Stopping(every))


def metric_on_valid(
    context: Context, plan: PrecisionPlan | None = None, source: Source | None = None
) -> Callable[[SequenceClassifier], float]:
    """Gives the metric of a torch model on valid rows, such that higher is better, by the engine that runs `plan`.

    Without one the engine multiplies in the precision of the training: what is told apart is steps, not roundings.
    The model reads rows as those of `source`, by default the run's own.
    """
    from prunetime.training.settings import best_precision

    plan = plan or PrecisionPlan.uniform(best_precision())
    metric = context.metric_of(source or context.source)

    def value(model: SequenceClassifier) -> float:
        engine = Engine(model.config, weights_of(model), THREADS, spec=model.spec, plan=plan)
        return context.better(metric(engine))

    return value


def note_computer(run: Run) -> None:
    """Leaves what the run's trainings are computed on as `computer.json`; says what of it has changed since then."""
    from prunetime.training.settings import best_device, best_precision

    processes = int(os.environ.get("WORLD_SIZE", "1"))
    here = {"CPUs": THREADS, "processes": processes, "device": best_device(), "precision": best_precision()}
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


def distil(
    context: Context,
    student: SequenceClassifier,
    folder: Path,
    progress: Progress,
    plan: PrecisionPlan = PrecisionPlan(),
    *,
    order: float | None = None,
) -> LearningCurve:
    """Trains `student`, distilled from the teacher, in the end as the engine will run it with `plan`.

    With `order` the order of each group's rows is distilled, too, with this weight. Checkpoints go to `folder`. Returns
    what the training came to by steps.
    """
    dense, rows, seed = context.teacher, context.run_plan.tune_rows, tuning_seed(context)
    data = context.source.training_data(rows, seed, by_group=order is not None)
    training = tuning_settings(context, len(data), plan, order)
    teacher_model, value = from_weights(dense.manifest.config, dense.weights), metric_on_valid(context, plan)
    return fit_on_every_rank(student, data, training, folder, teacher_model, progress, value=value).curve


def distil_other(
    context: Context,
    source: Source,
    folder: Path,
    progress: Progress,
    plan: PrecisionPlan = PrecisionPlan(),
    *,
    order: float | None = None,
) -> LearningCurve:
    """Trains the pretrained model of `source` as `distil` does: from the same teacher, on the same rows, for as many
    steps.

    It reads tokens of its own, and has another shape: what the teacher says of each row is all that it is distilled
    from. Where its folder has no head for the task, it begins with one of the frozen encoder, as a teacher does.
    """
    student, data = source.pretrained.model, taught(context, source, by_group=order is not None)
    if not source.pretrained.has_head:
        start_head(student, data, THREADS)
    training = tuning_settings(context, len(data), plan, order)
    rate = rate_of_width(student.config.dims.hidden, training.learning_rate)
    training, value = replace(training, learning_rate=rate), metric_on_valid(context, plan, source)
    return fit_on_every_rank(student, data, training, folder, None, progress, value=value).curve


def taught(context: Context, source: Source, *, by_group: bool = False) -> TrainingData:
    """The rows that the pruned model is tuned on, as those of `source`, with the teacher's logits; and with its labels,
    where they have none."""
    own, rows, seed = context.source, context.run_plan.tune_rows, tuning_seed(context)
    data = source.training_data(rows, seed, by_group=by_group)
    read = own.train.select(own.drawn(rows, seed, by_group=by_group))
    logits = engine_of(context.teacher).logits(read.tokens)
    scores = read.scores(logits)
    if own.task.traits.reads_apart:
        logits = np.asarray(scores[:, None], np.float32)
    labels = data.labels if own.labelled else agreed_labels(own.task, own.task.at_half(scores))
    return replace(data, labels=labels, teacher_logits=logits)


def tuning_seed(context: Context) -> int:
    """The seed that draws the rows of the tuning."""
    return context.settings.seed + 1


def tuning_settings(context: Context, rows: int, plan: PrecisionPlan, order: float | None = None) -> TrainingSettings:
    """The settings of a tuning on so many rows, in the end as the engine will run it with `plan`; `order` weighs the
    rank-consistency loss."""
    from prunetime.training.settings import FakeQuantisation

    amounts = context.run_plan
    training = training_settings(context, amounts.tune_epochs, amounts.tune_learning_rate)
    training = until_valid_rows_say(context, training, rows)
    training = replace(training, distillation=replace(training.distillation, order=order))
    if plan != PrecisionPlan():
        training = replace(training, fake_quantisation=FakeQuantisation(plan))
    return training


def sub_network(context: Context, weights: Weights, mask: Mask) -> SequenceClassifier:
    """The sub-network that `mask` leaves of the dense model, with these `weights` of it, repaired; where it drops
    tokens, as it is."""
    dense, rows, seed = context.teacher, context.run_plan.tune_rows, tuning_seed(context)
    student = from_weights(dense.manifest.config, weights, spec=mask.spec())
    if all(layer.tokens == 1.0 for layer in student.spec.layers):
        whole = from_weights(dense.manifest.config, dense.weights)
        repair(student, whole, context.source.training_data(rows, seed), seed, THREADS)
    return student


def ordered_teacher(context: Context) -> Weights:
    """The weights of the teacher, heads and FFN neurons of every layer in order of importance."""
    dims = context.config.dims
    return ordered(context.teacher.weights, load_scores(context.run.path("importance.safetensors"), dims), dims)


def kept_of(elastic: artifact.Artifact, mask: Mask) -> Weights:
    """The weights of what `mask` keeps of the elastic encoder."""
    return compact(elastic.weights, mask, elastic.manifest.config.dims)


def engine_of(model: artifact.Artifact, plan: PrecisionPlan | None = None) -> Engine:
    """The engine of an artifact on every core, which runs `plan` or else the artifact's own."""
    return Engine.of(model, THREADS, plan)


def manifest_of(source: Source, model: SequenceClassifier, plan: PrecisionPlan, provenance: Any) -> artifact.Manifest:
    """The manifest of an artifact of `model` for the run's task."""
    return artifact.Manifest(model.config, model.spec, plan, source.task, {"prunetime": __version__, **provenance})


def write_artifact(folder: Path, source: Source, manifest: artifact.Manifest, weights: Weights) -> None:
    """Writes an artifact of the run's task, in place of what was there. Where labels have a threshold, it is the one
    that is best for the model on valid rows."""
    if manifest.task.traits.is_multi_label:
        engine = Engine(manifest.config, weights, THREADS, spec=manifest.spec, plan=manifest.plan)
        manifest = replace(manifest, task=source.task_for(engine))
    files = artifact_files(manifest, weights, source.tokenizer_files)
    shutil.rmtree(folder, ignore_errors=True)
    artifact.write(folder, manifest, weights, files)
