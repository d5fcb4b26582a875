"""Least squares with a ridge, from sums over tokens: what the repair of an output matrix solves."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BIAS_RIDGE = 1e-6
"""The strength of the ridge for a bias, which is hardly held."""


def with_one(x: Tensor) -> Tensor:
    """Returns the inputs `x` [tokens, width] with a first one that is 1, for the bias: [tokens, 1 + width]."""
    return torch.cat((torch.ones_like(x[:, :1]), x), dim=1)


def factor(gram: Tensor, ridge: float) -> Tensor:
    """Returns the Cholesky factor, lower triangular, of a Gram matrix [1 + width, 1 + width] and its ridge.

    Args:
        gram: The Gram matrix x^T x in float64, of inputs whose first is 1.
        ridge: The strength of the ridge, as a share of the mean square of the other inputs.
    """
    ridges = torch.full((len(gram),), ridge * float(gram.diagonal()[1:].mean()), dtype=gram.dtype)
    ridges[0] = BIAS_RIDGE * gram[0, 0]
    lower: Tensor = torch.linalg.cholesky(gram + ridges.diag())
    return lower


@dataclass
class Moments:
    """Sums over tokens that a least-squares problem is solved from, in float64.

    Attributes:
        gram: x^T x of inputs x [tokens, 1 + width], whose first is 1.
        cross: x^T r of residuals r [tokens, rows].
        square: The sum of r^2.
    """

    gram: Tensor
    cross: Tensor
    square: float = 0.0

    @classmethod
    def zeros(cls, width: int, rows: int) -> Moments:
        gram, cross = (torch.zeros(1 + width, columns, dtype=torch.float64) for columns in (1 + width, rows))
        return cls(gram, cross)

    def add(self, x: Tensor, r: Tensor) -> None:
        """Adds tokens: what a matrix reads of them, `x` [tokens, width], and their residuals `r` [tokens, rows]."""
        x = with_one(x)
        self.gram += x.T @ x
        self.cross += x.T @ r
        self.square += float(r.double().square().sum())

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.gram + other.gram, self.cross + other.cross, self.square + other.square)

    def solution(self, ridge: float) -> Tensor:
        """Returns the solution [1 + width, rows], the first row of which is for the bias; `ridge` as in `factor`."""
        return torch.cholesky_solve(self.cross, factor(self.gram, ridge))

    def error(self, solution: Tensor) -> float:
        """Returns the sum of the squares that a solution leaves."""
        return float(self.square - 2 * (solution * self.cross).sum() + (solution * (self.gram @ solution)).sum())
