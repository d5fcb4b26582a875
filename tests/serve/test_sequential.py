"""Intervals over keys that may be looked at all the time: they are as their definition says, hold, and narrow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from prunetime.serve.experiments.sequential import (
    BORROWED_KEYS,
    MIXTURE_DEVIATION,
    KeySums,
    advice,
    difference,
    mixture_quantile,
    planned_information,
    planned_quantile,
    students,
)

KEYS = st.lists(st.integers(1, 30).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), min_size=2, max_size=60)


def sums(keys: list[tuple[int, int]]) -> KeySums:
    return KeySums.of(*zip(*keys, strict=True))


def half_width(control: list[tuple[int, int]], treatment: list[tuple[int, int]], alpha: float) -> float:
    """The interval without a plan, key by key, as the module's first lines say it."""
    arms = [np.array(arm, float) for arm in (control, treatment)]
    o, d = zip(*(arm.T for arm in arms), strict=True)
    residuals = [(d[a] - d[a].sum() / o[a].sum() * o[a]) for a in (0, 1)]
    weights = [o[a].sum() ** 2 / (o[a] ** 2).sum() for a in (0, 1)]
    spreads = [weights[a] * (residuals[a] ** 2).sum() / (o[a] ** 2).sum() for a in (0, 1)]
    both = sum(spreads) / (sum(weights) - 2)
    all_o, all_d = np.concatenate(o), np.concatenate(d)
    share = np.average(all_d / all_o, weights=all_o * all_d) if all_d.any() else 1.0
    of_a_key = [(spreads[a] + BORROWED_KEYS * both) / (weights[a] - 1 + BORROWED_KEYS) for a in (0, 1)]
    variances = [of_a_key[a] / weights[a] + (share / weights[a]) ** 2 for a in (0, 1)]
    variance = sum(variances)
    freedom = variance**2 / sum(v**2 / (n - 1) for v, n in zip(variances, weights, strict=True))
    x = MIXTURE_DEVIATION**2 / variance
    normal = np.sqrt((1 + 1 / x) * np.log((1 + x) / alpha**2))
    return float(students(np.asarray(normal), np.asarray(freedom)) * np.sqrt(variance))


@given(KEYS, KEYS, st.sampled_from((0.05, 0.01)))
@settings(max_examples=80, deadline=None)
def test_an_interval_is_that_of_its_definition(
    control: list[tuple[int, int]], treatment: list[tuple[int, int]], alpha: float
) -> None:
    found = difference(sums(control), sums(treatment), alpha)
    rates = [sum(d for _, d in arm) / sum(o for o, _ in arm) for arm in (control, treatment)]
    assert float(found.value) == pytest.approx(rates[1] - rates[0])
    with np.errstate(all="ignore"):
        expected = half_width(control, treatment, alpha)
    low, high = found.interval
    assert low == pytest.approx(max(-1.0, rates[1] - rates[0] - expected))
    assert high == pytest.approx(min(1.0, rates[1] - rates[0] + expected))


@pytest.mark.parametrize("freedom", [5, 10, 100, 10_000])
def test_quantiles_are_students(freedom: int) -> None:
    normal = np.array([1.96, 2.4, 3.0, 4.0])
    expected = stats.t.isf(stats.norm.sf(normal), freedom)
    assert students(normal, np.asarray(float(freedom))) == pytest.approx(expected, rel=0.05 if freedom < 10 else 0.01)


def crossings(quantiles: NDArray[np.float64], times: NDArray[np.float64], paths: int) -> float:
    """How often a Wiener process ever is beyond so many of its standard deviations, at these times or between them."""
    rng, boundary = np.random.default_rng(0), quantiles * np.sqrt(times)
    inside, process, before, last = np.ones(paths), np.zeros(paths), 0.0, boundary[0]
    for time, edge in zip(times, boundary, strict=True):
        ahead = process + rng.standard_normal(paths) * np.sqrt(time - before)
        for side in (1.0, -1.0):
            room = np.maximum(last - side * process, 0.0) * np.maximum(edge - side * ahead, 0.0)
            inside *= -np.expm1(-2.0 * room / (time - before))  # of a Brownian bridge
        process, before, last = ahead, time, edge
    return float(1.0 - inside.mean())


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_a_wiener_process_crosses_the_boundaries_with_probability_alpha(alpha: float) -> None:
    times = np.concatenate([np.linspace(0.02, 1.0, 100), np.geomspace(1.0, 1e4, 400)[1:]])
    found = crossings(planned_quantile(times, alpha), times, 20_000)
    assert 0.85 * alpha < found < 1.03 * alpha
    found = crossings(mixture_quantile(times / MIXTURE_DEVIATION**2, alpha), times, 20_000)
    assert 0.5 * alpha < found < alpha  # the rest lies beyond these times


def simulated(
    rng: np.random.Generator, experiments: int, keys: int, users: tuple[float, int], effect: float = 0.0
) -> list[KeySums]:
    """The sums of both arms after every 20 keys, [experiments, looks] each; users' rates are Beta with mean 0.2 and a +
    b of `users[0]` (0: all alike), and each has `users[1]` outcomes."""
    alike, outcomes = users
    treated = rng.random((experiments, keys)) < 0.5
    mean = 0.2 + effect * treated
    defects = rng.binomial(outcomes, rng.beta(alike * mean, alike * (1 - mean)) if alike else mean).astype(float)
    each = parts(np.full_like(defects, outcomes), defects)
    looks = (experiments, -1, 20)
    return [KeySums(*((part * arm).reshape(looks).sum(2).cumsum(1) for part in each)) for arm in (~treated, treated)]


def parts(outcomes: NDArray[np.float64], defects: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """What is summed of each key."""
    return np.ones_like(outcomes), outcomes, defects, outcomes**2, outcomes * defects, defects**2


@pytest.mark.parametrize(("users", "keys"), [((0, 10), 240), ((2, 10), 960), ((2, 30), 860), ((0.5, 10), 1680)])
def test_identical_arms_are_rarely_told_apart(users: tuple[float, int], keys: int) -> None:
    """`keys` bring the information by which a difference of 0.05 is found; 400 experiments have a deviation of 1 %."""
    control, treatment = simulated(np.random.default_rng(0), 400, keys, users)
    for detect in (0.05, None):
        found = difference(control, treatment, 0.05, detect)
        stopped = (np.abs(found.value) > found.half_width).any(axis=1)
        assert (0.005 if detect else 0.0) <= stopped.mean() <= 0.06
    assert np.median(difference(control, treatment, 0.05, 0.05).progress[:, -1]) == pytest.approx(1.0, abs=0.15)


def test_a_difference_is_found_by_the_time_of_the_plan() -> None:
    found = difference(*simulated(np.random.default_rng(1), 400, 1200, (2, 10), 0.05), 0.05, 0.05)
    stopped = (found.value > found.half_width) & (found.progress <= 1.05)
    assert stopped.any(axis=1).mean() > 0.75
    fixed = stats.norm.isf(0.025) + stats.norm.isf(0.2)  # a test that is looked at once
    assert planned_information(0.05, 0.05) < 1.2 * (fixed / 0.05) ** 2


def test_late_outcomes_are_looked_at_as_often_as_one_likes() -> None:
    """All keys are there from the start, and have an outcome more at every look."""
    rng, stopped = np.random.default_rng(0), np.zeros(300, bool)
    treated, defects = rng.random((300, 300)) < 0.5, np.zeros((300, 300))
    for look in range(1, 31):
        defects += rng.random((300, 300)) < 0.2
        each = parts(np.full_like(defects, look), defects)
        arms = [KeySums(*((part * arm).sum(1) for part in each)) for arm in (~treated, treated)]
        found = difference(*arms, 0.05, 0.05)
        stopped |= np.abs(found.value) > found.half_width
    assert 0.0 < stopped.mean() <= 0.06


def test_it_narrows_and_finds_a_difference() -> None:
    for detect in (None, 0.02):
        widths = []
        for n in (20, 200, 2_000, 10_000):
            low, high = difference(sums([(4, 1)] * 3 * n + [(4, 2)] * n), sums([(4, 1)] * 4 * n), 0.05, detect).interval
            widths.append(high - low)
            assert low <= -0.0625 <= high
        assert widths == sorted(widths, reverse=True)
        assert widths[-1] < 0.05
        assert high < 0.0


def test_with_a_plan_the_interval_never_widens() -> None:
    progress = np.geomspace(0.01, 100, 500)
    assert (np.diff(planned_quantile(progress, 0.05) / np.sqrt(progress)) < 1e-12).all()


def test_what_says_nothing_of_how_keys_differ_says_nothing() -> None:
    many = sums([(10, 2)] * 500)
    for arm in (KeySums.none(), sums([(1000, 100)]), sums([(1_000_000, 1_000_000), (1, 0)])):
        assert difference(arm, many).interval == (-1.0, 1.0)
        assert difference(many, arm, 0.05, 0.02).interval == (-1.0, 1.0)
    assert np.isnan(difference(KeySums.none(), many).value)


def test_without_a_defect_the_interval_is_that_of_a_key_with_nothing_else() -> None:
    """Of so many keys without a defect, 3 in so many may have them (the rule of three), however many outcomes there
    are."""
    for keys, outcomes in ((100, 1), (100, 1000), (1000, 10)):
        low, high = difference(*[sums([(outcomes, 0)] * keys)] * 2).interval
        assert -low == pytest.approx(high)
        assert 3.0 / keys < high < 8.0 / keys
    assert advice(difference(*[sums([(500, 0)] * 10)] * 2).interval, 0.02) == "continue"


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        ((-0.2, -0.01), "stop: better"),
        ((0.01, 0.2), "stop: worse"),
        ((-0.01, 0.02), "stop: no difference that matters"),
        ((-0.01, 0.06), "continue"),
        ((-0.3, 0.3), "continue"),
    ],
)
def test_advice(interval: tuple[float, float], said: str) -> None:
    assert advice(interval, 0.05) == said
