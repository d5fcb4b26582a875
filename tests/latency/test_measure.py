"""Timing statistics: what is pooled, what is drawn, what counts as noisy."""

import os
import time

import numpy as np
import pytest
from counted_time import READING_US, CountedTime

from prunetime.latency import measure
from prunetime.latency.measure import (
    LatencySummary,
    Samples,
    calls_within,
    interleave,
    pinned,
    ratio,
    run_rounds,
    summarise,
    time_calls,
)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> CountedTime:
    counted = CountedTime()
    monkeypatch.setattr(measure, "time", counted)
    monkeypatch.setattr(measure, "involuntary_switches", counted.involuntary_switches)
    return counted


def samples(medians: list[float], spread: float = 0.01, calls: int = 40) -> Samples:
    rng = np.random.default_rng(0)
    return Samples.of_wall(np.array(medians)[:, None] * (1 + spread * rng.standard_normal((len(medians), calls))))


def test_the_interval_comes_from_rounds_and_not_from_single_samples() -> None:
    medians = np.linspace(90.0, 110.0, 12)
    drifting = summarise(samples(medians.tolist(), spread=0.001))
    low, high = drifting.p50.ci95
    error_of_12_rounds, error_of_480_samples = (1.25 * medians.std() / np.sqrt(n) for n in (12, 480))
    assert low < drifting.p50_us < high
    assert high - low > 2 * error_of_12_rounds > 3.92 * error_of_480_samples
    assert summarise(samples([85.0, 90.0, 110.0, 115.0] * 3)).noisy


def test_a_steady_call_is_not_noisy_and_its_statistics_are_those_of_the_pool() -> None:
    steady = samples([100.0] * 12)
    latency = summarise(steady)
    assert latency.p50_us == pytest.approx(np.median(steady.wall_us))
    assert latency.p99_us == pytest.approx(np.percentile(steady.wall_us, 99))
    assert not latency.noisy
    assert LatencySummary.from_json(latency.to_json()) == latency
    assert latency.of("p99") == latency.p99


def test_a_call_whose_tail_is_several_times_its_median_is_disturbed() -> None:
    quiet = samples([100.0] * 12)
    assert not summarise(quiet).disturbed
    interrupted = quiet.wall_us.copy()
    interrupted[:, 0] *= 5  # 1 call in 40
    latency = summarise(Samples.of_wall(interrupted))
    assert (latency.noisy, latency.disturbed) == (False, True)
    assert latency.p99_us > 4 * latency.p50_us
    assert summarise(samples([85.0, 90.0, 110.0, 115.0] * 3)).disturbed


def test_a_drift_that_both_share_cancels_out_of_the_ratio() -> None:
    clock = [100.0, 150.0, 90.0, 130.0] * 6
    found = ratio(samples([0.4 * c for c in clock]), samples(clock))
    value, (low, high) = found.value, found.ci95
    assert value == pytest.approx(0.4, rel=0.02)
    assert high - low < 0.02


@pytest.mark.usefixtures("clock")
def test_calls_are_interleaved_and_all_timed() -> None:
    order: list[str] = []
    result = interleave({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2, calls=16)
    assert all(values.wall_us.shape[1] == 16 and (values.wall_us > 0).all() for values in result.values())
    assert "".join(order[:72]).replace("a" * 18, "A").replace("b" * 18, "B") == "ABBA"


def test_long_calls_are_timed_less_often() -> None:
    order: list[str] = []
    result = run_rounds({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3, {"a": 1, "b": 4}, first=1)
    assert {name: values.wall_us.shape for name, values in result.items()} == {"a": (3, 1), "b": (3, 4)}
    assert "".join(order).replace("b" * 6, "B").replace("aa", "A") == "BAABBA"


@pytest.mark.parametrize(("call_us", "count"), [(10_100.0, 9), (9_900.0, 10), (200_000.0, 1), (0.0, 20)])
def test_as_many_calls_as_fit(clock: CountedTime, call_us: float, count: int) -> None:
    assert calls_within(lambda: clock.spend(call_us), 0.1, 20) == count


def test_time_calls_measures_microseconds_and_waits_when_idle(clock: CountedTime) -> None:
    np.testing.assert_allclose(time_calls(lambda: clock.spend(1_000.0), 5).wall_us, 1_000.0 + READING_US)
    start = clock.monotonic()
    np.testing.assert_allclose(time_calls(lambda: None, 5, idle_us=4_000).wall_us, READING_US)
    assert clock.monotonic() - start == pytest.approx(0.02, rel=1e-3)


def test_microseconds_are_those_of_the_system() -> None:
    """However long a pause takes, it takes no less than was asked for."""
    assert time_calls(lambda: time.sleep(0.001), 5).wall_us.min() >= 1_000.0


def test_pinning_is_undone() -> None:
    before = os.sched_getaffinity(0)
    with pinned(1):
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before


def test_a_noisy_machine_is_given_more_rounds_until_time_is_up(clock: CountedTime) -> None:
    called, in_a_round = 0, 2 + 4  # warm-up, then timed
    slow_us = 1e6 * measure.RETRY_SECONDS / 60

    def erratic() -> None:
        nonlocal called
        clock.spend(slow_us * (called // in_a_round % 2))
        called += 1

    result = interleave({"erratic": erratic}, rounds=2, calls=4)["erratic"]
    assert len(result) == 2 * 10  # of two rounds one is slow, six calls of a 60th of the time
    assert summarise(result).noisy


def test_a_steady_machine_is_given_no_more_rounds(clock: CountedTime) -> None:
    assert len(interleave({"steady": lambda: clock.spend(100.0)}, rounds=3)["steady"]) == 3
