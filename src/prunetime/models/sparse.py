"""A linear layer that keeps only blocks of its weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from prunetime.core.arch import KeptBlocks


class BlockLinear(nn.Module):
    """A linear layer whose weight is as `prunetime.core.blocks` stores it: what is pruned is no parameter.

    `blocks` [kept, rows, columns] are zero at first, and `block_index` [kept] (a buffer) names the first ones.
    """

    block_index: Tensor

    def __init__(self, inputs: int, outputs: int, kept: KeptBlocks) -> None:
        super().__init__()
        self.shape = (outputs, inputs)
        self.grid = kept.grid(self.shape)
        self.blocks = nn.Parameter(torch.zeros(kept.kept, kept.rows, kept.columns))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("block_index", torch.arange(kept.kept, dtype=torch.int32))

    @property
    def weight(self) -> Tensor:
        """The whole matrix [outputs, inputs], with zeros outside of the blocks."""
        rows, columns = self.blocks.shape[1:]
        empty = self.blocks.new_zeros(math.prod(self.grid), rows, columns)
        tiles = empty.index_copy(0, self.block_index.long(), self.blocks).view(*self.grid, rows, columns)
        padded: Tensor = tiles.transpose(1, 2).flatten(2).flatten(0, 1)
        return padded[: self.shape[0], : self.shape[1]]

    def fresh_blocks(self, deviation: float) -> Tensor:
        """Draws normal weights in the shape of `blocks`, zero outside of the matrix."""
        _, rows, columns = self.blocks.shape
        row_block, column_block = self.block_index // self.grid[1], self.block_index % self.grid[1]
        row = (row_block * rows)[:, None] + torch.arange(rows, device=self.blocks.device)
        column = (column_block * columns)[:, None] + torch.arange(columns, device=self.blocks.device)
        inside = (row < self.shape[0])[:, :, None] & (column < self.shape[1])[:, None, :]
        return torch.randn_like(self.blocks) * deviation * inside

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)
