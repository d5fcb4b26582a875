"""Pooling in torch: the rows of a sequence's tokens become one row."""

from __future__ import annotations

import torch
from torch import Tensor

from prunetime.core.config import LEAST_COUNT, Pooling


def pooled(pooling: Pooling, x: Tensor, real: Tensor, skipped: Tensor | None = None) -> Tensor:
    """Pools, into [batch, hidden], the rows of `x` [batch, tokens, hidden] that are `real` [batch, tokens], but for the
    first `skipped` [batch] of each sequence, as the Pooling module of sentence-transformers 6.2 pools them.

    A sequence without any such row gets zeros, `first` the row of its first token.
    """
    if pooling == "first" and skipped is None:
        return x[:, 0]
    places = torch.arange(x.shape[1], device=x.device)
    padding_before = real.int().argmax(1, keepdim=True)
    kept = real if skipped is None else real & (places >= padding_before + skipped[:, None])
    if pooling == "first":
        return _row(x, kept.int().argmax(1))
    if pooling == "lasttoken":
        last = x.shape[1] - 1 - kept.flip(1).int().argmax(1)
        return _row(x, last) * kept.any(1, keepdim=True)
    if pooling == "max":
        largest = x.masked_fill(~kept.unsqueeze(-1), -torch.inf).amax(1)
        return largest.masked_fill(~kept.any(1, keepdim=True), 0.0)
    weights = (kept * (places + 1 - padding_before) if pooling == "weightedmean" else kept).to(x.dtype)
    count = weights.sum(1, keepdim=True).clamp(min=LEAST_COUNT)
    return (x * weights.unsqueeze(-1)).sum(1) / (count.sqrt() if pooling == "mean_sqrt_len" else count)


def _row(x: Tensor, places: Tensor) -> Tensor:
    """Returns [batch, hidden], the row of every sequence of `x` at its place."""
    return x[torch.arange(len(x), device=x.device), places]
