"""Mask variables: multipliers on parts of an unpruned encoder, to mask it in training or to take gradients of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from prunetime.core.arch import BlockShape, Dims, block_grid
from prunetime.core.mask import PARTS, BlockMask, part_widths
from prunetime.errors import InputError

SIDES = {
    "query": ("heads", None),
    "key": ("heads", None),
    "value": ("heads", None),
    "attention_output": ("attention_rows", "heads"),
    "ffn_input": ("ffn", None),
    "ffn_gate": ("ffn", None),
    "ffn_output": ("ffn_rows", "ffn"),
}
"""The parts that the (rows, columns) of a matrix belong to."""


@dataclass(frozen=True)
class BlockMaskVariables:
    """Mask variables of a matrix, one for each block of `rows` x `columns` weights: [row blocks, column blocks]."""

    values: Tensor
    rows: int
    columns: int

    @classmethod
    def of(cls, mask: BlockMask) -> BlockMaskVariables:
        return cls(torch.from_numpy(mask.kept.astype("float32")), mask.rows, mask.columns)

    def spread(self, shape: tuple[int, int]) -> Tensor:
        """Returns the multiplier of every weight of a matrix of `shape`."""
        each = self.values.repeat_interleave(self.rows, 0).repeat_interleave(self.columns, 1)
        return each[: shape[0], : shape[1]]


def block_sums(values: Tensor, block_shape: BlockShape) -> Tensor:
    """Sums [row blocks, column blocks] over the blocks of `block_shape` of `values` [out, in]."""
    (high, wide), (rows, columns) = values.shape, block_shape
    grid = block_grid((high, wide), *block_shape)
    over = (0, grid[1] * columns - wide, 0, grid[0] * rows - high)
    whole = functional.pad(values, over) if any(over) else values
    return whole.reshape(grid[0], rows, grid[1], columns).sum((1, 3))


@dataclass(frozen=True)
class MaskVariables:
    """Mask variables of one layer, each [n] or [batch, n], the same for every token.

    `heads` [.., heads] multiplies each head's context, `attention_rows` [.., hidden] the attention output after its
    bias, `ffn` [.., ffn] the activated FFN rows, `ffn_rows` [.., hidden] the FFN output after its bias. Where all
    heads (or all rows) of a sub-layer are exactly zero, the sub-layer is gone: its input passes on unchanged, and
    the gradient of its variables is zero.

    `blocks` maps a matrix to the variables of its blocks, of what the other variables leave of the matrix; the latter
    are then the same for the whole batch. `tokens` is the share of the tokens that stays (see `LayerSpec`).
    """

    heads: Tensor
    attention_rows: Tensor
    ffn: Tensor
    ffn_rows: Tensor
    blocks: Mapping[str, BlockMaskVariables] = field(default_factory=dict)
    tokens: float = 1.0

    def __post_init__(self) -> None:
        if self.blocks and any(getattr(self, part).ndim > 1 for part in PARTS):
            raise InputError("blocks cannot be masked beside heads or rows that have a mask variable for each sample")

    def weight(self, matrix: str, weight: Tensor) -> Tensor:
        """`weight` [out, in] of `matrix`, which is in `blocks`, times the variables of its blocks."""
        blocks = self.blocks[matrix]
        rows, columns = (self._left(part, width) for part, width in zip(SIDES[matrix], weight.shape, strict=True))
        multiplier = torch.ones_like(weight)
        spread = blocks.spread((len(rows), len(columns))).to(weight.dtype)
        return weight * multiplier.index_put((rows[:, None], columns), spread)

    def _left(self, part: str | None, width: int) -> Tensor:
        """Returns the indices of the rows or columns, of `width` in all, that the variables of `part` leave."""
        if part is None:
            return torch.arange(width)
        variables: Tensor = getattr(self, part)
        return (variables != 0).repeat_interleave(width // len(variables)).nonzero().flatten()


def ones(dims: Dims, batch: int | None = None, requires_grad: bool = True) -> list[MaskVariables]:
    """Returns mask variables of one, [n], or [batch, n] for the gradient of each sample's loss with respect to them."""
    rows = () if batch is None else (batch,)
    layers: list[dict[str, Any]] = [
        {name: torch.ones(*rows, width, requires_grad=requires_grad) for name, width in part_widths(dims).items()}
        for _ in range(dims.layers)
    ]
    return [MaskVariables(**layer) for layer in layers]


def over_tokens(variables: Tensor) -> Tensor:
    """Returns `variables` [n] or [batch, n] as a multiplier of [batch, tokens, n]."""
    return variables.unsqueeze(-2)


def where_alive(inner: Tensor, rows: Tensor, changed: Tensor, unchanged: Tensor) -> Tensor:
    """Returns `changed` [batch, tokens, hidden] where `inner` and `rows` are not all zero, else `unchanged`."""
    alive = (inner != 0).any(-1) & (rows != 0).any(-1)
    return torch.where(alive[..., None, None], changed, unchanged)
