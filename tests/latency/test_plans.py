"""Plans chosen by measurement: inside the limit, fast where speed is all, and the same words as any other plan."""

import numpy as np
import pytest
from cases import random_config, random_ragged, random_spec, random_weights

from prunetime.core.arch import ArchSpec
from prunetime.core.precision import MatrixPlan, PrecisionPlan
from prunetime.latency.plans import EngineArguments, PrecisionOption, _row_of_plans, choose, logit_error

RNG = np.random.default_rng(0)
CONFIG = random_config(RNG, layers=2, heads=4, head_dim=32, ffn=256, outputs=2)


def model_of(spec):
    return EngineArguments(CONFIG, random_weights(CONFIG, spec, RNG), spec)


@pytest.mark.parametrize("limit", [0.0, 1e-3, 1e-2, 1e9])
@pytest.mark.parametrize("blocks", [False, True])
def test_the_loss_of_the_choice_is_measured_and_inside_the_limit(limit, blocks):
    model = model_of(random_spec(CONFIG, RNG, blocks=True) if blocks else ArchSpec.full(CONFIG.dims))
    batch, checked = random_ragged(CONFIG, RNG, [16]), random_ragged(CONFIG, RNG, [5, 16, 16])
    loss = logit_error(model, [checked])
    steps = []
    plan = choose(model, batch, loss, limit, lambda *done: steps.append(done))
    assert loss(model.engine(plan)) <= limit
    assert plan.quality_loss is None or plan.quality_loss == loss(model.engine(plan))
    assert steps[-1][0] == steps[-1][1] == len(steps)


def test_the_fastest_option_of_every_sublayer_is_first_and_float32_last():
    options = [
        PrecisionOption("fp32", "fp32", True),
        PrecisionOption("bf16", "int8", True),
        PrecisionOption("int8", "int8", False),
    ]
    times = np.array([[9.0, 9.0], [5.0, 7.0], [6.0, 4.0]])
    harm = {((sub, end), precision): 1.0 for sub in (0, 1) for end in (0, 1) for precision in ("bf16", "int8")}
    first, *_, last = _row_of_plans(times, options, harm)
    assert first.of(0, "query") == MatrixPlan("bf16")
    assert first.of(0, "attention_output") == MatrixPlan("int8")
    assert first.of(0, "ffn_input") == first.of(0, "ffn_output") == MatrixPlan("int8", sparse=False)
    assert last == PrecisionPlan()


def test_a_loss_that_no_narrow_plan_stays_inside_leaves_float32():
    model = model_of(ArchSpec.full(CONFIG.dims))
    plan = choose(model, random_ragged(CONFIG, RNG, [8]), lambda engine: float(engine.plan != PrecisionPlan()), 0.5)
    assert plan == PrecisionPlan()
