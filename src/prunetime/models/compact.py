"""Removing from the weights what a mask does not keep, and reading the counts back off the weights. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunetime.arch import ArchSpec, Dims, LayerSpec
from prunetime.errors import InputError
from prunetime.mask import LayerMask, Mask

Weights = dict[str, NDArray[Any]]


def compact(weights: Mapping[str, NDArray[Any]], mask: Mask, dims: Dims) -> Weights:
    """The weights of the encoder that `mask` leaves of the unpruned encoder `weights`.

    Heads leave query, key, value and the columns of the attention output; rows of the output matrices leave together
    with their bias, and the indices of those that stay are kept as `*_rows`; a sub-layer without heads or rows leaves
    whole, with its LayerNorm. Everything else is passed on as it is, not copied.

    Raises InputError where the mask or the weights do not fit `dims`, or the mask prunes blocks or tokens.
    """
    mask.check(dims)
    heads_and_rows_only(mask.spec())
    if spec_of(weights, dims) != ArchSpec.full(dims):
        raise InputError("the weights to compact are pruned already; a mask applies to the unpruned encoder")
    kept = {name: array for name, array in weights.items() if not name.startswith("layers.")}
    for index, layer in enumerate(mask.layers):
        kept |= _compact_layer(weights, f"layers.{index}", layer, dims)
    return kept


def _compact_layer(weights: Mapping[str, NDArray[Any]], layer: str, mask: LayerMask, dims: Dims) -> Weights:
    kept: Weights = {}

    def take(name: str, rows: NDArray[np.intp], columns: NDArray[np.intp] | slice = slice(None)) -> None:
        weight = weights[f"{layer}.{name}.weight"]
        kept[f"{layer}.{name}.weight"] = np.ascontiguousarray(weight[rows][:, columns])
        kept[f"{layer}.{name}.bias"] = weights[f"{layer}.{name}.bias"][rows]

    def finish(part: str, rows: NDArray[np.intp]) -> None:
        for name in ("weight", "bias"):
            kept[f"{layer}.{part}_norm.{name}"] = weights[f"{layer}.{part}_norm.{name}"]
        if len(rows) < dims.hidden:
            kept[f"{layer}.{part}_rows"] = rows.astype(np.int32)

    spec = mask.spec()
    if spec.has_attention:
        inner = np.flatnonzero(np.repeat(mask.heads, dims.head_dim))
        rows = np.flatnonzero(mask.attention_rows)
        for name in ("query", "key", "value"):
            take(name, inner)
        take("attention_output", rows, inner)
        finish("attention", rows)
    if spec.has_ffn:
        inner = np.flatnonzero(mask.ffn)
        rows = np.flatnonzero(mask.ffn_rows)
        take("ffn_input", inner)
        take("ffn_output", rows, inner)
        finish("ffn", rows)
    return kept


def spec_of(weights: Mapping[str, NDArray[Any]], dims: Dims) -> ArchSpec:
    """The counts of these weights. A sub-layer that is gone reads as zero heads (or FFN rows) and all output rows."""

    def rows(name: str) -> int:
        return int(weights[f"{name}.weight"].shape[0]) if f"{name}.weight" in weights else 0

    return ArchSpec(
        tuple(
            LayerSpec(
                heads=rows(f"layers.{index}.query") // dims.head_dim,
                attention_rows=rows(f"layers.{index}.attention_output") or dims.hidden,
                ffn=rows(f"layers.{index}.ffn_input"),
                ffn_rows=rows(f"layers.{index}.ffn_output") or dims.hidden,
            )
            for index in range(dims.layers)
        )
    )


def heads_and_rows_only(spec: ArchSpec) -> None:
    """Raises InputError where `spec` prunes blocks or tokens, which dense weights cannot express."""
    for index, layer in enumerate(spec.layers):
        if layer.blocks:
            raise InputError(
                f"layer {index} prunes blocks of {layer.blocks[0].matrix}: only heads and rows are removed"
            )
        if layer.tokens < 1.0:
            raise InputError(f"layer {index} keeps {layer.tokens} of its tokens: only heads and rows are removed")
