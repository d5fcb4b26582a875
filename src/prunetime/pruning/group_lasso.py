"""Reweighted group lasso: a penalty on the norms of blocks, the harder the smaller they are, and then those that are
left small are gone (Li et al., "Efficient Transformer-based Large Scale Language Representations using
Hardware-friendly Block Structured Pruning", arXiv 2009.08065)."""

from __future__ import annotations

import torch
from torch import Tensor

from prunetime.models.encoder import Linears
from prunetime.models.mask_variables import block_sums
from prunetime.pruning.masks import LearnedMasks, MaskStep

STRENGTH = 1.0
SMOOTHING = 0.1
"""A share of a mean block's norm that keeps the penalty of a vanishing block from growing without end."""


class GroupLasso(LearnedMasks):
    """Masks of blocks whose norms are penalised, each weighed by its own inverse square, so that small blocks vanish.

    Norms are relative to the mean of the matrix's blocks at first.
    """

    def __init__(self, step: MaskStep, linears: Linears) -> None:
        weights = [linear.weight for layer in linears for linear in layer.values()]  # before masks are put on them
        super().__init__(step, linears)
        self._weights = tuple(weights)  # they are parameters of the encoder, not of this
        with torch.no_grad():
            self._first = [norms.mean() for norms in self._norms()]

    def _norms(self) -> list[Tensor]:
        assert self.step.block_shape is not None
        sums = [block_sums(weight.square(), self.step.block_shape) for weight in self._weights]
        return [squares.clamp(min=1e-12).sqrt() for squares in sums]

    def saliencies(self) -> list[Tensor]:
        return [norms / first for norms, first in zip(self._norms(), self._first, strict=True)]

    def sparsity_loss(self) -> Tensor:
        norms = torch.cat([norms.flatten() for norms in self.saliencies()])
        return STRENGTH * (norms / (norms.detach().square() + SMOOTHING)).mean()
