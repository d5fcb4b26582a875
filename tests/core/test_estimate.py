"""Values with intervals, and rank correlation, against scipy."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from prunetime.core.estimate import Estimate, Ranking, spearman


def test_an_estimate_is_its_json_under_any_names() -> None:
    estimate = Estimate.of_resamples(2.0, np.arange(1001.0))
    assert estimate == Estimate(2.0, 25.0, 975.0)
    for names in ((), ("measured",), ("p50_us", "p50_ci95_us")):
        assert Estimate.from_json(estimate.to_json(*names), *names) == estimate
    assert estimate.to_json() == {"value": 2.0, "ci95": [25.0, 975.0]}


def test_an_estimate_is_scaled_with_its_interval() -> None:
    estimate = Estimate(10.0, 9.0, 11.5)
    assert estimate.scaled(2.0).ci95 == (18.0, 23.0)
    assert estimate.width == pytest.approx(0.25)
    assert estimate.is_wider_than(0.2)
    assert not estimate.is_wider_than(0.25)


@pytest.mark.parametrize("levels", [3, 1000])
def test_spearman_is_that_of_scipy_with_and_without_ties_and_counts(levels: int) -> None:
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, levels, (2, 50)).astype(float)
    counts = np.stack((np.ones(50), rng.integers(0, 3, 50))).astype(float)
    found = spearman(Ranking(one), Ranking(other), counts)
    for correlation, each in zip(found, counts.astype(int), strict=True):
        expected = spearmanr(np.repeat(one, each), np.repeat(other, each)).statistic
        assert correlation == pytest.approx(expected)
    assert np.isnan(spearman(Ranking(one), Ranking(np.ones(50)), counts)).all()
