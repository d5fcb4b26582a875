"""Weights and batches for timing: speed does not depend on the values."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from prunetime.core.arch import ArchSpec
from prunetime.core.arrays import Array
from prunetime.core.artifact import weight_shapes
from prunetime.core.blocks import put_in_blocks
from prunetime.core.config import EncoderConfig
from prunetime.inference.ragged import Ragged


def random_weights(config: EncoderConfig, spec: ArchSpec) -> dict[str, Array]:
    """Weights of the right shapes and ordinary size, for timing: speed does not depend on the values.

    The kept blocks of a matrix are drawn uniformly.
    """
    shapes = weight_shapes(config, ArchSpec(tuple(replace(layer, blocks=()) for layer in spec.layers)))
    stretch = np.random.default_rng(0).normal(0.0, 0.05, 65_521).astype(np.float32)  # of the size of trained weights
    values = np.resize(stretch, max(math.prod(shape) for shape in shapes.values()))
    weights: dict[str, Array] = {}
    for name, shape in shapes.items():
        if name.endswith("_rows"):
            weights[name] = np.arange(shape[0], dtype=np.int32)
        elif name.endswith("norm.weight"):
            weights[name] = np.ones(shape, np.float32)
        else:
            weights[name] = values[: math.prod(shape)].reshape(shape)
    rng = np.random.default_rng(0)
    for index, layer in enumerate(spec.layers):
        for block in layer.blocks:
            name = f"layers.{index}.{block.matrix}"
            grid = block.grid(weights[f"{name}.weight"].shape)
            kept = rng.permutation(math.prod(grid)).reshape(grid) < block.kept
            put_in_blocks(weights, name, kept, block.rows, block.columns)
    return weights


def random_batch(config: EncoderConfig, batch: int, tokens: int) -> Ragged:
    """`batch` sequences of `tokens` random ids each."""
    ids = np.random.default_rng(0).integers(0, config.dims.vocabulary, (batch, tokens))
    return Ragged.of(ids.tolist())
