"""Validation of scores as a proxy of quality: do they order sub-networks as tuning and measuring them does?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prunetime.core.arrays import Float64Array
from prunetime.core.estimate import Estimate

RESAMPLES = 1_000


@dataclass(frozen=True)
class ProxyValidation:
    """The rank correlation (Kendall's tau, -1 to 1) of the scores of sub-networks and their quality after tuning.

    Attributes:
        within: tau of the pairs of sub-networks with the same budget, pooled over budgets; its interval is of a
            bootstrap over the sub-networks of each budget.
        of_budget: tau of the pairs of each budget.
        overall: tau of all pairs.

    A pair that is tied in score or quality does not count; tau is 0 where no other pair is left.
    """

    within: Estimate
    of_budget: tuple[float, ...]
    overall: float

    @classmethod
    def of(cls, budgets: Sequence[Float64Array]) -> ProxyValidation:
        """Compares (score, quality) [sub-networks, 2] of each budget; of both, higher is better."""
        rng = np.random.default_rng(0)
        drawn = [
            kendall_tau([points[rng.integers(0, len(points), len(points))] for points in budgets])
            for _ in range(RESAMPLES)
        ]
        within = Estimate.of_resamples(kendall_tau(budgets), np.array(drawn))
        of_budget = tuple(kendall_tau([points]) for points in budgets)
        return cls(within, of_budget, kendall_tau([np.concatenate(list(budgets))]))

    def to_json(self) -> dict[str, Any]:
        return {**self.within.to_json("within"), "of_budget": self.of_budget, "overall": self.overall}


def kendall_tau(groups: Sequence[Float64Array]) -> float:
    """Returns Kendall's tau of the pairs of points [n, 2] within each group, pooled: concordant less discordant pairs,
    as a share of both."""
    signs = [np.sign(np.subtract.outer(x, x) * np.subtract.outer(y, y)) for x, y in (points.T for points in groups)]
    decided = sum(float(np.abs(each).sum()) for each in signs)
    return sum(float(each.sum()) for each in signs) / decided if decided else 0.0
