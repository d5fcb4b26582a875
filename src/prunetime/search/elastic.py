"""Which sub-networks elastic training trains, so that any genome can be scored with the weights they share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prunetime.arch import ArchSpec, Dims
from prunetime.errors import InputError
from prunetime.search.space import Genome, Space, fit_to

NEAR = 1 / 6
"""A structure near a uniform one has every gene within this share of its levels."""


@dataclass(frozen=True)
class Sandwich:
    """The sandwich rule (Yu and Huang, arXiv 1903.05134): every step trains the smallest and `random` others.

    The smallest is the uniform structure of the share `smallest` of the weights. The others are random structures of
    a share between that and 1, uniform in its logarithm, half of them near a uniform one. Shares are of the weights of
    the layers and not of latency, so that training does not depend on the machine.
    """

    dims: Dims
    smallest: float
    random: int = 2

    def __post_init__(self) -> None:
        if not 0.0 < self.smallest <= 1.0 or self.random < 0:
            raise InputError(f"{self}: smallest is a share of the weights above 0 and up to 1; random at least 0")

    def smallest_spec(self) -> ArchSpec:
        space = Space(self.dims)
        return space.spec(_nearest(space, np.full(len(space.levels), self.smallest)))

    def draw(self, rng: np.random.Generator) -> list[ArchSpec]:
        space = Space(self.dims)
        dense = ArchSpec.full(self.dims).weights(self.dims)

        def share_of(genome: Genome) -> float:
            return space.spec(genome).weights(self.dims) / dense

        specs = [self.smallest_spec()]
        for _ in range(self.random):
            share = float(np.exp(rng.uniform(np.log(self.smallest), 0.0)))
            even = rng.random() < 0.5
            start = _nearest(space, share + rng.uniform(-NEAR, NEAR, len(space.levels))) if even else space.random(rng)
            fitted = fit_to(space.levels, share_of, start, share, rng)
            specs.append(space.spec(fitted[0] if fitted else start))
        return specs


def _nearest(space: Space, shares: NDArray[np.float64]) -> Genome:
    """The genome of these shares of the levels, none of them zero."""
    return tuple(int(gene) for gene in np.clip(np.rint(shares * space.levels), 1, space.levels))
