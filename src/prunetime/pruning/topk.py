"""Learnable top-k: which parts are kept is learned by their scores, and how many by a threshold (MLPruning, arXiv
2105.14636, section 3)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

KEPT_AT_FIRST = 0.98
"""The keep ratio that a threshold starts from."""


def kept_of(ratio: float, parts: int, tile: int = 1) -> int:
    """How many of `parts` the keep `ratio` keeps: rounded up to whole tiles, at most all."""
    return min(parts, tile * math.ceil(ratio * parts / tile))


class TopKMask(nn.Module):
    """A mask of ones for the highest `scores` (ties: the lower index), zeros elsewhere.

    As many are kept as sigmoid(`threshold`) says, in whole tiles of `tile` parts. Both are parameters; scores start at
    zero where none are given. `fixed` is a mask that is no longer learned.
    """

    fixed: Tensor

    def __init__(self, shape: tuple[int, ...], tile: int = 1, scores: NDArray[np.float64] | None = None) -> None:
        super().__init__()
        self.tile = tile
        first = torch.zeros(shape) if scores is None else torch.tensor(scores, dtype=torch.float32).reshape(shape)
        self.scores = nn.Parameter(first)
        self.register_buffer("fixed", torch.ones(shape))
        self.threshold = nn.Parameter(torch.logit(torch.tensor(KEPT_AT_FIRST)))

    def kept(self, ratio: float) -> int:
        """How many parts the keep ratio keeps."""
        return kept_of(ratio, self.scores.numel(), self.tile)

    def forward(self, kept: int) -> Tensor:
        """The mask of the `kept` highest scores, in their shape, with the straight-through gradient to both parameters.

        `kept` is what `kept` says of the threshold; whoever has many masks reads all thresholds at once.
        """
        mask: Tensor = _TopK.apply(self.scores, self.threshold, kept)  # type: ignore[no-untyped-call]
        return mask


class _TopK(torch.autograd.Function):
    """The mask M of the k highest scores S. Straight through: dL/dS = dL/dM, and dL/dthreshold the sum of dL/dM over
    what is kept, so that the threshold falls where less of the kept parts would lower the loss."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, _threshold: Tensor, kept: int) -> Tensor:
        mask = torch.zeros_like(scores)
        mask.view(-1)[scores.flatten().argsort(descending=True, stable=True)[:kept]] = 1.0
        ctx.save_for_backward(mask)
        return mask

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (mask,), (gradient,) = ctx.saved_tensors, gradients
        return gradient, (gradient * mask).sum(), None
