"""Learnable top-k: scores say which parts are kept, a threshold how many (MLPruning, arXiv 2105.14636, section 3)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from prunetime.models.autograd import apply
from prunetime.models.encoder import Linears
from prunetime.pruning.masks import LearnedMasks, MaskStep, highest, in_tiles

KEPT_AT_FIRST = 0.98
"""The keep ratio that a threshold starts from."""

SHIFT = 40.0
"""Lowered by so much every threshold keeps everything, raised by as much nothing: its sigmoid is 1 or 0 in float32."""


def kept_of(ratio: float, parts: int, tile: int = 1) -> int:
    """Returns how many of `parts` the keep `ratio` keeps: rounded up to whole tiles, at most all."""
    return in_tiles(ratio * parts, parts, tile)


class TopK(LearnedMasks):
    """Masks that keep the parts of the highest `scores`, as many as sigmoid(`threshold`) says in whole tiles.

    Scores and thresholds are parameters. A level is a number that all thresholds are lowered by.
    """

    descent: ClassVar[float] = 6.0

    def __init__(self, step: MaskStep, linears: Linears) -> None:
        super().__init__(step, linears)
        first = first_scores(self)
        self.scores = nn.Parameter(first)
        self.thresholds = nn.Parameter(torch.logit(torch.full_like(first[: len(self.sizes)], KEPT_AT_FIRST)))
        self._counts_now: list[int] = []

    def masks(self) -> list[Tensor]:
        self._counts_now = self.counts(0.0)
        each = zip(self.saliencies(), self.thresholds.unbind(), self._counts_now, strict=True)
        return [top_k(scores, threshold, kept) for scores, threshold, kept in each]

    def sparsity_loss(self) -> Tensor:
        return self.regularisation(self.thresholds.sigmoid(), self._counts_now, self.thresholds)

    def saliencies(self) -> list[Tensor]:
        return self.views(self.scores)

    def levels(self) -> tuple[float, float]:
        return -SHIFT, SHIFT

    def counts(self, level: float) -> list[int]:
        ratios = (self.thresholds - level).sigmoid().tolist()  # at once: each of these waits for the device
        return [kept_of(*each) for each in zip(ratios, self.sizes, self.tiles, strict=True)]


def first_scores(masks: LearnedMasks) -> Tensor:
    """Returns the scores that the step of `masks` gives for all their parts, or zeros."""
    given = masks.step.scores or [{}] * len(masks.names)
    zeros = [mask.numpy() for mask in masks.views(torch.zeros(len(masks.fixed)))]
    names = [(layer, name) for layer, own in enumerate(masks.names) for name in own]
    arrays = [given[layer].get(name, zero) for (layer, name), zero in zip(names, zeros, strict=True)]
    return masks.fixed.new_tensor(np.concatenate([array.ravel() for array in arrays]))


def top_k(scores: Tensor, threshold: Tensor, kept: int) -> Tensor:
    """Returns the mask of the `kept` highest scores, in their shape, with the straight-through gradient to both.

    `kept` follows from the threshold; the caller reads all thresholds at once, because each read waits for the device.
    """
    return apply(_TopK, scores, threshold, kept)


class _TopK(torch.autograd.Function):
    """The mask M of the k highest scores S. Straight through: dL/dS = dL/dM, and dL/dthreshold the sum of dL/dM over
    what is kept, so that the threshold falls where less of the kept parts would lower the loss."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, _threshold: Tensor, kept: int) -> Tensor:
        mask = highest(scores, kept)
        ctx.save_for_backward(mask)
        return mask

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (mask,), (gradient,) = ctx.saved_tensors, gradients
        return gradient, (gradient * mask).sum(), None
