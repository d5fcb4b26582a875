"""Timing that can be trusted on a noisy machine: interleaved rounds, own time, and a bootstrap over rounds.

Samples of one round share that round's clock and neighbours, so they are not independent: rounds are what is drawn.
A call that the system interrupted, to run another process, has an own time beside its wall time: medians are of own
time, because they say what a model costs; a 99th percentile is of wall time, because that is what a caller waits.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from prunetime.core.arrays import Float64Array, Int64Array
from prunetime.core.estimate import Estimate

TimedCall = Callable[[], object]
T = TypeVar("T")

NOISY = 0.10
"""A 95 % interval wider than this share of its median is too noisy to judge by."""

SEVERAL = 3.0
"""A p99 of more medians than that is other work's: 1.1 to 1.5 on a quiet machine."""

RETRY_SECONDS = 60.0
_RESAMPLES = 1000


@dataclass(frozen=True)
class Samples:
    """Microseconds of calls, [rounds, calls] or of one round [calls].

    `wall_us` is what passed on the clock, `own_us` that without the time that other processes had in between.
    """

    wall_us: Float64Array
    own_us: Float64Array

    @classmethod
    def of_wall(cls, us: Float64Array) -> Samples:
        """Samples whose own time is their wall time: no other process ran, or whose own time it was is not known."""
        return cls(us, us)

    @classmethod
    def stack(cls, rounds: Sequence[Samples]) -> Samples:
        """The samples [rounds, calls] of one round each."""
        return cls(*(np.stack([getattr(each, name) for each in rounds]) for name in ("wall_us", "own_us")))

    @classmethod
    def concatenate(cls, parts: Sequence[Samples]) -> Samples:
        """The rounds of all `parts`, one after the other."""
        return cls(*(np.concatenate([getattr(each, name) for each in parts]) for name in ("wall_us", "own_us")))

    @property
    def got(self) -> float:
        """The share of the wall time that this process got."""
        return float(self.own_us.sum() / self.wall_us.sum())

    def __len__(self) -> int:
        return len(self.wall_us)

    def of(self, statistic: str) -> Float64Array:
        """The microseconds that a statistic is of: own time for `p50`, wall time for `p99`."""
        return self.own_us if statistic == "p50" else self.wall_us

    def to_json(self) -> dict[str, Any]:
        return {"wall_us": self.wall_us.tolist(), "own_us": self.own_us.tolist()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Samples:
        return cls(np.array(data["wall_us"]), np.array(data["own_us"]))


@dataclass(frozen=True)
class LatencySummary:
    """The latency of one call in microseconds: median of own time and 99th percentile of wall time, with intervals by a
    bootstrap over `rounds` rounds. `got` is the share of the wall time that the process got."""

    p50: Estimate
    p99: Estimate
    rounds: int
    noisy: bool
    got: float = 1.0

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
        return estimates | {"rounds": self.rounds, "noisy": self.noisy, "got": self.got}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LatencySummary:
        p50, p99 = (Estimate.from_json(data, f"{name}_us", f"{name}_ci95_us") for name in ("p50", "p99"))
        return cls(p50, p99, data["rounds"], data["noisy"], data.get("got", 1.0))


@contextmanager
def pinned(threads: int) -> Iterator[None]:
    """Keeps this process on the last `threads` of the cores it may use, while the block runs."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[-threads:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def involuntary_switches() -> int:
    """How often the system has taken a core from a thread of this process, for another to run."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def time_call(call: Callable[[], T]) -> tuple[T, float, float]:
    """What `call` returns, and its wall time and own time in microseconds.

    Where the process was switched out, the own time is what the calling thread had of its core. A call that waits of
    itself, for other threads or for a pause, is not switched out: that time is its own.
    """
    switches, cpu, start = involuntary_switches(), time.thread_time_ns(), time.perf_counter_ns()
    result = call()
    wall, cpu = time.perf_counter_ns() - start, time.thread_time_ns() - cpu
    own = min(wall, cpu) if involuntary_switches() > switches else wall
    return result, wall / 1e3, own / 1e3


def time_calls(call: TimedCall, calls: int, idle_us: float = 0.0) -> Samples:
    """Times of `calls` calls [calls], back to back or after a pause of `idle_us` before each."""
    times = np.empty((calls, 2))
    for index in range(calls):
        if idle_us:
            time.sleep(idle_us / 1e6)
        times[index] = time_call(call)[1:]
    return Samples(times[:, 0], times[:, 1])


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
    return {name: Samples.stack([samples[name] for samples in done]) for name in named}


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
        result = {name: Samples.concatenate((samples, more[name])) for name, samples in result.items()}
    return result


def calls_within(call: TimedCall, seconds: float, most: int) -> int:
    """How many calls take about `seconds`: at least 1, and at most `most`."""
    time_calls(call, 1)
    return int(np.clip(seconds * 1e6 / time_call(call)[1], 1, most))


def summarise(samples: Samples, statistic: str = "p50") -> LatencySummary:
    """Median, 99th percentile and their intervals; `noisy` judges the interval of `statistic`."""
    draws = _draws(len(samples))
    p50, p99 = (
        Estimate.of_resamples(np.percentile(samples.of(name), percent), _resampled(samples.of(name), draws, percent))
        for name, percent in _PERCENT.items()
    )
    judged = p99 if statistic == "p99" else p50
    return LatencySummary(p50, p99, len(samples), judged.is_wider_than(NOISY), samples.got)


def ratio(numerator: Samples, denominator: Samples, statistic: str = "p50") -> Estimate:
    """Ratio of a statistic of two calls of the same rounds, with its interval by a paired bootstrap."""
    percent = _PERCENT[statistic]
    draws = _draws(len(numerator))
    over, under = numerator.of(statistic), denominator.of(statistic)
    ratios = _resampled(over, draws, percent) / _resampled(under, draws, percent)
    return Estimate.of_resamples(np.percentile(over, percent) / np.percentile(under, percent), ratios)


_PERCENT = {"p50": 50.0, "p99": 99.0}


def _draws(rounds: int) -> Int64Array:
    return np.random.default_rng(0).integers(0, rounds, (_RESAMPLES, rounds))


def _resampled(us: Float64Array, draws: Int64Array, percent: float) -> Float64Array:
    pooled = us[draws].reshape(len(draws), -1)
    return np.asarray(np.percentile(pooled, percent, axis=1))
