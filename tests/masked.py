"""What tests of learned masks train on, and masks as mask variables."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from prunetime.core.mask import PARTS, Mask
from prunetime.core.task import Task
from prunetime.inference.ragged import Ragged
from prunetime.models.batches import TrainingData
from prunetime.models.mask_variables import BlockMaskVariables, MaskVariables

TASK = Task("classification", ("no", "yes"), ("text",), 16)


def data(rows: int = 64) -> TrainingData:
    rng = np.random.default_rng(0)
    ids = [rng.integers(3, 60, length).tolist() for length in rng.integers(3, 14, rows)]
    return TrainingData(Ragged.of(ids), rng.integers(0, 2, rows), TASK, 0)


def from_mask(mask: Mask) -> list[MaskVariables]:
    """Returns mask variables of one for what `mask` keeps and zero for the rest."""
    layers = []
    for layer in mask.layers:
        parts: dict[str, Any] = {name: torch.from_numpy(getattr(layer, name).astype("float32")) for name in PARTS}
        blocks = {matrix: BlockMaskVariables.of(kept) for matrix, kept in layer.blocks.items()}
        layers.append(MaskVariables(**parts, blocks=blocks, tokens=layer.tokens))
    return layers
