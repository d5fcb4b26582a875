"""Losses in TensorBoard, from a training that ends in the same weights as without; trackers that are not there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cases import random_config, random_ragged, random_weights
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from prunetime.core.arch import ArchSpec
from prunetime.core.task import Task
from prunetime.errors import InputError
from prunetime.models.batches import TrainingData
from prunetime.models.encoder import from_weights, weights_of
from prunetime.training.settings import TrainingSettings
from prunetime.training.tracking import reporting
from prunetime.training.trainer import fit

TASK = Task("classification", ("a", "b"), ("text",), 24)


def trained(folder: Path) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    config = random_config(rng, layers=1, outputs=2)
    model = from_weights(config, random_weights(config, ArchSpec.full(config.dims), rng))
    data = TrainingData(random_ragged(config, rng, rng.integers(3, 20, 160)), rng.integers(0, 2, 160), TASK, 0)
    fit(model, data, TrainingSettings(4.0, batch_size=16, threads=1), folder)
    return weights_of(model)


def test_losses_are_in_tensorboard_and_weights_are_the_same(tmp_path: Path) -> None:
    plain = trained(tmp_path / "plain" / "work" / "teacher")
    run = tmp_path / "run"
    with reporting(("tensorboard",), run):
        tracked = trained(run / "work" / "teacher")
    for name, array in plain.items():
        np.testing.assert_array_equal(tracked[name], array, err_msg=name)
    events = EventAccumulator(str(run / "tracking" / "teacher")).Reload()
    losses = events.Scalars("train/loss")
    assert [each.step for each in losses] == [10, 20, 30, 40]
    assert all(np.isfinite(each.value) for each in losses)
    assert not (tmp_path / "plain" / "tracking").exists()


def test_trackers_that_are_not_there_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="nothing called 'paper' can be reported to; there are tensorboard, mlflow"):
        reporting(("paper",), tmp_path).__enter__()
    monkeypatch.setattr("prunetime.training.tracking.find_spec", lambda _: None)
    with pytest.raises(InputError, match="wandb is not installed: pip install wandb"):
        reporting(("wandb",), tmp_path).__enter__()
