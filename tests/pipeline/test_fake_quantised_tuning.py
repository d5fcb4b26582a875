"""Tuning asks training to compute in the precisions of the run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from trainings import dense, half, made

from prunetime.core.precision import PrecisionPlan
from prunetime.models.encoder import weights_of
from prunetime.pipeline import student
from prunetime.training.settings import FakeQuantisation, TrainingSettings
from prunetime.training.stopping import LearningCurve
from prunetime.training.trainer import Trained


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_training_is_fake_quantised_for_a_narrow_plan(
    precision: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[TrainingSettings] = []

    def note(_model: Any, _data: Any, settings: TrainingSettings, *_: Any, **__: Any) -> Trained:
        asked.append(settings)
        return Trained(LearningCurve(1))

    monkeypatch.setattr(student, "fit_on_every_rank", note)
    model, plan = dense(), PrecisionPlan.uniform(precision)
    context: Any = SimpleNamespace(
        run_plan=SimpleNamespace(tune_rows=60, tune_epochs=1.0, tune_learning_rate=1e-4, looks=0),
        teacher=SimpleNamespace(manifest=SimpleNamespace(config=model.config), weights=weights_of(model)),
        source=SimpleNamespace(training_data=lambda *_, **__: made(), labelled=True),
        settings=SimpleNamespace(seed=0),
        metric_of=lambda _: lambda _: 1.0,
    )
    student.distil(context, half(), tmp_path, lambda *_: None, plan)
    (settings,) = asked
    assert settings.fake_quantisation == (None if precision == "fp32" else FakeQuantisation(plan))
