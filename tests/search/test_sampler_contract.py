"""Optuna's own contract of samplers, for ours: all of it for samplers of one objective, whole."""

from collections.abc import Callable

import pytest
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase

from prunetime.search.samplers import ReinforcedEvolutionSampler


class Contract(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    """Those of several objectives (`MultiObjectiveSamplerTestCase`) are not for ours, which refuses them."""


class TestWhileItDrawsAtRandom(Contract):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: ReinforcedEvolutionSampler(seed=0)


class TestWhileItEvolves(Contract):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: ReinforcedEvolutionSampler(population=1, batch=1, seed=0)
