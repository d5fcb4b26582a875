"""Fields that every file of a run may have. Reading one raises ValueError where a field holds something else."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from prunetime.latency.measure import LatencySummary

Json = dict[str, Any]


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: Any, ci95: Any) -> Interval:
        low, high = ci95
        return cls(number(value), number(low), number(high))


def number(value: Any) -> float:
    """Returns `value` as a finite float; raises ValueError if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no finite number")
    return float(value)


def latency_of(data: Json) -> LatencySummary:
    """A latency of finite microseconds."""
    latency = LatencySummary.from_json(data)
    for value in (latency.p50_us, latency.p99_us, *latency.p50.ci95, *latency.p99.ci95):
        number(value)
    return latency
