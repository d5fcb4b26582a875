"""Small encoders, data and settings for tests of training."""

import dataclasses

import numpy as np
import torch
from cases import random_config

from prunetime.core.arch import ArchSpec, Dims, KeptBlocks
from prunetime.core.task import Task
from prunetime.inference.ragged import Ragged
from prunetime.models.batches import TrainingData
from prunetime.models.encoder import SequenceClassifier, weights_of
from prunetime.models.losses import task_losses
from prunetime.search.elastic import Sandwich
from prunetime.search.space import Space
from prunetime.training.settings import TrainingSettings

SIZES = {"layers": 2, "hidden": 32, "heads": 2, "head_dim": 16, "ffn": 64, "vocabulary": 60, "positions": 16}
CLASSES = Task("classification", ("no", "yes"), ("text",), 16)
RELEVANCE = Task("relevance", (), ("text",), 16)
REGRESSION = Task("regression", (), ("text",), 16)
SETTINGS = TrainingSettings(epochs=3.0, batch_size=8, learning_rate=2e-3, checkpoint_steps=5)
DIMS = Dims(**SIZES)
SUB_NETWORKS = Sandwich(Space(DIMS, tokens=True), 0.3, 12)


def config(task: Task = CLASSES):
    return random_config(np.random.default_rng(0), **SIZES, outputs=task.outputs)


def dense(task: Task = CLASSES, dropout: float = 0.1) -> SequenceClassifier:
    torch.manual_seed(1)
    return SequenceClassifier(config(task), dropout=dropout)


def half(task: Task = CLASSES) -> SequenceClassifier:
    torch.manual_seed(2)
    return SequenceClassifier(config(task), ArchSpec.of(config(task).dims, [1, 1], [32, 32]))


def made(task: Task = CLASSES, rows: int = 60, seed: int = 0) -> TrainingData:
    """Rows are good where they have one of the tokens 40 to 44; tokens 50 to 59 never occur."""
    rng = np.random.default_rng(seed)
    ids = [rng.integers(3, 40, length) for length in rng.integers(2, 14, rows)]
    good = rng.random(rows) < 0.5
    for row in np.flatnonzero(good):
        ids[row][rng.integers(0, len(ids[row]))] = rng.integers(40, 45)
    labels = good.astype(np.int64) if task.kind == "classification" else good.astype(np.float32) * 0.8 + 0.1
    return TrainingData(Ragged.of([row.tolist() for row in ids]), labels, task, 0)


def loss_of(model: SequenceClassifier, data: TrainingData) -> float:
    batch = data.batch(range(len(data)))
    labels = batch.pop("labels")
    with torch.no_grad():
        return task_losses(model.eval()(**batch).logits, labels, data.task).mean().item()


def digest(model: SequenceClassifier) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in weights_of(model).items()}


def dropping(blocks: tuple[KeptBlocks, ...] = ()) -> SequenceClassifier:
    """As `dense`, but half of the tokens leave in the first layer; those of id 40 to go last."""
    separated = dataclasses.replace(config(), separator=40)
    torch.manual_seed(1)
    return SequenceClassifier(separated, ArchSpec.full(separated.dims).with_layer(0, tokens=0.5, blocks=blocks))
