"""Whether a measured latency is inside the budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prunetime.core.budget import Budget
from prunetime.errors import InputError
from prunetime.latency.measure import NOISY, ratio, summarise
from prunetime.latency.timing import Timed


@dataclass(frozen=True)
class Verdict:
    """A verdict on the pruned model's latency, with its 95 % interval.

    `measured` and `limit` are microseconds, or shares of dense for a budget that is a share; see `Budget`.
    """

    met: bool
    noisy: bool
    measured: float
    ci95: tuple[float, float]
    limit: float
    share: bool

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Verdict:
        return cls(**{**data, "ci95": tuple(data["ci95"])})

    @property
    def undecided(self) -> bool:
        """Whether a longer measurement could say otherwise."""
        return self.ci95[0] <= self.limit < self.ci95[1]

    def describe(self) -> str:
        scale, unit = (100.0, "% of dense") if self.share else (1.0, "us")
        low, high = self.ci95
        return f"{scale * self.measured:.4g} {unit} (95 % interval {scale * low:.4g} to {scale * high:.4g})"


def judge(budget: Budget, timed: Timed) -> Verdict:
    """Judges whether the upper end of the 95 % interval is inside the budget: of the ratio to dense, for a share."""
    samples = timed[budget.scope, budget.condition]
    if budget.share is None:
        latency = summarise(samples["pruned"], budget.statistic)
        value, interval = latency.of(budget.statistic)
        limit, noisy = budget.resolve(0.0), latency.noisy
    else:
        value, interval = ratio(samples["pruned"], samples["dense"], budget.statistic)
        limit, noisy = budget.share, interval[1] - interval[0] > NOISY * value
    return Verdict(interval[1] <= limit, noisy, value, interval, limit, budget.share is not None)


def check_judged(itself: Verdict) -> None:
    """Raises InputError where the p99 of the dense model, or its ratio to `itself`, is not known well enough."""
    if itself.noisy:
        low, high = itself.ci95
        raise InputError(
            f"the p99 of the dense model is {itself.describe()}: an interval of {(high - low) / itself.measured:.0%}, "
            f"and at most {NOISY:.0%} can be judged by. The machine is too noisy to judge a p99: run it again when it "
            "is quiet (`prunetime doctor` says why it is not), or give --statistic p50"
        )
