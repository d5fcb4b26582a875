import numpy as np
import pytest
from scipy.stats import kendalltau

from prunetime.search.proxy_validation import ProxyValidation, kendall_tau


def test_of_one_budget_it_is_kendalls_tau():
    rng = np.random.default_rng(0)
    for _ in range(20):
        points = rng.normal(size=(8, 2))
        assert kendall_tau([points]) == pytest.approx(kendalltau(*points.T).statistic)
        assert ProxyValidation.of([points]).overall == pytest.approx(kendalltau(*points.T).statistic)


def test_pairs_of_different_budgets_count_overall_only():
    small = np.array([[1.0, 2.0], [2.0, 1.0], [3.0, 0.0]])
    large = small + 10
    found = ProxyValidation.of([small, large])
    assert found.within.value == -1.0
    assert found.of_budget == (-1.0, -1.0)
    assert found.overall == pytest.approx((9 - 6) / 15)
    assert found.within.ci95 == (-1.0, -1.0)


def test_ties_do_not_count():
    assert kendall_tau([np.array([[1.0, 1.0], [1.0, 2.0], [2.0, 3.0]])]) == 1.0
    assert kendall_tau([np.ones((3, 2))]) == 0.0


def test_the_interval_holds_the_value_and_narrows_with_more():
    rng = np.random.default_rng(1)

    def found(count: int) -> ProxyValidation:
        x = rng.normal(size=count)
        return ProxyValidation.of([np.stack([x, x + rng.normal(size=count)], axis=1) for _ in range(2)])

    few, many = found(8), found(80)
    for each in (few, many):
        assert each.within.ci95[0] <= each.within.value <= each.within.ci95[1]
    assert many.within.ci95[1] - many.within.ci95[0] < 0.5 * (few.within.ci95[1] - few.within.ci95[0])
