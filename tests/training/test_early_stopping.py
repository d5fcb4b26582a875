import dataclasses
import itertools

import numpy as np
import pytest
import torch
from trainings import SETTINGS, dense, digest, loss_of, made

from prunetime.errors import InputError, PrunetimeError
from prunetime.models.encoder import weights_of
from prunetime.training.stopping import LearningCurve, Stopping
from prunetime.training.trainer import fit

RULE = Stopping(every=4, patience=3, cooldown=0.25)
STOPPING = dataclasses.replace(SETTINGS, epochs=20.0, stopping=RULE)
"""Of 160 steps at most."""


def curve(values, most=160, rule=RULE) -> LearningCurve:
    found = LearningCurve(most, rule)
    found.values = [(rule.every * (index + 1), value) for index, value in enumerate(values)]
    return found


def test_it_cools_down_once_patience_has_run_out():
    assert curve([1, 2, 3, 3, 2]).cooldown == (120, 160)
    stopped = curve([1, 2, 3, 3, 2, 1])
    assert stopped.stopped_at == 24
    assert stopped.cooldown == (24, 32)
    assert stopped.best == (16, 3)


def test_the_last_part_is_a_cooldown_whatever_values_are():
    rising = curve(range(40))
    assert rising.cooldown == (120, 160)
    # Patience that runs out in the cooldown changes nothing.
    assert curve([*range(28), 3, 2, 1]).cooldown == (120, 160)


def test_the_learning_rate_rises_stays_and_falls():
    stopped = curve([3, 3, 3, 3])
    rates = [stopped.learning_rate(step, rising=2) for step in range(23)]
    assert rates[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert rates[2:17] == [1] * 15
    assert rates[17:23] == pytest.approx([5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0])


def test_without_a_rule_it_falls_all_the_way():
    plain = LearningCurve(10)
    assert [plain.learning_rate(step, rising=2) for step in (0, 1, 2, 6, 10)] == pytest.approx(
        [1 / 3, 2 / 3, 1, 0.5, 0]
    )


@pytest.mark.parametrize("wrong", [{"every": 0}, {"patience": 0}, {"cooldown": 0.0}, {"cooldown": 1.0}])
def test_a_rule_out_of_range_is_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        dataclasses.replace(RULE, **wrong)


def test_it_stops_and_keeps_the_best_weights(tmp_path):
    """A value that is highest at the second look: the weights are those of then."""
    seen: list[dict[str, bytes]] = []
    values = itertools.chain([1.0, 2.0], itertools.repeat(0.0))

    def value(model):
        seen.append(digest(model))
        return next(values)

    model, steps = dense(), []
    trained = fit(model, made(), STOPPING, tmp_path, on_progress=lambda *done: steps.append(done), value=value)
    assert trained.curve.best == (8, 2.0)
    assert steps[-1] == (27, 27)  # patience ends at step 20, and 7 of 27 steps are a quarter
    assert digest(model) == seen[1]
    assert seen[1] != seen[-1]


def test_weights_that_have_cooled_down_are_taken_before_those_that_had_luck():
    rising = range(30)
    assert curve(rising).best == (120, 29)  # the cooldown has not begun
    ran = curve([*rising, 2, 4, 4, *[3] * 7])
    assert ran.stopped_at is None
    assert ran.best == (132, 4)
    assert curve([1, 3, 2, 1, 0]).best == (8, 3)  # patience has run out


def test_values_are_of_the_whole_word_table(tmp_path):
    shapes = []
    before = weights_of(dense())
    table = next(name for name, array in before.items() if array.shape[0] == 60)

    def value(model):
        shapes.append(weights_of(model)[table].shape)
        np.testing.assert_array_equal(weights_of(model)[table][50:], before[table][50:])  # tokens that never occur
        return 0.0

    fit(dense(), made(), STOPPING, tmp_path, value=value)
    assert set(shapes) == {before[table].shape}


def test_it_learns_as_much_as_it_can(tmp_path):
    """With wrong labels among those it is trained on: the loss on others is as low as after any number of epochs."""
    held_out, data = made(rows=200, seed=1), made(rows=200)
    wrong = np.random.default_rng(0).random(200) < 0.2
    data = dataclasses.replace(data, labels=np.where(wrong, 1 - data.labels, data.labels))
    model, longer = dense(), dataclasses.replace(STOPPING, epochs=20.0, stopping=dataclasses.replace(RULE, every=16))
    curve = fit(model, data, longer, tmp_path / "stopped", value=lambda model: -loss_of(model, held_out)).curve
    fixed = []
    for epochs in (1.0, 4.0, 20.0):
        other = dense()
        fit(other, data, dataclasses.replace(SETTINGS, epochs=epochs), tmp_path / str(epochs))
        fixed.append(loss_of(other, held_out))
    assert curve.stopped_at
    assert loss_of(model, held_out) < min(fixed) + 0.02 < max(fixed)


@pytest.mark.parametrize("stopped_at", [3, 9, 13, 17, 24])
def test_interrupted_it_ends_in_the_same_bytes(tmp_path, stopped_at):
    """Before, at and after the best value, and in the cooldown."""

    def value():
        return lambda model: -abs(float(model.embeddings.word.weight.detach().abs().mean()) - 0.01633)

    def interrupt(done: int, _: int) -> None:
        if done == stopped_at:
            raise KeyboardInterrupt

    whole, resumed = dense(), dense()
    curve = fit(whole, made(), STOPPING, tmp_path / "whole", value=value()).curve
    with pytest.raises(KeyboardInterrupt):
        fit(dense(), made(), STOPPING, tmp_path / "killed", on_progress=interrupt, value=value())
    torch.manual_seed(1234)
    steps: list[int] = []
    again = fit(
        resumed, made(), STOPPING, tmp_path / "killed", on_progress=lambda done, _: steps.append(done), value=value()
    )
    assert steps[0] == (stopped_at - 1) // 5 * 5 + 1
    assert again.curve == curve
    assert digest(resumed) == digest(whole)
    fit(resumed := dense(), made(), STOPPING, tmp_path / "killed", value=value())  # finished, but not saved
    assert digest(resumed) == digest(whole)


@pytest.mark.parametrize("value", [None, lambda _: float("nan")])
def test_a_value_that_is_no_number_is_refused(tmp_path, value):
    with pytest.raises(PrunetimeError, match="at step 4"):
        fit(dense(), made(), STOPPING, tmp_path, value=value)
