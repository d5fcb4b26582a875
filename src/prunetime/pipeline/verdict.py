"""Whether a measured latency is inside the budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prunetime.core.budget import Budget
from prunetime.core.estimate import Estimate
from prunetime.errors import InputError
from prunetime.latency.measure import NOISY, ratio, summarise
from prunetime.latency.timing import SamplesBySetting


@dataclass(frozen=True)
class Verdict:
    """A verdict on the pruned model's latency, with its 95 % interval.

    `measured` and `limit` are microseconds, or shares of dense for a budget that is a share; see `Budget`.
    """

    met: bool
    noisy: bool
    measured: Estimate
    limit: float
    share: bool

    def to_json(self) -> dict[str, Any]:
        others = {name: getattr(self, name) for name in ("met", "noisy", "limit", "share")}
        return others | self.measured.to_json("measured")

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Verdict:
        return cls(data["met"], data["noisy"], Estimate.from_json(data, "measured"), data["limit"], data["share"])

    @property
    def undecided(self) -> bool:
        """Whether a longer measurement could say otherwise."""
        return self.measured.low <= self.limit < self.measured.high

    def describe(self) -> str:
        scale, unit = (100.0, "% of dense") if self.share else (1.0, "us")
        shown = self.measured.scaled(scale)
        return f"{shown.value:.4g} {unit} (95 % interval {shown.low:.4g} to {shown.high:.4g})"


def judge(budget: Budget, timed: SamplesBySetting) -> Verdict:
    """Judges whether the upper end of the 95 % interval is inside the budget: of the ratio to dense, for a share."""
    samples = timed[budget.scope, budget.condition]
    if budget.share is None:
        measured = summarise(samples["pruned"], budget.statistic).of(budget.statistic)
        limit = budget.resolve(0.0)
    else:
        measured, limit = ratio(samples["pruned"], samples["dense"], budget.statistic), budget.share
    noisy = measured.is_wider_than(NOISY)
    return Verdict(measured.high <= limit, noisy, measured, limit, budget.share is not None)


def check_judged(itself: Verdict) -> None:
    """Raises InputError where the p99 of the dense model, or its ratio to `itself`, is not known well enough."""
    if itself.noisy:
        raise InputError(
            f"the p99 of the dense model is {itself.describe()}: an interval of {itself.measured.width:.0%}, "
            f"and at most {NOISY:.0%} can be judged by. The machine is too noisy to judge a p99: run it again when it "
            "is quiet (`prunetime doctor` says why it is not), or give --statistic p50"
        )
