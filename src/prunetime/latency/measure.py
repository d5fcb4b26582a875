"""Timing that can be trusted on a noisy machine: interleaved rounds, and intervals by a bootstrap over rounds.

Samples of one round share that round's clock and neighbours, so they are not independent: rounds are what is drawn.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from prunetime.core.arrays import Float64Array, Int64Array
from prunetime.core.estimate import Estimate

TimedCall = Callable[[], object]
Samples = Float64Array
"""Microseconds, [rounds, calls]."""

NOISY = 0.10
"""A 95 % interval wider than this share of its median is too noisy to judge by."""

SEVERAL = 3.0
"""A p99 of more medians than that is other work's: 1.1 to 1.5 on a quiet machine."""

RETRY_SECONDS = 60.0
_RESAMPLES = 1000


@dataclass(frozen=True)
class LatencySummary:
    """The latency of one call in microseconds: median and 99th percentile, with intervals by a bootstrap over `rounds`
    rounds."""

    p50: Estimate
    p99: Estimate
    rounds: int
    noisy: bool

    @property
    def p50_us(self) -> float:
        return self.p50.value

    @property
    def p99_us(self) -> float:
        return self.p99.value

    def of(self, statistic: str) -> Estimate:
        """The estimate of `p50` or `p99`."""
        return self.p50 if statistic == "p50" else self.p99

    @property
    def disturbed(self) -> bool:
        """Whether the median is too uncertain to judge by, or one call in a hundred takes several times as long."""
        return self.noisy or self.p99_us > SEVERAL * self.p50_us

    def to_json(self) -> dict[str, Any]:
        estimates = self.p50.to_json("p50_us", "p50_ci95_us") | self.p99.to_json("p99_us", "p99_ci95_us")
        return estimates | {"rounds": self.rounds, "noisy": self.noisy}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LatencySummary:
        p50, p99 = (Estimate.from_json(data, f"{name}_us", f"{name}_ci95_us") for name in ("p50", "p99"))
        return cls(p50, p99, data["rounds"], data["noisy"])


@contextmanager
def pinned(threads: int) -> Iterator[None]:
    """Keeps this process on the last `threads` of the cores it may use, while the block runs."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[-threads:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def time_calls(call: TimedCall, calls: int, idle_us: float = 0.0) -> Float64Array:
    """Microseconds of each of `calls` calls, back to back or after a pause of `idle_us` before each."""
    clock = time.perf_counter_ns
    samples = np.empty(calls)
    for index in range(calls):
        if idle_us:
            time.sleep(idle_us / 1e6)
        start = clock()
        call()
        samples[index] = clock() - start
    return samples / 1e3


def one_round(
    named: Mapping[str, TimedCall], calls: int | Mapping[str, int], number: int, idle_us: float = 0.0
) -> dict[str, Samples]:
    """One round: every call in turn (a different one first each round), warmed up, then timed `calls` times.

    `calls` is one number for all, or one each.
    """
    names = list(named)
    first = number % len(names)
    samples = {}
    for name in names[first:] + names[:first]:
        count = calls if isinstance(calls, int) else calls[name]
        time_calls(named[name], min(count, max(2, count // 8)))
        samples[name] = time_calls(named[name], count, idle_us)
    return samples


def run_rounds(
    named: Mapping[str, TimedCall], rounds: int, calls: int | Mapping[str, int], first: int = 0, idle_us: float = 0.0
) -> dict[str, Samples]:
    """Samples of every call over `rounds` interleaved rounds, the first of which has the number `first`."""
    done = [one_round(named, calls, first + number, idle_us) for number in range(rounds)]
    return {name: np.stack([samples[name] for samples in done]) for name in named}


def interleave(
    named: Mapping[str, TimedCall],
    rounds: int = 12,
    calls: int | Mapping[str, int] = 20,
    retry_seconds: float = RETRY_SECONDS,
) -> dict[str, Samples]:
    """Samples of every call over `rounds` interleaved rounds, and more for `retry_seconds` while any is noisy."""
    deadline = time.monotonic() + retry_seconds
    result = run_rounds(named, rounds, calls)
    while time.monotonic() < deadline and any(summarise(samples).noisy for samples in result.values()):
        done = len(next(iter(result.values())))
        more = run_rounds(named, rounds, calls, done)
        result = {name: np.concatenate((samples, more[name])) for name, samples in result.items()}
    return result


def calls_within(call: TimedCall, seconds: float, most: int) -> int:
    """How many calls take about `seconds`: at least 1, and at most `most`."""
    time_calls(call, 1)
    return int(np.clip(seconds * 1e6 / time_calls(call, 1)[0], 1, most))


def summarise(samples: Samples, statistic: str = "p50") -> LatencySummary:
    """Median, 99th percentile and their intervals; `noisy` judges the interval of `statistic`."""
    draws = _draws(len(samples))
    p50, p99 = (
        Estimate.of_resamples(np.percentile(samples, percent), _resampled(samples, draws, percent))
        for percent in _PERCENT.values()
    )
    judged = p99 if statistic == "p99" else p50
    return LatencySummary(p50, p99, len(samples), judged.is_wider_than(NOISY))


def ratio(numerator: Samples, denominator: Samples, statistic: str = "p50") -> Estimate:
    """Ratio of a statistic of two calls of the same rounds, with its interval by a paired bootstrap."""
    percent = _PERCENT[statistic]
    draws = _draws(len(numerator))
    ratios = _resampled(numerator, draws, percent) / _resampled(denominator, draws, percent)
    return Estimate.of_resamples(np.percentile(numerator, percent) / np.percentile(denominator, percent), ratios)


_PERCENT = {"p50": 50.0, "p99": 99.0}


def _draws(rounds: int) -> Int64Array:
    return np.random.default_rng(0).integers(0, rounds, (_RESAMPLES, rounds))


def _resampled(samples: Samples, draws: Int64Array, percent: float) -> Float64Array:
    pooled = samples[draws].reshape(len(draws), -1)
    return np.asarray(np.percentile(pooled, percent, axis=1))
