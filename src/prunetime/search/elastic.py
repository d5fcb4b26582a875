"""The sub-networks that elastic training trains, so that any genome can be scored with the weights they share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prunetime.core.arch import ArchSpec
from prunetime.core.arrays import Float64Array
from prunetime.errors import InputError
from prunetime.search.space import Genome, Space, fit_to

NEAR = 1 / 6
"""A structure near a uniform one has every gene within this share of its levels."""


@dataclass(frozen=True)
class Sandwich:
    """The sandwich rule (Yu and Huang, arXiv 1903.05134): a step trains the smallest and `random` others of `space`.

    The smallest is the uniform structure of the share `smallest` of the operations. The others are random structures
    of a share between that and 1, uniform in its logarithm, half of them near a uniform one, and half of those of a
    space with dropped tokens or blocks with all of them. Shares are of the operations on sequences of `length` tokens
    and not of latency, so that training does not depend on the machine.
    """

    space: Space
    smallest: float
    length: int
    random: int = 2

    def __post_init__(self) -> None:
        if not 0.0 < self.smallest <= 1.0 or self.length < 1 or self.random < 0:
            raise InputError(
                f"{self}: smallest is a share of the operations above 0 and up to 1; length at least 1, random 0"
            )

    def smallest_spec(self) -> ArchSpec:
        space = Space(self.space.dims)
        return space.spec(_nearest(space, np.full(len(space.levels), self.smallest)))

    def draw(self, rng: np.random.Generator) -> list[ArchSpec]:
        dims = self.space.dims
        dense = ArchSpec.full(dims).flops(dims, self.length)
        specs = [self.smallest_spec()]
        for _ in range(self.random):
            space = self.space if rng.random() < 0.5 else Space(dims)
            share = float(np.exp(rng.uniform(np.log(self.smallest), 0.0)))
            even = rng.random() < 0.5
            start = _nearest(space, share + rng.uniform(-NEAR, NEAR, len(space.levels))) if even else space.random(rng)

            def share_of(genome: Genome, space: Space = space) -> float:
                return space.spec(genome).flops(dims, self.length) / dense

            fitted = fit_to(space.levels, share_of, start, share, rng)
            specs.append(space.spec(fitted[0] if fitted else start))
        return specs


def _nearest(space: Space, shares: Float64Array) -> Genome:
    """The genome of these shares of the levels, none of them zero."""
    return tuple(int(gene) for gene in np.clip(np.rint(shares * space.levels), 1, space.levels))
