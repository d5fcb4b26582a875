"""Block-sparse matrices as they are stored: the kept blocks one after another, and the place of each.

A matrix M of layer i that is pruned in blocks of R x C is the arrays `layers.i.M.blocks`, float32 [kept, R, C], and
`layers.i.M.block_index`, int32 [kept], in place of `layers.i.M.weight`. Indices ascend; that of a block is
row_block * column_blocks + column_block. A block that reaches over the matrix's edge holds zeros there.
"""

from __future__ import annotations

import math

import numpy as np

from prunetime.core.arch import MATRICES, ArchSpec, KeptBlocks, block_grid
from prunetime.core.arrays import Array, BoolArray, Float32Array, Float64Array, Int32Array, Weights
from prunetime.core.config import EncoderConfig
from prunetime.errors import InputError

INDEX_ARRAYS = ("_rows", "block_index")
"""How the names of arrays end that hold indices, int32."""


def to_blocks(weight: Float32Array, kept: BoolArray, rows: int, columns: int) -> tuple[Float32Array, Int32Array]:
    """The blocks of `rows` x `columns` of `weight` [out, in] that `kept` [row blocks, column blocks] names.

    Returns (blocks [kept, rows, columns], block_index [kept]). Raises InputError where `kept` has another grid.
    """
    grid = block_grid((weight.shape[0], weight.shape[1]), rows, columns)
    if kept.shape != grid:
        raise InputError(f"kept blocks are {kept.shape}; a matrix {weight.shape} has {grid} blocks of {rows}x{columns}")
    return np.ascontiguousarray(_tiles(weight, rows, columns)[kept]), np.flatnonzero(kept).astype(np.int32)


def _tiles(matrix: Array, rows: int, columns: int) -> Array:
    """[row blocks, column blocks, rows, columns], with zeros outside of the matrix."""
    grid = block_grid((matrix.shape[0], matrix.shape[1]), rows, columns)
    over = [(0, blocks * size - width) for blocks, size, width in zip(grid, (rows, columns), matrix.shape, strict=True)]
    return np.pad(matrix, over).reshape(grid[0], rows, grid[1], columns).swapaxes(1, 2)


def put_in_blocks(weights: dict[str, Array], name: str, kept: BoolArray, rows: int, columns: int) -> None:
    """The matrix `name` of `weights` is stored in its `kept` blocks of `rows` x `columns` from now on (`to_blocks`)."""
    arrays = to_blocks(weights.pop(f"{name}.weight"), kept, rows, columns)
    weights[f"{name}.blocks"], weights[f"{name}.block_index"] = arrays


def kept_blocks(weights: Weights, layer: int) -> tuple[KeptBlocks, ...]:
    """The blocks that `weights` keep of those matrices of a layer that they store in blocks."""
    names = ((matrix, f"layers.{layer}.{matrix}.blocks") for matrix in MATRICES)
    shapes = ((matrix, weights[name].shape) for matrix, name in names if name in weights)
    return tuple(KeptBlocks(matrix, rows, columns, kept) for matrix, (kept, rows, columns) in shapes)


def block_norms(weight: Float32Array, rows: int, columns: int) -> Float64Array:
    """Sums of squares [row blocks, column blocks] of the blocks of `weight` [out, in]."""
    return np.asarray(_tiles(np.square(weight, dtype=np.float64), rows, columns).sum((2, 3)))


def to_dense(
    blocks: Float32Array, block_index: Int32Array, shape: tuple[int, int], name: str = "matrix"
) -> Float32Array:
    """The matrix of `shape` (out, in) that has `blocks` where `block_index` says, and zeros elsewhere.

    Raises InputError, with `name`, where the arrays are no blocks of such a matrix.
    """
    check_blocks(name, blocks, block_index, shape)
    rows, columns = blocks.shape[1:]
    grid = block_grid(shape, rows, columns)
    tiles = np.zeros((math.prod(grid), rows, columns), blocks.dtype)
    tiles[block_index] = blocks
    padded = tiles.reshape(*grid, rows, columns).swapaxes(1, 2).reshape(grid[0] * rows, grid[1] * columns)
    return np.ascontiguousarray(padded[: shape[0], : shape[1]])


def check_blocks(name: str, blocks: Float32Array, block_index: Int32Array, shape: tuple[int, int]) -> None:
    """Raises InputError where the arrays called `name` are no blocks, in ascending order, of a matrix of `shape`."""
    if blocks.ndim != 3 or block_index.shape != blocks.shape[:1] or 0 in blocks.shape[1:]:
        raise InputError(f"{name}: blocks {blocks.shape} with indices {block_index.shape}; must be [n, R, C] with [n]")
    rows, columns = blocks.shape[1:]
    grid = block_grid(shape, rows, columns)
    limit = math.prod(grid)
    inside = not len(block_index) or 0 <= block_index[0] <= block_index[-1] < limit
    if not inside or np.any(block_index[1:] <= block_index[:-1]):
        raise InputError(f"{name}.block_index must hold ascending block numbers from 0 to {limit - 1}")
    inside_rows, inside_columns = shape[0] - (grid[0] - 1) * rows, shape[1] - (grid[1] - 1) * columns
    below, right = block_index // grid[1] == grid[0] - 1, block_index % grid[1] == grid[1] - 1
    if np.any(blocks[below][:, inside_rows:]) or np.any(blocks[right][:, :, inside_columns:]):
        raise InputError(f"{name}.blocks must be zero outside of the matrix {shape}")


def expand(weights: Weights, config: EncoderConfig, spec: ArchSpec) -> dict[str, Array]:
    """`weights` with a dense `.weight` for every matrix of `spec` that is stored in blocks; the rest is not copied.

    Raises InputError where the arrays of a matrix are no blocks of it.
    """
    dense = dict(weights)
    for index, layer in enumerate(spec.layers):
        shapes = layer.matrix_shapes(config.dims)
        for block in layer.blocks:
            name = f"layers.{index}.{block.matrix}"
            try:
                blocks, block_index = dense.pop(f"{name}.blocks"), dense.pop(f"{name}.block_index")
            except KeyError as error:
                raise InputError(f"{error.args[0]} is missing: the spec keeps blocks of {name}") from None
            dense[f"{name}.weight"] = to_dense(blocks, block_index, shapes[block.matrix], name)
    return dense
