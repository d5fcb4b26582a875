"""The linear layer of blocks is the dense one with zeros, and what is pruned stays zero in training."""

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from prunetime.core.arch import BLOCK_SHAPES, KeptBlocks, block_grid
from prunetime.core.blocks import check_blocks, to_dense
from prunetime.models.sparse import BlockLinear


def layer(rng, shape, block_shape):
    count = math.prod(block_grid(shape, *block_shape))
    kept = int(rng.integers(0, count + 1))
    linear = BlockLinear(shape[1], shape[0], KeptBlocks("query", *block_shape, kept))
    index = np.sort(rng.choice(count, kept, replace=False)).astype(np.int32)
    linear.block_index.copy_(torch.from_numpy(index))
    linear.blocks.data = linear.fresh_blocks(0.5)
    return linear


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.tuples(st.integers(1, 70), st.integers(1, 70)), st.sampled_from(BLOCK_SHAPES))
def test_it_is_the_dense_layer_with_zeros(seed, shape, block_shape):
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    linear = layer(rng, shape, block_shape)
    stored = linear.blocks.detach().numpy(), linear.block_index.numpy()
    check_blocks("fresh", *stored, shape)
    dense = torch.from_numpy(to_dense(*stored, shape)).requires_grad_()
    torch.testing.assert_close(linear.weight, dense, rtol=0, atol=0)
    x = torch.from_numpy(rng.standard_normal((3, shape[1])).astype(np.float32))
    expected = functional.linear(x, dense, linear.bias.detach())
    torch.testing.assert_close(linear(x), expected)
    functional.linear(x, dense).square().sum().backward()
    linear(x).square().sum().backward()
    gradient = to_dense(linear.blocks.grad.numpy(), stored[1], shape)
    np.testing.assert_allclose(gradient, (dense.grad * torch.from_numpy(gradient != 0)).numpy(), rtol=1e-4, atol=1e-4)


def test_what_is_pruned_and_what_is_outside_stays_zero_in_training():
    rng = np.random.default_rng(1)
    linear = layer(rng, (40, 50), (32, 16))
    before = linear.weight.detach().clone()
    optimizer = torch.optim.AdamW(linear.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        linear(torch.randn(8, 50)).square().sum().backward()
        optimizer.step()
    after = linear.weight.detach()
    assert ((after == 0) == (before == 0)).all()
    assert (after != before)[before != 0].all()
    check_blocks("trained", linear.blocks.detach().numpy(), linear.block_index.numpy(), (40, 50))
