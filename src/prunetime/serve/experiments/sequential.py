"""Differences of defect rates that may be looked at at any time: an interval over keys that holds at all looks at once.

Arms are given to keys, and a key has many outcomes that are alike, so keys are the independent units, and not outcomes.

- **What is estimated.** The rate of an arm is all its defects over all its outcomes (a ratio of sums, in which a key
  counts as often as it has outcomes); the difference is treatment's rate less control's.
- **Its variance.** By the delta method, a ratio of sums over n keys varies as `defects - rate * outcomes` does over
  keys, whatever rates keys have, however many outcomes each has, and whether the two go together or not. Three things
  guard small samples: quantiles are Student's, an arm of few keys borrows the variance of both, and each arm counts one
  more key with defects.
- **All looks at once.** The information, one over the variance of the difference, is the clock. Against it, the error
  of the difference times the information is nearly a Wiener process. Keys that come, and outcomes that come late of
  keys that were there, both move that clock, so it matters not in which order outcomes come (a clock that counts keys
  would stand still while late outcomes come, and count too few of the looks). A boundary that a Wiener process ever
  crosses with probability alpha is then an asymptotic confidence sequence (Waudby-Smith, Arbour, Sinha, Kennedy and
  Ramdas, "Time-uniform central limit theory and asymptotic confidence sequences", arXiv 2103.06476: Theorem 2.2, and
  the strong approximation behind it). Asymptotic means, as of any interval that rests on a central limit theorem, that
  the promise is nearly kept once there are some tens of keys with defects; `bench/experiments.py` measures how nearly.

There are two such boundaries. Without a plan it is that of a normal mixture (Theorem 2.2). With a smallest difference
to `detect` it is constant, as in the test of O'Brien and Fleming, until there is as much information as finding that
difference takes, and grows afterwards, just so that the interval never widens. The interval is then narrowest when it
is needed, and the experiment takes hardly more keys than a test that is looked at once.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
"""A number (of shape []), or one for each of several experiments."""

MIXTURE_DEVIATION = 0.1
"""Standard deviation of the differences in the normal mixture: the interval is tightest for differences below it."""

POWER = 0.8
"""Probability that a difference of `detect` is found by the time of the plan."""

BORROWED_KEYS = 20
"""Keys' worth of the variance of both arms in that of each: it matters in an arm of so few keys only."""

Advice = Literal["continue", "stop: better", "stop: worse", "stop: no difference that matters"]


@dataclass(frozen=True)
class KeySums:
    """Sums over the keys of one arm; each is a number, or an array of one for each of several experiments."""

    keys: FloatArray
    outcomes: FloatArray
    defects: FloatArray
    outcomes_squared: FloatArray
    outcomes_times_defects: FloatArray
    defects_squared: FloatArray

    @classmethod
    def of(cls, outcomes: ArrayLike, defects: ArrayLike) -> KeySums:
        """The sums of keys with so many `outcomes`, of which so many are `defects`; both of shape [..., keys]."""
        o, d = np.asarray(outcomes, np.float64), np.asarray(defects, np.float64)
        each = (np.ones_like(o), o, d, o * o, o * d, d * d)
        return cls(*(np.asarray(values.sum(axis=-1)) for values in each))

    @classmethod
    def read(cls, sums: ArrayLike) -> KeySums:
        """The sums of an arm as a database gives them: six numbers in the order of the fields."""
        return cls(*np.asarray(sums, np.float64))

    @classmethod
    def none(cls) -> KeySums:
        """The sums of an arm without a key."""
        return cls.read(np.zeros(6))

    def __add__(self, other: KeySums) -> KeySums:
        return KeySums(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def rate(self) -> FloatArray:
        """Defects over outcomes; NaN without an outcome."""
        with np.errstate(invalid="ignore"):
            return self.defects / self.outcomes

    @property
    def effective_keys(self) -> FloatArray:
        """Keys that would weigh as much if all had equally many outcomes (Kish's effective sample size)."""
        return _over(self.outcomes**2, self.outcomes_squared)

    @property
    def squared_residuals(self) -> FloatArray:
        """The sum over keys of (defects - rate * outcomes)^2, over the sum of outcomes^2: below 1."""
        rate = np.nan_to_num(self.rate)
        found = self.defects_squared - 2.0 * rate * self.outcomes_times_defects + rate**2 * self.outcomes_squared
        return _over(np.maximum(found, 0.0), self.outcomes_squared)


@dataclass(frozen=True)
class Difference:
    """Treatment's rate less control's (NaN while an arm has no outcome), give or take `half_width` (infinite while an
    arm has the weight of one key only). `information` is one over the variance of the difference, and `progress` its
    share of the information that finds a difference of `detect` (NaN where none is said)."""

    value: FloatArray
    half_width: FloatArray
    information: FloatArray
    progress: FloatArray

    @property
    def interval(self) -> tuple[float, float]:
        """Its ends, of one experiment: at least -1, at most 1."""
        if not math.isfinite(self.half_width):
            return -1.0, 1.0
        return max(-1.0, float(self.value - self.half_width)), min(1.0, float(self.value + self.half_width))


def difference(control: KeySums, treatment: KeySums, alpha: float = 0.05, detect: float | None = None) -> Difference:
    """The difference of two arms, with an interval that holds at all looks at once with probability 1 - `alpha`."""
    arms = (control, treatment)
    weights = [arm.effective_keys for arm in arms]
    degrees = [np.maximum(weight - 1.0, 0.0) for weight in weights]
    spreads = [weight * arm.squared_residuals for weight, arm in zip(weights, arms, strict=True)]
    both = _over(np.asarray(sum(spreads)), np.asarray(sum(degrees)))
    key_with_defects = _share_where_defects_are(control + treatment) ** 2
    variances = []
    for weight, degree, spread in zip(weights, degrees, spreads, strict=True):
        of_a_key = (spread + BORROWED_KEYS * both) / (degree + BORROWED_KEYS)
        variances.append(_over(of_a_key, weight) + _over(key_with_defects, weight**2))
    variance = np.asarray(sum(variances))
    # An arm that weighs no more than one key says nothing of how much keys differ.
    known = np.minimum(*degrees) > 1e-9
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.where(known, 1.0 / variance, 0.0)
        freedom = variance**2 / sum(v**2 / d for v, d in zip(variances, degrees, strict=True))
    plan = math.nan if detect is None else planned_information(alpha, detect)
    progress = information / plan
    normal = mixture_quantile(information, alpha) if detect is None else planned_quantile(progress, alpha)
    with np.errstate(invalid="ignore"):
        half_width = np.where(known, students(normal, freedom) * np.sqrt(variance), np.inf)
    return Difference(treatment.rate - control.rate, half_width, information, progress)


def mixture_quantile(information: FloatArray, alpha: float) -> FloatArray:
    """The boundary of a normal mixture, in standard errors: a Wiener process ever crosses it with probability alpha."""
    with np.errstate(divide="ignore", invalid="ignore"):
        x = information * MIXTURE_DEVIATION**2
        return np.where(x > 0.0, np.sqrt((1.0 + 1.0 / x) * np.log((1.0 + x) / alpha**2)), np.inf)


def planned_quantile(progress: FloatArray, alpha: float) -> FloatArray:
    """The boundary with a plan, in standard errors, at shares of the planned information.

    A Wiener process of [0, 1] leaves -c..c with probability 4 (1 - Phi(c)) at most, by reflection. Once at 1 inside, it
    is ever outside of c sqrt(t (1 + ln t)) with probability 2 (1 - Phi(c)) at most (the tangents of a concave boundary
    bound the density of the first crossing; a test simulates it). Together they are alpha.
    """
    before, after = np.minimum(progress, 1.0), np.maximum(progress, 1.0)
    with np.errstate(divide="ignore"):
        return planned_constant(alpha) * np.sqrt((1.0 + np.log(after)) / before)


def planned_constant(alpha: float) -> float:
    """The constant c of `planned_quantile`, for all looks at once with probability alpha."""
    return NormalDist().inv_cdf(1.0 - alpha / 6.0)


@lru_cache
def planned_information(alpha: float, detect: float) -> float:
    """The information by which a difference of `detect` is found with probability POWER."""
    phi, c = NormalDist().cdf, planned_constant(alpha)
    low, high = 0.0, c + 10.0
    while high - low > 1e-9:
        drift = (low + high) / 2
        # That a Wiener process with this drift reaches c by the time of 1.
        found = phi(drift - c) + math.exp(2.0 * drift * c) * phi(-drift - c)
        low, high = (drift, high) if found < POWER else (low, drift)
    return (high / detect) ** 2


def students(normal: FloatArray, freedom: FloatArray) -> FloatArray:
    """The quantiles of Student's t distribution where the normal distribution has `normal` (Wallace, "Bounds on normal
    approximations to Student's and the chi-square distributions", 1959)."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        found = np.sqrt(freedom * np.expm1((normal * (8.0 * freedom + 3.0) / (8.0 * freedom + 1.0)) ** 2 / freedom))
        return np.where(np.isfinite(found), found, np.inf)


def advice(interval: tuple[float, float], margin: float) -> Advice:
    """The decision where fewer defects are better and a difference below `margin` does not matter."""
    low, high = interval
    if high < 0.0:
        return "stop: better"
    if low > 0.0:
        return "stop: worse"
    if -margin < low and high < margin:
        return "stop: no difference that matters"
    return "continue"


def _share_where_defects_are(sums: KeySums) -> FloatArray:
    """The share of defects in the key of a defect, on average; 1 where there is no defect yet."""
    found = _over(sums.defects_squared, sums.outcomes_times_defects)
    return np.where(sums.defects > 0.0, found, 1.0)


def _over(above: FloatArray, below: FloatArray) -> FloatArray:
    """A quotient that is 0 where nothing is divided by."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(below > 0.0, above / below, 0.0)
