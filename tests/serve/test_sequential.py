"""Intervals that may be looked at all the time: they hold, they narrow, and they are as their definition says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunetime.serve.sequential import Counts, advice, difference, evidence_against

COUNTS = st.integers(0, 300).flatmap(lambda n: st.builds(Counts, st.just(n), st.integers(0, n)))


@given(COUNTS, COUNTS)
@settings(max_examples=60, deadline=None)
def test_an_interval_is_of_the_differences_that_are_not_ruled_out(control: Counts, treatment: Counts) -> None:
    low, high = difference(control, treatment)
    assert -1.0 <= low <= high <= 1.0
    grid = np.linspace(1e-4, 1 - 1e-4, 300)
    first, second = (np.array(list(map(evidence_against(each), grid))) for each in (control, treatment))
    inside = first[:, None] + second[None, :] <= np.log(20.0)
    differences = (grid[None, :] - grid[:, None])[inside]
    if len(differences):
        assert low <= differences.min() + 1e-9
        assert high >= differences.max() - 1e-9
        assert low == pytest.approx(differences.min(), abs=0.02)
        assert high == pytest.approx(differences.max(), abs=0.02)


def test_it_holds_at_all_times_at_once() -> None:
    """Looked at after every hundred of 2,000 outcomes, the true difference is ever outside in at most 5 % of cases."""
    rng, outside = np.random.default_rng(0), 0
    for _ in range(100):
        treated = rng.random(2000) < 0.5
        defects = rng.random(2000) < np.where(treated, 0.2, 0.3)
        for seen in range(10, 2001, 100):
            counts = [
                Counts(int((treated[:seen] == t).sum()), int(defects[:seen][treated[:seen] == t].sum())) for t in (0, 1)
            ]
            low, high = difference(*counts)
            if not low <= -0.1 <= high:
                outside += 1
                break
    assert outside <= 5


def test_it_narrows_and_finds_a_difference() -> None:
    widths = []
    for n in (100, 1_000, 10_000, 100_000):
        low, high = difference(Counts(n, n // 4), Counts(n, n // 5))
        widths.append(high - low)
        assert low <= -0.05 <= high
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.03
    assert high < 0.0


def test_without_outcomes_nothing_is_known() -> None:
    assert difference(Counts(), Counts()) == (-1.0, 1.0)
    assert Counts().rate is None


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
