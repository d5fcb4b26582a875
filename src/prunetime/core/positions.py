"""Positions that are no table of embeddings.

Relative ones, as MPNet has them from T5 (arXiv 1910.10683): every head adds a learned number to the score of a query
and a key, for the bucket that their distance falls in. Rotary ones, as ModernBERT has them from RoFormer (arXiv
2104.09864): every pair of numbers of a query or key turns by an angle that grows with the position.
"""

from __future__ import annotations

import numpy as np

from prunetime.core.arrays import Float32Array, Int64Array

BUCKETS = 32
"""Half of them for keys that come before the query (or are it), half for those after it."""

EXACT = BUCKETS // 4
"""Distances below it have buckets of their own; each one beyond is wider than the last by the square root of 2."""


def buckets(longest: int) -> Int64Array:
    """[2 longest - 1], for every distance (key - query) from 1 - longest to longest - 1."""
    distances = np.arange(1 - longest, longest)
    far = np.abs(distances)
    bits = np.frexp(far * far // EXACT**2)[1]  # so that this is EXACT + floor(2 log2(far / EXACT)), in whole numbers
    beyond = np.minimum(EXACT + bits - 1, BUCKETS // 2 - 1)
    return np.where(far < EXACT, far, beyond) + np.where(distances > 0, BUCKETS // 2, 0)


def by_distance(bias: Float32Array, longest: int) -> Float32Array:
    """[heads, 2 longest - 1]: what heads add for every distance, of `bias` [heads, BUCKETS]."""
    return np.ascontiguousarray(bias[:, buckets(longest)])


def angles(theta: float, head_dim: int, longest: int) -> Float32Array:
    """[longest, head_dim / 2], by which the numbers j and j + head_dim / 2 of a head turn at every position: position /
    theta^(2 j / head_dim), rounded as transformers does."""
    slowing = (1.0 / theta ** (np.arange(0, head_dim, 2) / head_dim)).astype(np.float32)
    return np.arange(longest, dtype=np.float32)[:, None] * slowing
