"""How the structure of a run was found: by a search, or by masks that were learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from prunetime.core.arch import ArchSpec
from prunetime.latency.measure import LatencySummary
from prunetime.report.values import Interval, Json, latency_of, number
from prunetime.search.space import Space

KINDS = ("uniform", "depth", "evolution")


@dataclass(frozen=True)
class Evaluated:
    """A structure that the search scored; `score` is its agreement with the teacher."""

    spec: ArchSpec
    predicted_us: float
    score: float
    kind: str
    generation: int

    @classmethod
    def of(cls, data: Json, space: Space) -> Evaluated:
        if data["kind"] not in KINDS:
            raise ValueError(f"kind {data['kind']!r} is none of {', '.join(KINDS)}")
        spec = _spec(data["genome"], space)
        return cls(spec, number(data["predicted_us"]), number(data["score"]), data["kind"], data["generation"])


@dataclass(frozen=True)
class Search:
    """What the search chose. Scores of `chosen` and `finalists` are on more rows than those of everything else."""

    target_us: float
    chosen: Evaluated
    finalists: tuple[Evaluated, ...]
    baselines: Mapping[str, Evaluated | None]
    front: frozenset[ArchSpec]

    @classmethod
    def of(cls, data: Json, space: Space) -> Search:
        return cls(
            number(data["target_us"]),
            Evaluated.of(data["chosen"], space),
            tuple(Evaluated.of(one, space) for one in data["finalists"]),
            {kind: Evaluated.of(one, space) if one else None for kind, one in data["baselines"].items()},
            frozenset(_spec(genome, space) for genome in data["front"]),
        )


@dataclass(frozen=True)
class TimedPoint:
    """A point of the Pareto front that was timed: `measured` in microseconds, at the clock of the prediction."""

    spec: ArchSpec
    score: float
    predicted_us: float
    measured: Interval

    @classmethod
    def of(cls, data: Json, space: Space) -> TimedPoint:
        measured = Interval.of(data["measured_us"], data["ci95_us"])
        return cls(_spec(data["genome"], space), number(data["score"]), number(data["predicted_us"]), measured)

    @property
    def error(self) -> float:
        """By how much of what was measured the prediction is too high; below 0 where it is too low."""
        return self.predicted_us / self.measured.value - 1.0


@dataclass(frozen=True)
class Front:
    """`points` were timed in rounds with the dense encoder, which took `dense` in them."""

    dense: LatencySummary
    points: tuple[TimedPoint, ...]

    @classmethod
    def of(cls, data: Json, space: Space) -> Front:
        points = tuple(TimedPoint.of(point, space) for point in data["points"])
        if not points:
            raise ValueError("no point of the front was timed")
        return cls(latency_of(data["dense"]), points)

    @property
    def median_error(self) -> float:
        return median(abs(point.error) for point in self.points)

    @property
    def worst_error(self) -> float:
        return max(abs(point.error) for point in self.points)


@dataclass(frozen=True)
class TrustInScores:
    """Kendall's tau between agreement and the metric after tuning: `within` budgets (shares of the run's), `overall`,
    and of each budget, with how many structures there were of it."""

    within: Interval
    overall: float
    of_budget: tuple[tuple[float, int, float], ...]

    @classmethod
    def of(cls, data: Json) -> TrustInScores:
        shares = [number(point["share"]) for point in data["points"]]
        budgets = list(dict.fromkeys(shares))
        taus = [number(tau) for tau in data["of_budget"]]
        of_budget = ((share, shares.count(share), tau) for share, tau in zip(budgets, taus, strict=True))
        return cls(Interval.of(data["within"], data["ci95"]), number(data["overall"]), tuple(of_budget))


@dataclass(frozen=True)
class Preferences:
    """After a generation: for every gene, how likely the policy is to lower it and to raise it first."""

    generation: int
    shares: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class LearnedLevel:
    """Masks that were learned `of` something, down to `target_us`: the `ratios` that each of `masks` kept, a row for
    every moment from the first to the last step."""

    of: str
    target_us: float
    masks: tuple[str, ...]
    ratios: tuple[tuple[float, ...], ...]

    @classmethod
    def of_json(cls, data: Json) -> LearnedLevel:
        ratios = tuple(tuple(number(ratio) for ratio in moment) for moment in data["ratios"])
        masks = tuple(str(name) for name in data["masks"])
        if not ratios or any(len(moment) != len(masks) for moment in ratios):
            raise ValueError(f"keep ratios are not of {len(masks)} masks")
        return cls(str(data["of"]), number(data["target_us"]), masks, ratios)


def policy_of(data: Any, space: Space) -> tuple[Preferences, ...]:
    """What the policy preferred after each generation."""
    found = []
    for one in data:
        shares = tuple((number(lower), number(raised)) for lower, raised in one["preferences"])
        if len(shares) != len(space.levels):
            raise ValueError(f"preferences of {len(shares)} genes, the search space has {len(space.levels)}")
        found.append(Preferences(int(one["generation"]), shares))
    return tuple(found)


def _spec(genome: Any, space: Space) -> ArchSpec:
    if not all(type(gene) is int for gene in genome):
        raise ValueError(f"{genome!r} is no genome of whole numbers")
    return space.spec(tuple(genome))
