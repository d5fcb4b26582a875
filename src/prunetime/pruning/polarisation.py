"""Soft gates that training drives apart, to nothing or to one: differentiable polarisation (GDP, arXiv 2109.02220)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from prunetime.models.encoder import Linears
from prunetime.pruning.masks import LearnedMasks, MaskStep
from prunetime.pruning.topk import first_scores, kept_of

SOFT, HARD = 0.1, 1e-3
"""What the smoothing falls from and to in the second half of the steps in which gates are learned: in the first they
come down to the target, and in the end a gate is nearly 0 or nearly 1."""


class Polarisation(LearnedMasks):
    """Masks of soft gates: the gate of every part is s^2 / (s^2 + smoothing), its number s a parameter that starts
    between 1/2 and 1: the higher, the more the part matters at first."""

    smoothing: Tensor

    descent: ClassVar[float] = 2.0

    def __init__(self, step: MaskStep, linears: Linears) -> None:
        super().__init__(step, linears)
        self.numbers = nn.Parameter((1.0 + first_scores(self)) / (2.0 if step.scores else 1.0))
        self.register_buffer("smoothing", self.fixed.new_tensor(SOFT))

    def masks(self) -> list[Tensor]:
        squares = self.numbers.square()
        return self.views(squares / (squares + self.smoothing))

    def sparsity_loss(self) -> Tensor:
        ratios = torch.stack([mask.mean() for mask in self.masks()])
        counts = [kept_of(*each) for each in zip(ratios.tolist(), self.sizes, self.tiles, strict=True)]
        return self.regularisation(ratios, counts, self.numbers)

    def saliencies(self) -> list[Tensor]:
        return self.views(self.numbers.detach().square())

    def end_step(self, done: int, of: int) -> None:
        second_half = min(1.0, max(0.0, 2.0 * done / (self.step.learning * of) - 1.0))
        self.smoothing.fill_(SOFT * (HARD / SOFT) ** second_half)
        super().end_step(done, of)
