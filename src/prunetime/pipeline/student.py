"""Training the models of a run, and writing them as artifacts of its task."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunetime._version import __version__
from prunetime.core import artifact
from prunetime.core.arrays import Weights
from prunetime.core.mask import Mask
from prunetime.core.precision import PrecisionPlan
from prunetime.core.progress import Progress
from prunetime.inference.engine import Engine
from prunetime.models.compact import compact
from prunetime.models.encoder import SequenceClassifier, from_weights
from prunetime.pipeline.context import Context
from prunetime.pipeline.pretrained import artifact_files
from prunetime.pipeline.run import Run
from prunetime.pipeline.source import Source
from prunetime.training.distributed import fit_on_every_rank

if TYPE_CHECKING:
    from prunetime.training.settings import TrainingSettings

THREADS = len(os.sched_getaffinity(0))
"""Training and scoring use every core; what is timed uses as many threads as the budget says."""


def training_settings(context: Context, epochs: float, learning_rate: float) -> TrainingSettings:
    """The settings that teacher and sub-networks are trained with."""
    from prunetime.training.settings import TrainingSettings, best_device, best_precision

    threads = max(1, THREADS // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))  # torchrun's ranks of this machine
    return TrainingSettings(
        epochs,
        learning_rate=learning_rate,
        seed=context.settings.seed,
        threads=threads,
        precision=best_precision(),
        device=best_device(),
    )


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


def distil(context: Context, student: SequenceClassifier, folder: Path, progress: Progress) -> None:
    """Trains `student`, distilled from the teacher; checkpoints go to `folder`."""
    effort, dense = context.effort, context.teacher
    training = training_settings(context, effort.tune_epochs, effort.tune_learning_rate)
    data = context.source.training_data(effort.tune_rows, context.settings.seed + 1)
    teacher_model = from_weights(dense.manifest.config, dense.weights)
    fit_on_every_rank(student, data, training, folder, teacher=teacher_model, on_progress=progress)


def kept_of(elastic: artifact.Artifact, mask: Mask) -> Weights:
    """The weights of what `mask` keeps of the elastic encoder."""
    return compact(elastic.weights, mask, elastic.manifest.config.dims)


def engine_of(unpruned: artifact.Artifact) -> Engine:
    return Engine(unpruned.manifest.config, unpruned.weights, THREADS, plan=unpruned.manifest.plan)


def manifest_of(source: Source, model: SequenceClassifier, plan: PrecisionPlan, provenance: Any) -> artifact.Manifest:
    """The manifest of an artifact of `model` for the run's task."""
    return artifact.Manifest(model.config, model.spec, plan, source.task, {"prunetime": __version__, **provenance})


def write_artifact(folder: Path, source: Source, manifest: artifact.Manifest, weights: Weights) -> None:
    """Writes an artifact of the run's task, in place of what was there."""
    files = artifact_files(manifest, weights, source.tokenizer_files)
    shutil.rmtree(folder, ignore_errors=True)
    artifact.write(folder, manifest, weights, files)
