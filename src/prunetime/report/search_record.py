"""The part of a run's record that says how its structure was found: by a search, or by masks that were learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prunetime.core.arch import ArchSpec
from prunetime.core.estimate import Estimate
from prunetime.latency.measure import LatencySummary
from prunetime.report.schema import Json, estimate, latency_of, number
from prunetime.search.space import Space

KINDS = ("uniform", "depth", "evolution")


@dataclass(frozen=True)
class ScoredStructure:
    """A structure that the search scored (a line of `evaluations.jsonl`).

    `score` is its agreement with the teacher; `kind`, one of KINDS, says what proposed it, in which `generation`.
    """

    spec: ArchSpec
    predicted_us: float
    score: float
    kind: str
    generation: int

    @classmethod
    def from_json(cls, data: Json, space: Space) -> ScoredStructure:
        if data["kind"] not in KINDS:
            raise ValueError(f"kind {data['kind']!r} is none of {', '.join(KINDS)}")
        spec = _spec(data["genome"], space)
        return cls(spec, number(data["predicted_us"]), number(data["score"]), data["kind"], data["generation"])


@dataclass(frozen=True)
class SearchResult:
    """The choice of the search (`search.json`); `chosen` and `finalists` are scored on more examples than all else."""

    target_us: float
    chosen: ScoredStructure
    finalists: tuple[ScoredStructure, ...]
    baselines: Mapping[str, ScoredStructure | None]
    front: frozenset[ArchSpec]

    @classmethod
    def from_json(cls, data: Json, space: Space) -> SearchResult:
        def scored(one: Json) -> ScoredStructure:
            return ScoredStructure.from_json(one, space)

        return cls(
            number(data["target_us"]),
            scored(data["chosen"]),
            tuple(map(scored, data["finalists"])),
            {kind: scored(one) if one else None for kind, one in data["baselines"].items()},
            frozenset(_spec(genome, space) for genome in data["front"]),
        )


@dataclass(frozen=True)
class TimedPoint:
    """A point of the Pareto front that was timed: `measured` in microseconds, at the clock of the prediction."""

    spec: ArchSpec
    score: float
    predicted_us: float
    measured: Estimate

    @classmethod
    def from_json(cls, data: Json, space: Space) -> TimedPoint:
        spec, measured = _spec(data["genome"], space), estimate(data, "measured_us", "ci95_us")
        return cls(spec, number(data["score"]), number(data["predicted_us"]), measured)

    @property
    def error(self) -> float:
        """The prediction's error as a share of the measured latency; below 0 where the prediction is too low."""
        return self.predicted_us / self.measured.value - 1.0


@dataclass(frozen=True)
class TimedFront:
    """The timed `points` of the Pareto front (`front.json`), and what the `dense` encoder took in the same rounds."""

    dense: LatencySummary
    points: tuple[TimedPoint, ...]

    @classmethod
    def from_json(cls, data: Json, space: Space) -> TimedFront:
        points = tuple(TimedPoint.from_json(point, space) for point in data["points"])
        if not points:
            raise ValueError("no point of the front was timed")
        return cls(latency_of(data["dense"]), points)


@dataclass(frozen=True)
class ProxyCorrelation:
    """Kendall's tau between agreement and the metric after tuning (`trust.json`).

    It is given `within` budgets, `overall`, and for each budget as a tuple: the budget as a share of the run's, the
    number of structures, and their tau.
    """

    within: Estimate
    overall: float
    of_budget: tuple[tuple[float, int, float], ...]

    @classmethod
    def from_json(cls, data: Json) -> ProxyCorrelation:
        shares = [number(point["share"]) for point in data["points"]]
        budgets = list(dict.fromkeys(shares))
        taus = [number(tau) for tau in data["of_budget"]]
        of_budget = ((share, shares.count(share), tau) for share, tau in zip(budgets, taus, strict=True))
        return cls(estimate(data, "within"), number(data["overall"]), tuple(of_budget))


@dataclass(frozen=True)
class PolicyPreferences:
    """Probabilities after a generation (`policy.json`): for every gene, that the policy lowers or raises it first."""

    generation: int
    shares: tuple[tuple[float, float], ...]

    @classmethod
    def from_json(cls, data: Json, space: Space) -> PolicyPreferences:
        shares = tuple((number(lower), number(raised)) for lower, raised in data["preferences"])
        if len(shares) != len(space.levels):
            raise ValueError(f"preferences of {len(shares)} genes, the search space has {len(space.levels)}")
        return cls(int(data["generation"]), shares)


@dataclass(frozen=True)
class KeepRatios:
    """Shares that learned masks kept `of` something (heads and rows, or blocks) during training, down to `target_us`.

    `ratios` has a row for every moment from the first to the last step, with a share for each of `masks`.
    """

    of: str
    target_us: float
    masks: tuple[str, ...]
    ratios: tuple[tuple[float, ...], ...]

    @classmethod
    def from_json(cls, data: Json) -> KeepRatios:
        ratios = tuple(tuple(number(ratio) for ratio in moment) for moment in data["ratios"])
        masks = tuple(str(name) for name in data["masks"])
        if not ratios or any(len(moment) != len(masks) for moment in ratios):
            raise ValueError(f"keep ratios are not of {len(masks)} masks")
        return cls(str(data["of"]), number(data["target_us"]), masks, ratios)


def _spec(genome: Any, space: Space) -> ArchSpec:
    if not all(type(gene) is int for gene in genome):
        raise ValueError(f"{genome!r} is no genome of whole numbers")
    return space.spec(tuple(genome))
