"""Relative and rotary positions and the sliding window, as tensors: `prunetime.core.positions` has the numbers."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from prunetime.core.positions import angles, buckets


@lru_cache(maxsize=64)
def relative_buckets(length: int) -> Tensor:
    """Returns the buckets [queries, keys] of relative positions."""
    positions = torch.arange(length)
    return torch.from_numpy(buckets(length))[positions[None, :] - positions[:, None] + length - 1]


@lru_cache(maxsize=64)
def _rotation(theta: float, head_dim: int, length: int) -> tuple[Tensor, Tensor]:
    """Returns the cosine and sine [length, head_dim / 2] of rotary positions."""
    turns = torch.from_numpy(angles(theta, head_dim, length)).double()
    return turns.cos(), turns.sin()


def apply_rotary(x: Tensor, theta: float) -> Tensor:
    """Rotates queries or keys `x` [batch, heads, tokens, head_dim] by their positions."""
    precise = torch.promote_types(x.dtype, torch.float32)  # as transformers does, where x is narrower
    cosine, sine = (part.to(x.device, precise) for part in _rotation(theta, x.shape[-1], x.shape[-2]))
    left, right = x.chunk(2, dim=-1)
    return torch.cat((left * cosine - right * sine, right * cosine + left * sine), dim=-1).to(x.dtype)


@lru_cache(maxsize=64)
def sliding_window_mask(length: int, window: int) -> Tensor:
    """Returns the mask [queries, keys] of sliding-window attention: true where they are at most `window` apart."""
    positions = torch.arange(length)
    return (positions[None, :] - positions[:, None]).abs() <= window
