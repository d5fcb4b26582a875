"""What attention sees of how far apart tokens are, as tensors: `prunetime.core.positions` has the numbers."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from prunetime.core.positions import angles, buckets


@lru_cache(maxsize=64)
def in_buckets(length: int) -> Tensor:
    """[queries, keys]: of relative positions."""
    positions = torch.arange(length)
    return torch.from_numpy(buckets(length))[positions[None, :] - positions[:, None] + length - 1]


@lru_cache(maxsize=64)
def _rotation(theta: float, head_dim: int, length: int) -> tuple[Tensor, Tensor]:
    """The cosine and sine [length, head_dim / 2] of rotary positions."""
    turns = torch.from_numpy(angles(theta, head_dim, length)).double()
    return turns.cos(), turns.sin()


def turned(x: Tensor, theta: float) -> Tensor:
    """Queries or keys `x` [batch, heads, tokens, head_dim] at their positions."""
    precise = torch.promote_types(x.dtype, torch.float32)  # as transformers does, where x is narrower
    cosine, sine = (part.to(x.device, precise) for part in _rotation(theta, x.shape[-1], x.shape[-2]))
    left, right = x.chunk(2, dim=-1)
    return torch.cat((left * cosine - right * sine, right * cosine + left * sine), dim=-1).to(x.dtype)


@lru_cache(maxsize=64)
def near(length: int, window: int) -> Tensor:
    """[queries, keys]: whether they are no further apart than `window`."""
    positions = torch.arange(length)
    return (positions[None, :] - positions[:, None]).abs() <= window
