"""The sizes of an encoder (`Dims`), and how much of it is kept (`LayerSpec`, `ArchSpec`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from prunetime.core.checks import true_or_false, whole_number
from prunetime.core.record import Record, strict_keys
from prunetime.errors import InputError

TILE = 32
"""FFN neurons and output channels are kept in multiples of this many, in every precision."""

MATRICES = ("query", "key", "value", "attention_output", "ffn_input", "ffn_gate", "ffn_output")
"""The weight matrices of one layer, in the order in which the forward pass reads them; not every family has a gate."""

ATTENTION_MATRICES, FFN_MATRICES = MATRICES[:4], MATRICES[4:]

BlockShape = tuple[int, int]
"""The (rows, columns) of a block of weights."""

BLOCK_SHAPES: tuple[BlockShape, ...] = ((32, 32), (32, 16), (16, 16), (32, 1))
"""The shapes that blocks may have."""


@dataclass(frozen=True)
class Dims(Record):
    """The sizes of the unpruned encoder.

    Attributes:
        layers: The number of layers.
        hidden: The width of the hidden states between sub-layers.
        heads: The attention heads of a layer.
        head_dim: The width of a head.
        ffn: The neurons inside the feed-forward sub-layer.
        vocabulary: The number of token ids.
        positions: The longest sequence, in tokens.
        gated: Whether every FFN neuron is multiplied by one of a third matrix (GLU Variants, arXiv 2002.05202).

    Raises:
        InputError: A size is no whole number of at least 1.
    """

    layers: int
    hidden: int
    heads: int
    head_dim: int
    ffn: int
    vocabulary: int
    positions: int
    gated: bool = False

    def __post_init__(self) -> None:
        true_or_false("dims.gated", self.gated)
        for item in fields(self)[:-1]:
            whole_number(f"dims.{item.name}", getattr(self, item.name))


@dataclass(frozen=True, order=True)
class KeptBlocks(Record):
    """How many blocks of `rows` x `columns` weights are kept in one matrix of a layer."""

    matrix: str
    rows: int
    columns: int
    kept: int

    def __post_init__(self) -> None:
        if self.matrix not in MATRICES:
            raise InputError(f"blocks of {self.matrix!r}: the matrices of a layer are {', '.join(MATRICES)}")
        counts = (self.rows, self.columns, self.kept)
        if any(type(count) is not int for count in counts) or min(self.rows, self.columns) < 1 or self.kept < 0:
            raise InputError(f"blocks of {self.matrix}: {self.kept} of {self.rows}x{self.columns} is no block count")

    def grid(self, shape: tuple[int, int]) -> tuple[int, int]:
        """(row blocks, column blocks) of a matrix of `shape`; the last of each may reach over its edge."""
        return block_grid(shape, self.rows, self.columns)


def block_grid(shape: tuple[int, int], rows: int, columns: int) -> tuple[int, int]:
    """(row blocks, column blocks) of `rows` x `columns` that cover a matrix of `shape`."""
    return math.ceil(shape[0] / rows), math.ceil(shape[1] / columns)


def tokens_kept(share: float, length: int) -> int:
    """Tokens left of a sequence of `length` tokens when `share` of them are kept: max(1, ceil(share x length))."""
    return max(1, math.ceil(share * length))


@dataclass(frozen=True)
class LayerSpec:
    """How much one layer keeps, in counts; a `Mask` says which parts these are.

    A sub-layer that keeps no head or no channel is gone: its input passes on unchanged, without its bias and LayerNorm.

    Attributes:
        heads: The attention heads kept.
        attention_rows: The output channels kept of the attention's output matrix, at most `hidden`. What a pruned
            channel would have added to the residual is zero.
        ffn: The FFN neurons kept.
        ffn_rows: The output channels kept of the FFN's output matrix.
        blocks: The blocks kept of matrices in blocks, at most one entry per matrix, in the order of `MATRICES`.
        tokens: The share of the tokens that are kept after the attention: max(1, ceil(tokens x length)) of them, those
            that received the most attention.
    """

    heads: int
    attention_rows: int
    ffn: int
    ffn_rows: int
    blocks: tuple[KeptBlocks, ...] = ()
    tokens: float = 1.0

    def __post_init__(self) -> None:
        ordered = sorted(self.blocks, key=lambda block: MATRICES.index(block.matrix))
        object.__setattr__(self, "blocks", tuple(ordered))

    @classmethod
    def full(cls, dims: Dims) -> LayerSpec:
        return cls(dims.heads, dims.hidden, dims.ffn, dims.hidden)

    @property
    def has_attention(self) -> bool:
        return self.heads > 0 and self.attention_rows > 0

    @property
    def has_ffn(self) -> bool:
        return self.ffn > 0 and self.ffn_rows > 0

    def tokens_kept(self, length: int) -> int:
        """Tokens left of a sequence of `length` tokens after this layer."""
        return tokens_kept(self.tokens, length)

    def blocks_of(self, matrix: str) -> KeptBlocks | None:
        """The blocks kept of `matrix`, or None where it is dense."""
        return next((block for block in self.blocks if block.matrix == matrix), None)

    def in_blocks(
        self, dims: Dims, block_shape: BlockShape, share: Callable[[str], float], matrices: Iterable[str] = MATRICES
    ) -> LayerSpec:
        """The layer that keeps a `share` (of a matrix, by name) of the blocks, in those of `matrices` that it has."""
        blocks = {block.matrix: block for block in self.blocks}
        for matrix, shape in self.matrix_shapes(dims).items():
            if matrix in matrices:
                count = math.prod(block_grid(shape, *block_shape))
                blocks[matrix] = KeptBlocks(matrix, *block_shape, round(share(matrix) * count))
        return replace(self, blocks=tuple(blocks.values()))

    def describe_blocks(self, dims: Dims, matrices: Iterable[str] = MATRICES) -> str:
        """For people, what is kept of those of `matrices` that are in blocks: `query 5 of 16 32x32`; or nothing."""
        shapes = self.matrix_shapes(dims)
        blocks = [(b, math.prod(b.grid(shapes[b.matrix]))) for b in self.blocks if b.matrix in matrices]
        return ", ".join(f"{b.matrix} {b.kept} of {count} {b.rows}x{b.columns}" for b, count in blocks)

    def matrix_shapes(self, dims: Dims) -> dict[str, tuple[int, int]]:
        """(output channels, inputs) of every matrix this layer still has."""
        shapes: dict[str, tuple[int, int]] = {}
        if self.has_attention:
            inner = self.heads * dims.head_dim
            shapes |= dict.fromkeys(("query", "key", "value"), (inner, dims.hidden))
            shapes["attention_output"] = (self.attention_rows, inner)
        if self.has_ffn:
            shapes["ffn_input"] = (self.ffn, dims.hidden)
            if dims.gated:
                shapes["ffn_gate"] = (self.ffn, dims.hidden)
            shapes["ffn_output"] = (self.ffn_rows, self.ffn)
        return shapes

    def matrix_weights(self, dims: Dims) -> dict[str, int]:
        """Weights kept of every matrix this layer still has; a block that reaches over the edge counts whole."""
        dense = {name: rows * columns for name, (rows, columns) in self.matrix_shapes(dims).items()}
        return dense | {b.matrix: b.kept * b.rows * b.columns for b in self.blocks if b.matrix in dense}

    def weights(self, dims: Dims) -> int:
        """Weights kept in the matrices of this layer (biases and LayerNorms not counted)."""
        return sum(self.matrix_weights(dims).values())

    def check(self, dims: Dims, where: str = "layer") -> None:
        """Raises InputError where a count is outside `dims` or rows are not kept in whole tiles."""
        for name in ("heads", "attention_rows", "ffn", "ffn_rows"):
            value, limit = getattr(self, name), getattr(LayerSpec.full(dims), name)
            if type(value) is not int or not 0 <= value <= limit:
                raise InputError(f"{where}: {name} is {value!r}; it must be a whole number from 0 to {limit}")
            if name != "heads" and value % TILE and value != limit:
                raise InputError(f"{where}: {name} is {value}; rows are kept in multiples of {TILE} (or all {limit})")
        if not 0.0 < self.tokens <= 1.0:
            raise InputError(f"{where}: tokens is {self.tokens!r}; it must be above 0 and at most 1")
        if self.tokens < 1.0 and not self.has_attention:
            raise InputError(f"{where}: tokens is {self.tokens}, but without attention none can be chosen: set it to 1")
        self._check_blocks(dims, where)

    def _check_blocks(self, dims: Dims, where: str) -> None:
        shapes = self.matrix_shapes(dims)
        for index, block in enumerate(self.blocks):
            if block.matrix not in shapes:
                raise InputError(f"{where}: blocks of {block.matrix}, which this layer does not have")
            if index and self.blocks[index - 1].matrix == block.matrix:
                raise InputError(f"{where}: blocks of {block.matrix} are given twice")
            if (block.rows, block.columns) not in BLOCK_SHAPES:
                block_shapes = ", ".join(f"{rows}x{columns}" for rows, columns in BLOCK_SHAPES)
                raise InputError(
                    f"{where}: {block.matrix} has blocks of {block.rows}x{block.columns}; use {block_shapes}"
                )
            limit = math.prod(block.grid(shapes[block.matrix]))
            if block.kept > limit:
                raise InputError(f"{where}: {block.kept} blocks kept in {block.matrix}; there are {limit}")

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"blocks": [asdict(b) for b in self.blocks]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LayerSpec:
        values = strict_keys(cls, data)
        return cls(**{**values, "blocks": tuple(map(KeptBlocks.from_json, values.get("blocks", ())))})


@dataclass(frozen=True)
class ArchSpec:
    """The structure of a pruned encoder: how much every layer keeps, which is all that latency depends on.

    Attributes:
        layers: What each layer keeps, from the first on.

    Example:
        >>> dims = Dims(layers=2, hidden=64, heads=4, head_dim=16, ffn=256, vocabulary=400, positions=64)
        >>> spec = ArchSpec.full(dims).with_layer(0, heads=2, ffn=128)
        >>> spec.weights(dims) / ArchSpec.full(dims).weights(dims)
        0.75
    """

    layers: tuple[LayerSpec, ...] = field(default=())

    @classmethod
    def full(cls, dims: Dims) -> ArchSpec:
        """Returns the spec of the unpruned encoder.

        Args:
            dims: The sizes of the encoder.
        """
        return cls((LayerSpec.full(dims),) * dims.layers)

    @classmethod
    def of(cls, dims: Dims, heads: Iterable[int], ffn: Iterable[int]) -> ArchSpec:
        """Returns the spec with so many heads and FFN neurons, and with every output channel.

        Args:
            dims: The sizes of the unpruned encoder.
            heads: The heads of each layer.
            ffn: The FFN neurons of each layer.
        """
        pairs = zip(heads, ffn, strict=True)
        return cls(tuple(LayerSpec(h, dims.hidden, f, dims.hidden) for h, f in pairs))

    @classmethod
    def floor(cls, dims: Dims) -> ArchSpec:
        """Returns the spec without any layer: embeddings and head only.

        Args:
            dims: The sizes of the unpruned encoder.
        """
        return cls.of(dims, [0] * dims.layers, [0] * dims.layers)

    def with_layer(self, index: int, **counts: Any) -> ArchSpec:
        """This spec with some counts of layer `index` replaced."""
        layers = list(self.layers)
        layers[index] = replace(layers[index], **counts)
        return ArchSpec(tuple(layers))

    def check(self, dims: Dims) -> None:
        """Raises InputError where the spec does not fit `dims`."""
        if len(self.layers) != dims.layers:
            raise InputError(f"spec has {len(self.layers)} layers, the encoder {dims.layers}")
        for index, layer in enumerate(self.layers):
            layer.check(dims, f"layer {index}")

    def weights(self, dims: Dims) -> int:
        """Returns the number of weights in the layers' matrices, without biases and LayerNorms.

        Args:
            dims: The sizes of the unpruned encoder.
        """
        return sum(layer.weights(dims) for layer in self.layers)

    def flops(self, dims: Dims, length: int) -> int:
        """Returns the multiplications and additions that the layers need for one sequence.

        Args:
            dims: The sizes of the unpruned encoder.
            length: The tokens of the sequence.
        """
        total = 0
        for layer in self.layers:
            weights = layer.matrix_weights(dims)
            in_ffn = sum(weights.get(name, 0) for name in FFN_MATRICES)
            total += 2 * length * (sum(weights.values()) - in_ffn)
            if layer.has_attention:
                total += 4 * length * length * layer.heads * dims.head_dim
            length = layer.tokens_kept(length)
            total += 2 * length * in_ffn
        return total

    def to_json(self) -> list[dict[str, Any]]:
        return [layer.to_json() for layer in self.layers]

    @classmethod
    def from_json(cls, data: Iterable[Mapping[str, Any]]) -> ArchSpec:
        return cls(tuple(LayerSpec.from_json(layer) for layer in data))
