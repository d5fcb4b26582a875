"""Masks of heads, neurons, channels and blocks. Every pruner makes one; its counts are the `ArchSpec`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunetime.core.arch import ArchSpec, Dims, KeptBlocks, LayerSpec, block_grid
from prunetime.core.arrays import BoolArray, Float64Array
from prunetime.core.record import strict_keys
from prunetime.errors import InputError

PARTS = ("heads", "attention_rows", "ffn", "ffn_rows")


def part_widths(dims: Dims) -> dict[str, int]:
    """How many there are of each of `PARTS` in a layer of the unpruned encoder."""
    return {part: getattr(LayerSpec.full(dims), part) for part in PARTS}


@dataclass(frozen=True)
class BlockMask:
    """The blocks of `rows` x `columns` weights of a matrix that are kept: `kept` is [row blocks, column blocks]."""

    rows: int
    columns: int
    kept: BoolArray

    def __post_init__(self) -> None:
        object.__setattr__(self, "kept", _read_only(self.kept, 2, "blocks"))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BlockMask) and self.to_json() == other.to_json()

    __hash__ = None  # type: ignore[assignment]  # holds an array

    def to_json(self) -> dict[str, Any]:
        grid, kept = list(self.kept.shape), _bools_to_json(self.kept.ravel())
        return {"rows": self.rows, "columns": self.columns, "grid": grid, "kept": kept}


@dataclass(frozen=True)
class LayerMask:
    """The kept parts of one layer.

    Attributes:
        heads: Whether each attention head is kept, [heads].
        attention_rows: Whether each output channel of the attention is kept, [hidden].
        ffn: Whether each FFN neuron is kept, [ffn].
        ffn_rows: Whether each output channel of the FFN is kept, [hidden].
        blocks: By the name of a matrix, the blocks kept of what the other parts leave of it.
        tokens: As in `LayerSpec`.
    """

    heads: BoolArray
    attention_rows: BoolArray
    ffn: BoolArray
    ffn_rows: BoolArray
    blocks: Mapping[str, BlockMask] = field(default_factory=dict)
    tokens: float = 1.0

    def __post_init__(self) -> None:
        for name in PARTS:
            object.__setattr__(self, name, _read_only(getattr(self, name), 1, name))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LayerMask) and self.to_json() == other.to_json()

    __hash__ = None  # type: ignore[assignment]  # holds arrays

    def spec(self) -> LayerSpec:
        counts = {name: int(getattr(self, name).sum()) for name in PARTS}
        blocks = (KeptBlocks(name, b.rows, b.columns, int(b.kept.sum())) for name, b in self.blocks.items())
        return LayerSpec(**counts, blocks=tuple(blocks), tokens=self.tokens)

    def to_json(self) -> dict[str, Any]:
        parts: dict[str, Any] = {name: _bools_to_json(getattr(self, name)) for name in PARTS}
        blocks = {name: block.to_json() for name, block in self.blocks.items()}
        return parts | {"blocks": blocks, "tokens": self.tokens}


@dataclass(frozen=True)
class Mask:
    """The kept parts of every layer.

    Example:
        >>> dims = Dims(layers=2, hidden=64, heads=4, head_dim=16, ffn=256, vocabulary=400, positions=64)
        >>> Mask.full(dims).spec() == ArchSpec.full(dims)
        True
    """

    layers: tuple[LayerMask, ...]

    @classmethod
    def full(cls, dims: Dims) -> Mask:
        heads, rows, ffn = (np.ones(width, np.bool_) for width in (dims.heads, dims.hidden, dims.ffn))
        return cls((LayerMask(heads, rows, ffn, rows),) * dims.layers)

    @classmethod
    def first_layers(cls, dims: Dims, count: int) -> Mask:
        """Returns the mask that keeps so many layers whole, and nothing of those after them."""
        none = LayerMask(
            np.zeros(dims.heads, np.bool_), np.ones(dims.hidden, np.bool_),
            np.zeros(dims.ffn, np.bool_), np.ones(dims.hidden, np.bool_),
        )  # fmt: skip
        return cls((*cls.full(dims).layers[:count], *[none] * (dims.layers - count)))

    def spec(self) -> ArchSpec:
        return ArchSpec(tuple(layer.spec() for layer in self.layers))

    def check(self, dims: Dims) -> None:
        """Raises InputError where the arrays or the counts do not fit `dims`."""
        for index, layer in enumerate(self.layers):
            for name, width in part_widths(dims).items():
                got = len(getattr(layer, name))
                if got != width:
                    raise InputError(f"layer {index}: mask of {name} has {got} entries, the encoder {width}")
            shapes = layer.spec().matrix_shapes(dims)
            for name, block in layer.blocks.items():
                grid = block_grid(shapes.get(name, (0, 0)), block.rows, block.columns)
                if block.kept.shape != grid:
                    raise InputError(f"layer {index}: block mask of {name} is {block.kept.shape}, must be {grid}")
        self.spec().check(dims)

    def to_json(self) -> list[dict[str, Any]]:
        """Kept indices of every part, with the part's width."""
        return [layer.to_json() for layer in self.layers]

    @classmethod
    def from_json(cls, data: Iterable[Mapping[str, Any]]) -> Mask:
        return cls(tuple(_layer_from_json(layer) for layer in data))


def rank(scores: Scores, spec: ArchSpec) -> Mask:
    """The mask that keeps the highest scores in the counts of `spec`; ties go to the lower index."""
    if len(scores) != len(spec.layers):
        raise InputError(f"scores of {len(scores)} layers for a spec of {len(spec.layers)}")
    layers = []
    for layer_scores, layer in zip(scores, spec.layers, strict=True):
        heads, attention_rows, ffn, ffn_rows = (_top(layer_scores[name], getattr(layer, name), name) for name in PARTS)
        for block in layer.blocks:
            if block.matrix not in layer_scores:
                raise InputError(f"no scores of the blocks of {block.matrix}, of which the spec keeps {block.kept}")
        blocks = {block.matrix: largest_blocks(layer_scores[block.matrix], block) for block in layer.blocks}
        layers.append(LayerMask(heads, attention_rows, ffn, ffn_rows, blocks, layer.tokens))
    return Mask(tuple(layers))


Scores = list[dict[str, Float64Array]]
"""Importance of every part: for each layer, a score per head and row under the names of `PARTS` and, where the spec
keeps blocks of a matrix, a score per block [row blocks, column blocks] under the matrix's name."""


def by_importance(scores: Float64Array) -> NDArray[np.intp]:
    """Indices of `scores` [n], the highest first; ties to the lower index."""
    return np.argsort(-scores, kind="stable")


def largest_blocks(scores: Float64Array, block: KeptBlocks) -> BlockMask:
    """The mask that keeps the blocks of the highest `scores` [row blocks, column blocks], as many as `block` says."""
    kept = _top(scores.ravel(), block.kept, f"blocks of {block.matrix}").reshape(scores.shape)
    return BlockMask(block.rows, block.columns, kept)


def _read_only(kept: Any, dimensions: int, name: str) -> BoolArray:
    array = np.array(kept, dtype=np.bool_)
    if array.ndim != dimensions:
        raise InputError(f"mask of {name} has shape {array.shape}; it must have {dimensions} dimensions")
    array.setflags(write=False)
    return array


def _top(scores: Float64Array, count: int, name: str) -> BoolArray:
    if not 0 <= count <= len(scores):
        raise InputError(f"cannot keep {count} of {len(scores)} {name}")
    kept = np.zeros(len(scores), np.bool_)
    kept[by_importance(scores)[:count]] = True
    return kept


def _layer_from_json(data: Mapping[str, Any]) -> LayerMask:
    values = strict_keys(LayerMask, data)
    blocks = {
        name: BlockMask(b["rows"], b["columns"], _bools_from_json(b["kept"]).reshape(b["grid"]))
        for name, b in values.get("blocks", {}).items()
    }
    heads, attention_rows, ffn, ffn_rows = (_bools_from_json(values[name]) for name in PARTS)
    return LayerMask(heads, attention_rows, ffn, ffn_rows, blocks, values.get("tokens", 1.0))


def _bools_to_json(array: BoolArray) -> dict[str, Any]:
    return {"of": len(array), "kept": np.flatnonzero(array).tolist()}


def _bools_from_json(data: Mapping[str, Any]) -> BoolArray:
    kept = np.asarray(data["kept"], dtype=np.int64)
    width = int(data["of"])
    if kept.size and not (kept.min() >= 0 and kept.max() < width):
        raise InputError(f"mask keeps index {int(kept.max())} of a part that has {width}")
    array = np.zeros(width, np.bool_)
    array[kept] = True
    return array
