"""Blocks hold what they are taken from, and arrays that are no blocks are refused."""

import math
from dataclasses import replace

import numpy as np
import pytest
from cases import random_config, random_weights
from hypothesis import given
from hypothesis import strategies as st

from prunetime.core.arch import BLOCK_SHAPES, ArchSpec, KeptBlocks, block_grid
from prunetime.core.artifact import Manifest, check_weights, read, weight_shapes, write
from prunetime.core.blocks import expand, to_blocks, to_dense
from prunetime.core.precision import PrecisionPlan
from prunetime.core.task import Task
from prunetime.errors import InputError

SHAPES = st.tuples(st.integers(1, 100), st.integers(1, 100))


def cut(seed: int, shape: tuple[int, int], block_shape: tuple[int, int], share: float):
    """A random matrix, and which of its blocks are kept."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal(shape).astype(np.float32)
    return weight, rng.random(block_grid(shape, *block_shape)) < share


@given(st.integers(0, 2**32 - 1), SHAPES, st.sampled_from(BLOCK_SHAPES), st.sampled_from([0.0, 0.3, 1.0]))
def test_kept_blocks_come_back_and_the_others_are_zero(seed, shape, block_shape, share) -> None:
    weight, kept = cut(seed, shape, block_shape, share)
    blocks, index = to_blocks(weight, kept, *block_shape)
    assert blocks.shape == (kept.sum(), *block_shape)
    assert (blocks.dtype, index.dtype) == (np.float32, np.int32)
    dense = to_dense(blocks, index, shape)
    for row in range(shape[0]):
        for column in range(shape[1]):
            held = kept[row // block_shape[0], column // block_shape[1]]
            assert dense[row, column] == (weight[row, column] if held else 0.0)
    again = to_blocks(dense, kept, *block_shape)
    np.testing.assert_array_equal(again[0], blocks)
    np.testing.assert_array_equal(again[1], index)


def test_the_layout_is_the_documented_one() -> None:
    weight = np.arange(33 * 40, dtype=np.float32).reshape(33, 40)
    kept = np.array([[False, True, False], [True, False, True]])
    blocks, index = to_blocks(weight, kept, 32, 16)
    assert index.tolist() == [1, 3, 5]
    np.testing.assert_array_equal(blocks[0], weight[:32, 16:32])
    np.testing.assert_array_equal(blocks[1][0], weight[32, :16])
    np.testing.assert_array_equal(blocks[2][0], [*weight[32, 32:], *[0.0] * 8])
    assert not blocks[1:, 1:].any()


def test_a_mask_of_another_grid_is_refused() -> None:
    with pytest.raises(InputError, match=r"kept blocks are \(2, 2\); a matrix \(64, 96\) has \(2, 3\) blocks of 32x32"):
        to_blocks(np.zeros((64, 96), np.float32), np.ones((2, 2), np.bool_), 32, 32)


def model(kept: int | None = None):
    """A layer of one head whose 48 x 80 value matrix (edges not whole blocks) is in blocks."""
    rng = np.random.default_rng(0)
    config = random_config(rng, layers=1, heads=1, head_dim=48, hidden=80, ffn=64, outputs=2)
    spec = ArchSpec.full(config.dims)
    weights = random_weights(config, spec, rng)
    mask = np.ones((2, 3), np.bool_).ravel()
    mask[6 if kept is None else kept :] = False
    weight = weights.pop("layers.0.value.weight")
    blocks, index = to_blocks(weight, mask.reshape(2, 3), 32, 32)
    weights |= {"layers.0.value.blocks": blocks, "layers.0.value.block_index": index}
    return config, spec.with_layer(0, blocks=(KeptBlocks("value", 32, 32, len(index)),)), weights, weight


@pytest.mark.parametrize("kept", [0, 4, None])
def test_blocks_are_what_an_artifact_holds(tmp_path, kept) -> None:
    config, spec, weights, weight = model(kept)
    manifest = Manifest(config, spec, PrecisionPlan.uniform("bf16"), Task("classification", ("0", "1"), ("a",), 8))
    found = read(write(tmp_path / "model", manifest, weights, {"tokenizer.json": b"{}"}))
    assert found.manifest == manifest
    assert {name: array.shape for name, array in found.weights.items()} == weight_shapes(config, spec)
    dense = expand(found.weights, config, spec)
    check_weights(dense, config, ArchSpec.full(config.dims))
    if kept is None:
        np.testing.assert_array_equal(dense["layers.0.value.weight"], weight)
    assert (dense["layers.0.value.weight"] != 0).any() == (kept != 0)


def test_expanding_leaves_dense_weights_alone() -> None:
    config, _, weights, weight = model()
    dense = {name: array for name, array in weights.items() if "block" not in name} | {"layers.0.value.weight": weight}
    assert expand(dense, config, ArchSpec.full(config.dims)) == dense


def one_at(row: int, column: int) -> np.ndarray:
    block = np.zeros((32, 32), np.float32)
    block[row, column] = 1
    return block


HOSTILE = {
    "not ascending": (lambda b, i: (b, i[::-1].copy()), "ascending block numbers from 0 to 5"),
    "twice": (lambda b, i: (b, np.full_like(i, 2)), "ascending block numbers from 0 to 5"),
    "beyond": (lambda b, i: (b, i + 1), "ascending block numbers from 0 to 5"),
    "negative": (lambda b, i: (b, i - 1), "ascending block numbers from 0 to 5"),
    "far beyond": (lambda b, i: (b, np.r_[i[:-1], np.int32(2**31 - 1)].astype(np.int32)), "from 0 to 5"),
    "far below": (lambda b, i: (b, np.r_[np.int32(-(2**31)), i[1:]].astype(np.int32)), "from 0 to 5"),
    "below the edge": (lambda b, i: (b + one_at(16, 0), i), "zero outside"),
    "right of the edge": (lambda b, i: (b + one_at(0, 16), i), "zero outside"),
    "too few": (lambda b, i: (b, i[1:]), "block_index is int32 (5,)"),
    "of doubles": (lambda b, i: (b.astype(np.float64), i), "blocks is float64"),
    "of longs": (lambda b, i: (b, i.astype(np.int64)), "block_index is int64"),
    "of another shape": (lambda b, i: (b.reshape(6, 16, 64), i), "(6, 16, 64)"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_blocks_are_refused(name) -> None:
    config, spec, weights, _ = model()
    damage, message = HOSTILE[name]
    blocks, index = damage(weights["layers.0.value.blocks"], weights["layers.0.value.block_index"])
    broken = weights | {"layers.0.value.blocks": blocks, "layers.0.value.block_index": index}
    with pytest.raises(InputError) as error:
        check_weights(broken, config, spec)
    assert message in str(error.value)


def test_blocks_that_are_not_there_are_named() -> None:
    config, spec, weights, weight = model()
    del weights["layers.0.value.block_index"]
    with pytest.raises(InputError, match="missing"):
        check_weights(weights, config, spec)
    with pytest.raises(InputError, match=r"layers\.0\.value\.block_index is missing"):
        expand(weights, config, spec)
    with pytest.raises(InputError, match="must be \\[n, R, C\\]"):
        to_dense(np.zeros((2, 32), np.float32), np.zeros(2, np.int32), weight.shape)


def test_a_head_on_every_token_has_no_dense_layer() -> None:
    config, spec, _, _ = model()
    pooled, tokens = weight_shapes(config, spec), weight_shapes(replace(config, rows="tokens"), spec)
    assert pooled.keys() - tokens.keys() == {"head.dense.weight", "head.dense.bias"}
    assert math.prod(tokens["head.output.weight"]) == config.outputs * config.dims.hidden
