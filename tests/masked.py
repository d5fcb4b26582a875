"""What tests of learned masks train on."""

from __future__ import annotations

import numpy as np

from prunetime.core.task import Task
from prunetime.inference.ragged import Ragged
from prunetime.models.batches import TrainingData

TASK = Task("classification", ("no", "yes"), ("text",), 16)


def data(rows: int = 64) -> TrainingData:
    rng = np.random.default_rng(0)
    ids = [rng.integers(3, 60, length).tolist() for length in rng.integers(3, 14, rows)]
    return TrainingData(Ragged.of(ids), rng.integers(0, 2, rows), TASK, 0)
