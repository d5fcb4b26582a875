"""Fields that every file of a run may have. Reading one raises ValueError where a field holds something else."""

from __future__ import annotations

import math
from dataclasses import astuple
from typing import Any

from prunetime.core.estimate import Estimate
from prunetime.latency.measure import LatencySummary
from prunetime.tasks.metrics import OrderKept

Json = dict[str, Any]


def number(value: Any) -> float:
    """Returns `value` as a finite float; raises ValueError if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no finite number")
    return float(value)


def estimate(data: Json, name: str = "value", interval: str = "ci95") -> Estimate:
    """Returns the estimate, of finite numbers, whose fields of `data` have these names."""
    return Estimate(*map(number, astuple(Estimate.from_json(data, name, interval))))


def latency_of(data: Json) -> LatencySummary:
    """Returns a latency of finite microseconds."""
    latency = LatencySummary.from_json(data)
    for value in (*astuple(latency.p50), *astuple(latency.p99)):
        number(value)
    return latency


def order_kept_of(data: Json) -> OrderKept:
    """Returns a share of pairs in order."""
    share = estimate(data)
    return OrderKept(share.value, share.low, share.high, int(data["pairs"]), int(data["groups"]))
