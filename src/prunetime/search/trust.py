"""How far scores can be trusted: do they order sub-networks as their quality does after tuning?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from prunetime.core.arrays import Float64Array

RESAMPLES = 1_000


@dataclass(frozen=True)
class Trust:
    """Kendall's tau between score and quality: of the pairs `within` the budgets, pooled, with the 95 % interval of a
    bootstrap over the sub-networks of each budget; in each budget (`of_budget`); and of all pairs (`overall`).

    A pair that is tied in either does not count; tau is 0 where there is no other.
    """

    within: float
    ci95: tuple[float, float]
    of_budget: tuple[float, ...]
    overall: float

    @classmethod
    def of(cls, budgets: Sequence[Float64Array]) -> Trust:
        """From (score, quality) [sub-networks, 2] of each budget; higher is better of both."""
        rng = np.random.default_rng(0)
        drawn = [
            tau([points[rng.integers(0, len(points), len(points))] for points in budgets]) for _ in range(RESAMPLES)
        ]
        low, high = np.percentile(drawn, (2.5, 97.5)).tolist()
        of_budget = tuple(tau([points]) for points in budgets)
        return cls(tau(budgets), (low, high), of_budget, tau([np.concatenate(list(budgets))]))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def tau(groups: Sequence[Float64Array]) -> float:
    """Concordant less discordant pairs of the points [n, 2] of each group, pooled, as a share of both."""
    signs = [np.sign(np.subtract.outer(x, x) * np.subtract.outer(y, y)) for x, y in (points.T for points in groups)]
    decided = sum(float(np.abs(each).sum()) for each in signs)
    return sum(float(each.sum()) for each in signs) / decided if decided else 0.0
