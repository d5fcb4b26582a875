"""A verdict that noise leaves open is measured for longer; one that is clear is not."""

import numpy as np
import pytest

from prunetime.core.budget import Budget
from prunetime.latency.measure import Samples
from prunetime.latency.timing import SETTINGS, Job, SamplesBySetting
from prunetime.pipeline.stages import measure, verify
from prunetime.pipeline.verdict import Verdict, judge

BUDGET = Budget(share=0.5)
DENSE_US = 100.0


def measurement(share: float, spread: float, seed: int) -> SamplesBySetting:
    """24 rounds in which the pruned model takes about `share` of the dense one, as far off as `spread` says."""
    rng = np.random.default_rng(seed)
    rounds = share * DENSE_US * np.exp(spread * rng.standard_normal((24, 1)))
    us = {"dense": np.full((24, 40), DENSE_US), "pruned": np.repeat(rounds, 40, axis=1)}
    samples = {name: Samples.of_wall(values) for name, values in us.items()}
    return dict.fromkeys(SETTINGS, samples)


def settle(monkeypatch: pytest.MonkeyPatch, *measurements: SamplesBySetting) -> tuple[SamplesBySetting, Verdict]:
    left = list(measurements)
    monkeypatch.setattr(verify, "time_artifacts", lambda *_: left.pop(0))
    found = verify.measure_until_decided(Job({}, BUDGET, 24, 40, 0.0), lambda *_: None)
    assert not left
    return found


def test_what_is_clear_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settle(monkeypatch, measurement(0.48, 0.01, 0))[1].met
    assert not settle(monkeypatch, measurement(0.52, 0.01, 0))[1].met
    assert not settle(monkeypatch, measurement(0.8, 0.5, 0))[1].met


def test_what_noise_leaves_open_is_measured_again_until_it_is_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    noisy, quiet = measurement(0.47, 0.3, 0), measurement(0.47, 0.001, 1)
    first = judge(BUDGET, noisy)
    assert first.undecided
    timed, verdict = settle(monkeypatch, noisy, quiet)
    assert verdict.met
    assert len(timed["ids", "hot"]["pruned"]) == 48
    assert verdict.measured.width < first.measured.width


def test_what_a_steady_machine_leaves_open_is_measured_again_too(monkeypatch: pytest.MonkeyPatch) -> None:
    close = [measurement(0.49, 0.06, seed) for seed in range(measure.MEASUREMENTS)]
    first = judge(BUDGET, close[0])
    assert first.undecided
    assert not first.noisy
    assert settle(monkeypatch, *close)[1].met


def test_noise_that_stays_is_given_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    _, verdict = settle(monkeypatch, *(measurement(0.495, 0.6, seed) for seed in range(measure.MEASUREMENTS)))
    assert verdict.undecided
    assert not verdict.met
