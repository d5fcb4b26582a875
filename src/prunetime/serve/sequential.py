"""Differences of defect rates that may be looked at after every outcome: intervals that hold at all times at once.

Of each arm, the likelihood of its outcomes at a rate p over their likelihood under a mixture of rates is a martingale
where p is the true one (Robbins, "Statistical methods related to the law of the iterated logarithm", 1970; the mixture
is a Beta(1/2, 1/2); Howard et al., arXiv 1810.08240, on mixtures). So is the product of both arms', whatever the
order in which outcomes come, and it ever exceeds 1/alpha with probability alpha at most (Ville's inequality): the
differences whose rates it does not rule out are the interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

PRIOR = 0.5
STEPS = 40

Advice = Literal["continue", "stop: better", "stop: worse", "stop: no difference that matters"]


@dataclass(frozen=True)
class Counts:
    """Outcomes of one arm, and how many of them were defects."""

    outcomes: int = 0
    defects: int = 0

    @property
    def rate(self) -> float | None:
        return self.defects / self.outcomes if self.outcomes else None


def evidence_against(counts: Counts) -> Callable[[float], float]:
    """The logarithm of that martingale as a function of the rate."""
    defects, others = counts.defects, counts.outcomes - counts.defects
    mixture = _log_beta(PRIOR + defects, PRIOR + others) - _log_beta(PRIOR, PRIOR)
    return lambda p: mixture - _times_log(defects, p) - _times_log(others, 1.0 - p)


def difference(control: Counts, treatment: Counts, alpha: float = 0.05) -> tuple[float, float]:
    """The interval of treatment's rate less control's that holds at all times with probability 1 - `alpha`."""
    limit, of_control, of_treatment = math.log(1.0 / alpha), evidence_against(control), evidence_against(treatment)

    def ruled_out(d: float) -> bool:
        """Whether every pair of rates that are `d` apart is."""
        low, high = max(0.0, -d), min(1.0, 1.0 - d)
        return _least(lambda p: of_control(p) + of_treatment(p + d), low, high) > limit

    middle = (treatment.rate or 0.0) - (control.rate or 0.0) if control.outcomes and treatment.outcomes else 0.0
    return _edge(ruled_out, middle, -1.0), _edge(ruled_out, middle, 1.0)


def advice(interval: tuple[float, float], margin: float) -> Advice:
    """What to do where fewer defects are better and a difference below `margin` does not matter."""
    low, high = interval
    if high < 0.0:
        return "stop: better"
    if low > 0.0:
        return "stop: worse"
    if -margin < low and high < margin:
        return "stop: no difference that matters"
    return "continue"


def _edge(ruled_out: Callable[[float], bool], inside: float, end: float) -> float:
    """The last difference from `inside` to `end` that is not ruled out."""
    if not ruled_out(end):
        return end
    for _ in range(STEPS):
        middle = (inside + end) / 2
        inside, end = (inside, middle) if ruled_out(middle) else (middle, end)
    return end


def _least(f: Callable[[float], float], low: float, high: float) -> float:
    """The least value of a convex function, by golden section."""
    ratio = (math.sqrt(5.0) - 1.0) / 2.0
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    of_a, of_b = f(a), f(b)
    for _ in range(STEPS):
        if of_a <= of_b:
            high, b, of_b = b, a, of_a
            a = high - ratio * (high - low)
            of_a = f(a)
        else:
            low, a, of_a = a, b, of_b
            b = low + ratio * (high - low)
            of_b = f(b)
    return min(of_a, of_b, f(low), f(high))


def _times_log(count: int, p: float) -> float:
    if not count:
        return 0.0
    return count * math.log(p) if p > 0.0 else -math.inf


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
