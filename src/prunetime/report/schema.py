"""Fields that every file of a run may have. Reading one raises ValueError where a field holds something else."""

from __future__ import annotations

import math
from typing import Any

from prunetime.core.estimate import Estimate
from prunetime.latency.measure import LatencySummary

Json = dict[str, Any]


def estimate_of(value: Any, ci95: Any) -> Estimate:
    """An estimate of finite numbers; raises ValueError where one is none."""
    low, high = ci95
    return Estimate(number(value), number(low), number(high))


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
