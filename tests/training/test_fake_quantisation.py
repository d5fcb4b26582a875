"""A training is fake-quantised at its end, and not before."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from trainings import SETTINGS, dense, digest, half, made

from prunetime.core.precision import PrecisionPlan
from prunetime.errors import InputError
from prunetime.training.settings import FakeQuantisation
from prunetime.training.stopping import LearningCurve, Stopping
from prunetime.training.trainer import fit

INT8 = PrecisionPlan.uniform("int8")
QUANTISED = replace(SETTINGS, fake_quantisation=FakeQuantisation(INT8, share=0.5))


def test_the_steps_before_are_those_of_a_training_without(tmp_path: Path) -> None:
    weights: dict[str, list[dict[str, bytes]]] = {}
    for name, settings in (("without", SETTINGS), ("with", QUANTISED)):
        model, steps = half(), []
        note = partial(lambda model, steps, *_: steps.append(digest(model)), model, steps)
        fit(model, made(), settings, tmp_path / name, dense(), note)
        weights[name] = steps
    same = [one == other for one, other in zip(weights["without"], weights["with"], strict=True)]
    assert same == [True] * 12 + [False] * 12


def test_it_begins_with_the_cooldown_where_that_is_shorter() -> None:
    def first(curve: LearningCurve) -> int:
        plans = [QUANTISED.plan_at(step, curve) for step in range(curve.cooldown[1])]
        begin = plans.index(INT8)
        assert plans == [PrecisionPlan()] * begin + [INT8] * (len(plans) - begin)
        return begin

    rule = Stopping(every=10, patience=2, cooldown=0.3)
    assert first(LearningCurve(100)) == 50
    assert first(LearningCurve(100, rule)) == 70
    assert first(LearningCurve(100, rule, [(10, 0.5), (20, 0.4), (30, 0.4)])) == 30


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5])
def test_a_share_that_cannot_be_is_refused(share: float) -> None:
    with pytest.raises(InputError, match="above 0, at most 1"):
        FakeQuantisation(INT8, share)
