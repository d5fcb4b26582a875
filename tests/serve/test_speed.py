"""What a batch is expected to take, as learned from others on a scripted clock."""

from __future__ import annotations

import pytest
from counted_time import CountedTime

from prunetime.serve.core import speed as speeds
from prunetime.serve.core.speed import Speed


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> CountedTime:
    counted = CountedTime()
    monkeypatch.setattr(speeds, "time", counted)
    return counted


def learn(speed: Speed, clock: CountedTime, fixed_us: float, token_us: float, *sizes: int, times: int = 1) -> None:
    for _ in range(times):
        for tokens in sizes:
            us = fixed_us + token_us * tokens
            clock.spend(us)
            speed.learn(tokens, us / 1e6)


@pytest.mark.parametrize(("fixed_us", "token_us"), [(100.0, 60.0), (2_000.0, 10.0), (1_000.0, 30.0), (30.0, 3.0)])
def test_the_cost_of_a_batch_and_that_of_its_tokens_are_learned_apart(
    fixed_us: float, token_us: float, clock: CountedTime
) -> None:
    speed = Speed(100.0, 10.0)
    learn(speed, clock, fixed_us, token_us, 20, 100, 500, times=200)
    for tokens in (20, 100, 500):
        assert 1e6 * speed.of(tokens) == pytest.approx(fixed_us + token_us * tokens, rel=0.1)


def test_batches_of_one_size_teach_the_time_of_that_size(clock: CountedTime) -> None:
    speed = Speed(100.0, 1.0)
    learn(speed, clock, 100.0, 6.0, 50, times=2_000)
    assert 1e6 * speed.of(50) == pytest.approx(400.0, rel=0.01)


@pytest.mark.parametrize("pause", [0.05, 0.3, 5.0])
@pytest.mark.parametrize("batches", [0, 1, 100])
def test_a_pause_changes_little(pause: float, batches: int, clock: CountedTime) -> None:
    speed = Speed(500.0, 80.0)
    learn(speed, clock, 500.0, 80.0, 30, times=batches)
    clock.sleep(pause)
    speed.learn(30, 0.0029 + pause)
    assert speed.of(30) <= 2.01 * 0.0029


def test_without_batches_the_estimate_goes_back_to_what_was_measured_at_first(clock: CountedTime) -> None:
    speed = Speed(100.0, 10.0)
    learn(speed, clock, 300.0, 30.0, 20, 200, times=500)
    assert speed.of(100) > 0.003
    clock.sleep(20.0)
    learn(speed, clock, 100.0, 10.0, 100)
    assert 1e6 * speed.of(100) == pytest.approx(1_100.0, rel=0.01)


def test_an_engine_that_has_become_slower_is_followed_within_two_seconds(clock: CountedTime) -> None:
    speed = Speed(500.0, 80.0)
    learn(speed, clock, 500.0, 80.0, 30, 200, times=100)
    began = clock.monotonic()
    while clock.monotonic() < began + 2.0:
        learn(speed, clock, 2_000.0, 320.0, 30, 200)
    assert 1e6 * speed.of(200) == pytest.approx(66_000.0, rel=0.35)


def test_how_many_tokens_take_so_long() -> None:
    speed = Speed(100.0, 10.0)
    assert speed.tokens_within(0.0011) == 100
    assert speed.tokens_within(0.00005) == 0
    assert Speed(100.0, 0.0).tokens_within(1.0) > 10**9
