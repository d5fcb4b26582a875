"""The checkpoints of a training: what they are of, which of them are whole, and which is the newest."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prunetime.errors import InputError
from prunetime.models.batches import TrainingData
from prunetime.models.encoder import SequenceClassifier
from prunetime.training.settings import TrainingSettings

COMPUTED_ON = ("threads", "precision", "device")
"""Settings that change how sums are rounded, and not what is trained: checkpoints go on under others."""

COMPLETE = "complete"
"""Marker file of a checkpoint that is whole; written last."""

KEPT = 2
"""The newest checkpoints, as many as are kept."""


def training_digest(
    model: SequenceClassifier,
    data: TrainingData,
    settings: TrainingSettings,
    teacher: SequenceClassifier | None,
    beside: str,
) -> str:
    """The sha256 of everything that a training depends on, `beside` for what the other arguments do not have."""
    # Settings that are off are left out: checkpoints of versions that did not know them go on.
    given = _without_none(asdict(settings) | {"distillation": _without_none(asdict(settings.distillation))})
    trained = {name: value for name, value in given.items() if name not in COMPUTED_ON}
    total = hashlib.sha256(f"{data.digest()} {trained} {beside}".encode())
    for module in (model, *([teacher] if teacher else [])):
        total.update(f"{module.config} {module.spec}".encode())
        for name, tensor in module.state_dict().items():
            total.update(f"{name} {tuple(tensor.shape)}".encode())
            total.update(tensor.contiguous().numpy().data)
    return total.hexdigest()


def claim(checkpoints: Path, digest: str) -> None:
    """Makes the folder that of the training with this digest, without checkpoints that a kill left half-written.

    Raises InputError where the folder is another training's.
    """
    checkpoints.mkdir(parents=True, exist_ok=True)
    owner = checkpoints / "inputs.sha256"
    if owner.exists() and owner.read_text() not in ("", digest):
        raise InputError(
            f"{checkpoints} has checkpoints of other data, settings or weights; delete it or choose another folder"
        )
    owner.write_text(digest)
    for checkpoint in checkpoints.glob("checkpoint-*"):
        if not (checkpoint / COMPLETE).exists():
            shutil.rmtree(checkpoint)


def checkpoint_of(checkpoints: Path, step: int) -> Path:
    return checkpoints / f"checkpoint-{step}"


def mark_complete(checkpoints: Path, step: int) -> None:
    """Marks the checkpoint of a step as whole, and removes all but the newest.

    Not by Trainer's own `save_total_limit`, which goes by the times of files and warns where they are close.
    """
    (checkpoint_of(checkpoints, step) / COMPLETE).touch()
    for old in _oldest_first(checkpoints)[:-KEPT]:
        shutil.rmtree(old)


def newest(checkpoints: Path) -> Path | None:
    return next(reversed(_oldest_first(checkpoints)), None)


def discard_checkpoints(folder: Path) -> None:
    """Frees the disk space of a training in `folder`, once the trained model is saved."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def _oldest_first(checkpoints: Path) -> list[Path]:
    return sorted(checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
