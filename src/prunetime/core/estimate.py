"""A measured value with its uncertainty, and how alike two orders are: each formula written once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from prunetime.core.arrays import Array, Float64Array

E = TypeVar("E", bound="Estimate")


@dataclass(frozen=True)
class Estimate:
    """A value and the ends of its 95 % interval, all in one unit.

    Example:
        >>> Estimate(10.0, 9.0, 12.0).scaled(2.0)
        Estimate(value=20.0, low=18.0, high=24.0)
    """

    value: float
    low: float
    high: float

    @classmethod
    def of_resamples(cls: type[E], value: float, resamples: Float64Array, **more: Any) -> E:
        """The estimate of `value` whose interval are the 2.5 and 97.5 percentiles of a bootstrap's `resamples` [n]."""
        low, high = np.percentile(resamples, (2.5, 97.5))
        return cls(float(value), float(low), float(high), **more)

    @property
    def ci95(self) -> tuple[float, float]:
        """The ends of the 95 % interval."""
        return self.low, self.high

    @property
    def width(self) -> float:
        """The width of the interval as a share of the value."""
        return (self.high - self.low) / self.value

    def is_wider_than(self, share: float) -> bool:
        """Whether the interval is wider than a `share` of the value."""
        return self.high - self.low > share * self.value

    def scaled(self, factor: float) -> Estimate:
        """The estimate of `factor` times the value; `factor` is above 0."""
        return Estimate(factor * self.value, factor * self.low, factor * self.high)

    def to_json(self, name: str = "value", interval: str = "ci95") -> dict[str, Any]:
        """`{name: value, interval: [low, high]}`, which `from_json` reads."""
        return {name: self.value, interval: [self.low, self.high]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], name: str = "value", interval: str = "ci95") -> Estimate:
        """Raises KeyError or ValueError where `data` has no such fields."""
        low, high = data[interval]
        return Estimate(data[name], low, high)


class Ranking:
    """The `order` of values [n], ascending unless `descending`; equal values are one step, which begins at `starts`."""

    def __init__(self, values: Array, *, descending: bool = False) -> None:
        self.order = np.argsort(-values if descending else values, kind="stable")
        ordered = values[self.order]
        self.starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])

    def steps(self, weights: Float64Array) -> Float64Array:
        """`weights` [resamples, n], in ranked order, summed over equal values, [resamples, steps]."""
        return np.add.reduceat(weights, self.starts, axis=1)

    def centered_ranks(self, weights: Float64Array) -> Float64Array:
        """Mid-ranks [resamples, n] of values that are counted `weights` [resamples, n] times, less their mean."""
        step = self.steps(weights[:, self.order])
        middle = np.cumsum(step, axis=1) - step / 2
        ranks = np.empty_like(weights)
        ranks[:, self.order] = np.repeat(middle, np.diff(np.r_[self.starts, weights.shape[1]]), axis=1)
        # weighted mid-ranks have this mean, whatever the ties
        return np.asarray(ranks - weights.sum(axis=1, keepdims=True) / 2)


def spearman(one: Ranking, other: Ranking, weights: Float64Array) -> Float64Array:
    """Spearman's rank correlation [resamples] of two rankings of values that are counted `weights` [resamples, n]
    times: Pearson's correlation of the mid-ranks, NaN where all values of one are equal."""
    a, b = one.centered_ranks(weights), other.centered_ranks(weights)
    covariance, spread_a, spread_b = ((weights * x).sum(axis=1) for x in (a * b, a * a, b * b))
    return divided(covariance, np.sqrt(spread_a * spread_b))


def divided(numerator: Float64Array, denominator: Float64Array) -> Float64Array:
    """numerator / denominator, NaN where the denominator is 0."""
    nan = np.full(np.shape(numerator), np.nan)
    return np.asarray(np.divide(numerator, denominator, out=nan, where=denominator != 0))
