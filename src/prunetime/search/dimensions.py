"""Dimensions of an Optuna search space as genes: each has a few levels, whatever the range of its parameter."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

MOST_LEVELS = 100
"""The highest level of a number: a range is cut into so many parts, if it has more values."""

LEAST_LEVELS = 7
"""The highest level of a number in a study of very many parameters."""

ACTIONS = 500
"""About how many levels all parameters have together: the time of a proposal grows with them."""

MOST_CHOICES = 256
"""A category with more choices than this is no gene."""


def is_gene(distribution: BaseDistribution) -> bool:
    """Whether a parameter can be a gene: it has more than one value, and not too many choices."""
    many = isinstance(distribution, CategoricalDistribution) and len(distribution.choices) > MOST_CHOICES
    return not distribution.single() and not many


def in_range(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a value is between the ends of a number's range, on a step or not; of a category every choice is.

    Optuna's `_contains` finds values off their step that Optuna drew itself, where a range has 10^8 steps and more.
    """
    if isinstance(distribution, IntDistribution | FloatDistribution):
        return bool(distribution.low <= value <= distribution.high)
    return True


@dataclass(frozen=True)
class CategoricalDimension:
    """A level for every choice of a category, from 0 to `top`."""

    distribution: CategoricalDistribution

    @property
    def top(self) -> int:
        return len(self.distribution.choices) - 1

    def level_of(self, value: Any) -> int:
        return int(self.distribution.to_internal_repr(value))

    def value_at(self, level: int, rng: np.random.Generator) -> Any:  # noqa: ARG002 (as of numbers)
        return self.distribution.choices[level]


@dataclass(frozen=True)
class NumericDimension:
    """A level for every one of `points`, rising numbers from the lowest to the highest; they are all values where there
    are few, else evenly spread (in the logarithm, where the range is logarithmic).

    Values between two points have the level of the nearer one: `edges` are between the levels.
    """

    distribution: IntDistribution | FloatDistribution
    points: tuple[float, ...]
    edges: tuple[float, ...]

    @property
    def top(self) -> int:
        return len(self.points) - 1

    @classmethod
    def of(cls, distribution: IntDistribution | FloatDistribution, most: int) -> NumericDimension:
        """With at most `most` + 1 levels."""
        low, high, step = distribution.low, distribution.high, distribution.step
        if step is not None and not distribution.log and (high - low) / step <= most:
            spread = [_scaled(distribution, low + index * step) for index in range(round((high - low) / step) + 1)]
        else:
            spread = np.linspace(_scaled(distribution, low), _scaled(distribution, high), most + 1).tolist()
        points = sorted({_value(distribution, scaled) for scaled in spread[1:-1]} | {low, high})
        scaled = [_scaled(distribution, point) for point in points]
        edges = tuple((a + b) / 2 for a, b in pairwise(scaled))
        return cls(distribution, tuple(points), edges)

    def level_of(self, value: Any) -> int:
        return bisect_right(self.edges, _scaled(self.distribution, value))

    def value_at(self, level: int, rng: np.random.Generator) -> Any:
        """Drawn evenly between the edges of a level; the first and the last level are the ends of the range."""
        if 0 < level < self.top:
            drawn = _value(self.distribution, float(rng.uniform(self.edges[level - 1], self.edges[level])))
            if self.level_of(drawn) == level:
                return drawn
        return self.points[level]


Dimension = CategoricalDimension | NumericDimension
"""A parameter whose values are grouped into levels."""


def dimension_of(distribution: BaseDistribution, parameters: int) -> Dimension:
    """Returns the dimension of a parameter with `distribution`, in a study that has so many `parameters`."""
    if isinstance(distribution, CategoricalDistribution):
        return CategoricalDimension(distribution)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return NumericDimension.of(distribution, min(MOST_LEVELS, max(LEAST_LEVELS, ACTIONS // parameters)))


def _scaled(distribution: IntDistribution | FloatDistribution, value: float) -> float:
    return math.log(value) if distribution.log else float(value)


def _value(distribution: IntDistribution | FloatDistribution, scaled: float) -> float:
    """The nearest value of the distribution."""
    low, high, step = distribution.low, distribution.high, distribution.step
    value = math.exp(scaled) if distribution.log else scaled
    if step is not None:
        value = low + step * round((value - low) / step)
    return min(high, max(low, value))
