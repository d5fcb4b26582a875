"""Parameters of any range as genes of a few levels."""

import math

import numpy as np
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from prunetime.search.dimensions import MOST_CHOICES, MOST_LEVELS, dimension_of, in_range, is_gene

pytestmark = pytest.mark.filterwarnings("ignore:The distribution is specified by:UserWarning")

RNG = np.random.default_rng(0)


def drawn() -> list[BaseDistribution]:
    """Distributions of every kind, of sizes from two values to 10^300."""
    found: list[BaseDistribution] = [
        IntDistribution(0, 2**31 - 1),
        IntDistribution(-(2**31), 2**31 - 1, step=1000),
        IntDistribution(1, 2**62, log=True),
        IntDistribution(0, 1),
        IntDistribution(1, 2, log=True),
        FloatDistribution(0.1, 0.75, step=0.1),
        FloatDistribution(-1e300, 1e300 / 2),
        FloatDistribution(0.0, 1e9, step=1e-3),
        FloatDistribution(5e-324, 1e300, log=True),
        FloatDistribution(1.0, 1.0 + 1e-12),
    ]
    for _ in range(300):
        low = 10 ** RNG.uniform(-8, 0)
        found.append(FloatDistribution(low, low * 10 ** RNG.uniform(0.1, 6), log=True))
        start, step = int(RNG.integers(-50, 50)), int(RNG.integers(1, 9))
        found.append(IntDistribution(start, start + int(RNG.integers(1, 3000)), step=step))
        found.append(IntDistribution(1, int(RNG.integers(2, 5000)), log=True))
        found.append(FloatDistribution(start, start + RNG.uniform(1, 90), step=RNG.uniform(0.01, 1)))
    return [distribution for distribution in found if not distribution.single()]


def on_a_step(distribution: BaseDistribution, value: float) -> bool:
    steps = (value - distribution.low) / (distribution.step or 1.0)
    return distribution.step is None or math.isclose(steps, round(steps), rel_tol=1e-12, abs_tol=1e-8)


@pytest.mark.parametrize("parameters", [1, 12, 200])
def test_values_are_in_their_range_and_have_their_level(parameters: int) -> None:
    for distribution in drawn():
        dimension = dimension_of(distribution, parameters)
        assert 1 <= dimension.top <= MOST_LEVELS
        ends = [dimension.value_at(0, RNG), dimension.value_at(dimension.top, RNG)]
        assert ends == [distribution.low, distribution.high], distribution
        for level in range(dimension.top + 1):
            value = dimension.value_at(level, RNG)
            assert in_range(distribution, value), (distribution, value)
            assert on_a_step(distribution, value), (distribution, value)
            assert dimension.level_of(value) == level, (distribution, value)
            assert type(value) is (int if isinstance(distribution, IntDistribution) else float)


def test_few_values_have_a_level_each() -> None:
    for distribution, values in (
        (IntDistribution(1, 9, step=2), [1, 3, 5, 7, 9]),
        (IntDistribution(0, 100), list(range(101))),
        (IntDistribution(1, 12, log=True), list(range(1, 13))),
        (FloatDistribution(0.1, 0.75, step=0.1), [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]),
        (CategoricalDistribution([None, "a", 3, True]), [None, "a", 3, True]),
    ):
        dimension = dimension_of(distribution, 1)
        found = [dimension.value_at(level, RNG) for level in range(dimension.top + 1)]
        assert found == pytest.approx(values) if isinstance(distribution, FloatDistribution) else found == values


def test_levels_of_a_logarithmic_range_are_even_in_its_logarithm() -> None:
    """Half of the levels are below the geometric mean of the ends."""
    for distribution in (FloatDistribution(1e-6, 1.0, log=True), IntDistribution(1, 10**12, log=True)):
        dimension = dimension_of(distribution, 1)
        middle = math.sqrt(distribution.low * distribution.high)
        assert abs(dimension.level_of(middle) / dimension.top - 0.5) < (0.02 if distribution.high == 1.0 else 0.1)


def test_a_category_of_very_many_choices_is_no_gene() -> None:
    assert is_gene(CategoricalDistribution(range(MOST_CHOICES)))
    assert not is_gene(CategoricalDistribution(range(MOST_CHOICES + 1)))
    assert not is_gene(IntDistribution(3, 3))
