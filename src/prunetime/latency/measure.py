"""Timing that can be trusted on a noisy machine: interleaved rounds, and intervals by a bootstrap over rounds.

Samples of one round share that round's clock and neighbours, so they are not independent: rounds are what is drawn.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

TimedCall = Callable[[], object]
Samples = NDArray[np.float64]
"""Microseconds, [rounds, calls]."""

NOISY = 0.10
"""A 95 % interval wider than this share of its median is too noisy to judge by."""

SEVERAL = 3.0
"""A p99 of more medians than that is other work's: 1.1 to 1.5 on a quiet machine."""

RETRY_SECONDS = 60.0
_RESAMPLES = 1000


@dataclass(frozen=True)
class LatencySummary:
    """The latency of one call in microseconds; the intervals are 95 %, by a bootstrap over `rounds` rounds."""

    p50_us: float
    p99_us: float
    p50_ci95_us: tuple[float, float]
    p99_ci95_us: tuple[float, float]
    rounds: int
    noisy: bool

    def of(self, statistic: str) -> tuple[float, tuple[float, float]]:
        """Value and interval of `p50` or `p99`."""
        return (self.p50_us, self.p50_ci95_us) if statistic == "p50" else (self.p99_us, self.p99_ci95_us)

    @property
    def disturbed(self) -> bool:
        """Whether the median is too uncertain to judge by, or one call in a hundred takes several times as long."""
        return self.noisy or self.p99_us > SEVERAL * self.p50_us

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"p50_ci95_us": list(self.p50_ci95_us), "p99_ci95_us": list(self.p99_ci95_us)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LatencySummary:
        return cls(**{**data, "p50_ci95_us": tuple(data["p50_ci95_us"]), "p99_ci95_us": tuple(data["p99_ci95_us"])})


@contextmanager
def pinned(threads: int) -> Iterator[None]:
    """Keeps this process on the last `threads` of the cores it may use, while the block runs."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[-threads:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def time_calls(call: TimedCall, calls: int, idle_us: float = 0.0) -> NDArray[np.float64]:
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
    named: Mapping[str, TimedCall], rounds: int = 12, calls: int | Mapping[str, int] = 20
) -> dict[str, Samples]:
    """Samples of every call over `rounds` interleaved rounds; more rounds for up to 60 s while any is noisy."""
    deadline = time.monotonic() + RETRY_SECONDS
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
    p50, p99 = _bootstrap(samples, 50.0), _bootstrap(samples, 99.0)
    value, interval = (p50, p99)[statistic == "p99"]
    noisy = interval[1] - interval[0] > NOISY * value
    return LatencySummary(p50[0], p99[0], p50[1], p99[1], len(samples), noisy)


def ratio(numerator: Samples, denominator: Samples, statistic: str = "p50") -> tuple[float, tuple[float, float]]:
    """Ratio of a statistic of two calls of the same rounds, and its 95 % interval by a paired bootstrap."""
    percent = _PERCENT[statistic]
    draws = _draws(len(numerator))
    ratios = _resampled(numerator, draws, percent) / _resampled(denominator, draws, percent)
    low, high = np.percentile(ratios, (2.5, 97.5))
    return float(np.percentile(numerator, percent) / np.percentile(denominator, percent)), (float(low), float(high))


_PERCENT = {"p50": 50.0, "p99": 99.0}


def _bootstrap(samples: Samples, percent: float) -> tuple[float, tuple[float, float]]:
    resampled = _resampled(samples, _draws(len(samples)), percent)
    low, high = np.percentile(resampled, (2.5, 97.5))
    return float(np.percentile(samples, percent)), (float(low), float(high))


def _draws(rounds: int) -> NDArray[np.int64]:
    return np.random.default_rng(0).integers(0, rounds, (_RESAMPLES, rounds))


def _resampled(samples: Samples, draws: NDArray[np.int64], percent: float) -> NDArray[np.float64]:
    pooled = samples[draws].reshape(len(draws), -1)
    return np.asarray(np.percentile(pooled, percent, axis=1))
