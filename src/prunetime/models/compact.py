"""Compaction of weights: removing what a mask does not keep, ordering, and reading counts back. No torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prunetime.core.arch import ArchSpec, Dims, LayerSpec
from prunetime.core.arrays import Array, Float64Array, Weights
from prunetime.core.blocks import block_norms, kept_blocks, put_in_blocks
from prunetime.core.mask import LayerMask, Mask, Scores, by_importance, part_widths, rank
from prunetime.errors import InputError


def compact(weights: Weights, mask: Mask, dims: Dims) -> dict[str, Array]:
    """Returns the weights of the encoder that `mask` leaves of the unpruned encoder `weights`.

    Heads leave query, key, value and the columns of the attention output; rows of the output matrices leave together
    with their bias, and the indices of those that stay are kept as `*_rows`; a sub-layer without heads or rows leaves
    whole, with its LayerNorm. A matrix of which blocks are kept is stored in blocks. Everything else is passed on as
    it is, not copied. Weights do not say how many tokens are kept: `mask.spec()` does.

    Raises InputError where the mask or the weights do not fit `dims`.
    """
    mask.check(dims)
    if spec_of(weights, dims) != ArchSpec.full(dims):
        raise InputError("the weights to compact are pruned already; a mask applies to the unpruned encoder")
    kept = {name: array for name, array in weights.items() if not name.startswith("layers.")}
    for index, layer in enumerate(mask.layers):
        kept |= _compact_layer(weights, f"layers.{index}", layer, dims)
    return in_blocks(kept, mask)


def in_blocks(weights: Weights, mask: Mask) -> dict[str, Array]:
    """Returns the encoder `weights`, with heads and rows as `mask` leaves them, with its matrices in the kept blocks.

    Raises InputError where these are no blocks of the matrices.
    """
    stored = dict(weights)
    for index, layer in enumerate(mask.layers):
        for matrix, blocks in layer.blocks.items():
            put_in_blocks(stored, f"layers.{index}.{matrix}", blocks.kept, blocks.rows, blocks.columns)
    return stored


def ordered(weights: Weights, scores: Scores, dims: Dims) -> dict[str, Array]:
    """Returns the unpruned encoder `weights` with the heads and FFN rows of every layer in falling order of `scores`.

    The encoder computes the same; what `rank` would keep stands first. Raises InputError where `weights` are pruned.
    """
    if spec_of(weights, dims) != ArchSpec.full(dims):
        raise InputError("the weights to order are pruned already")
    moved = dict(weights)

    def move(name: str, order: NDArray[np.intp], matrices: tuple[str, ...], reader: str) -> None:
        for matrix in matrices:
            for part in ("weight", "bias"):
                moved[f"{name}.{matrix}.{part}"] = weights[f"{name}.{matrix}.{part}"][order]
        moved[f"{name}.{reader}.weight"] = np.ascontiguousarray(weights[f"{name}.{reader}.weight"][:, order])

    for index, layer in enumerate(scores):
        if (bias := f"layers.{index}.position_bias") in weights:
            moved[bias] = weights[bias][by_importance(layer["heads"])]
        heads = by_importance(layer["heads"])[:, None] * dims.head_dim + np.arange(dims.head_dim)
        move(f"layers.{index}", heads.ravel(), ("query", "key", "value"), "attention_output")
        rows = ("ffn_input", "ffn_gate") if dims.gated else ("ffn_input",)
        move(f"layers.{index}", by_importance(layer["ffn"]), rows, "ffn_output")
    return moved


def prefix_mask(weights: Weights, spec: ArchSpec, dims: Dims) -> Mask:
    """Returns the mask of the sub-network `spec` of the unpruned encoder `weights`: the first heads and FFN rows of
    every layer and, of a matrix in blocks, those of the largest norm."""
    layers = []
    for index, layer in enumerate(spec.layers):
        scores: dict[str, Float64Array] = {
            part: -np.arange(width, dtype=np.float64) for part, width in part_widths(dims).items()
        }
        shapes = layer.matrix_shapes(dims)
        for block in layer.blocks:
            rows, columns = shapes[block.matrix]
            weight = weights[f"layers.{index}.{block.matrix}.weight"][:rows, :columns]
            scores[block.matrix] = block_norms(weight, block.rows, block.columns)
        layers.append(scores)
    return rank(layers, spec)


def _compact_layer(weights: Weights, layer: str, mask: LayerMask, dims: Dims) -> dict[str, Array]:
    kept: dict[str, Array] = {}

    def take(name: str, rows: NDArray[np.intp], columns: NDArray[np.intp] | slice = slice(None)) -> None:
        kept[f"{layer}.{name}.weight"] = np.ascontiguousarray(weights[f"{layer}.{name}.weight"][rows][:, columns])
        kept[f"{layer}.{name}.bias"] = weights[f"{layer}.{name}.bias"][rows]

    def finish(part: str, rows: NDArray[np.intp]) -> None:
        for name in (f"{layer}.{part}_norm.weight", f"{layer}.{part}_norm.bias"):
            if name in weights:
                kept[name] = weights[name]
        if len(rows) < dims.hidden:
            kept[f"{layer}.{part}_rows"] = rows.astype(np.int32)

    spec = mask.spec()
    if spec.has_attention:
        inner = np.flatnonzero(np.repeat(mask.heads, dims.head_dim))
        rows = np.flatnonzero(mask.attention_rows)
        for name in ("query", "key", "value"):
            take(name, inner)
        take("attention_output", rows, inner)
        if (bias := f"{layer}.position_bias") in weights:
            kept[bias] = weights[bias][np.flatnonzero(mask.heads)]
        finish("attention", rows)
    if spec.has_ffn:
        inner = np.flatnonzero(mask.ffn)
        rows = np.flatnonzero(mask.ffn_rows)
        take("ffn_input", inner)
        if dims.gated:
            take("ffn_gate", inner)
        take("ffn_output", rows, inner)
        finish("ffn", rows)
    return kept


def spec_of(weights: Weights, dims: Dims) -> ArchSpec:
    """Returns the counts of the weights, which cannot say how many tokens are kept: every layer keeps all.

    A sub-layer that is gone reads as zero heads (or FFN rows) and all output rows.
    """

    def rows(name: str) -> int:
        if f"{name}.weight" in weights:
            return int(weights[f"{name}.weight"].shape[0])
        return len(weights[f"{name}.bias"]) if f"{name}.blocks" in weights else 0

    return ArchSpec(
        tuple(
            LayerSpec(
                heads=rows(f"{layer}.query") // dims.head_dim,
                attention_rows=rows(f"{layer}.attention_output") or dims.hidden,
                ffn=rows(f"{layer}.ffn_input"),
                ffn_rows=rows(f"{layer}.ffn_output") or dims.hidden,
                blocks=kept_blocks(weights, index),
            )
            for index, layer in ((index, f"layers.{index}") for index in range(dims.layers))
        )
    )
