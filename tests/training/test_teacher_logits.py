"""A teacher that reads other tokens: what it says of each example is all that a model is distilled from."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import random_config
from torch.nn import functional
from trainings import CLASSES, REGRESSION, SETTINGS, SIZES, dense, half, made

from prunetime.core.arrays import Float32Array
from prunetime.core.precision import PrecisionPlan
from prunetime.core.task import Task
from prunetime.errors import InputError
from prunetime.models.batches import TrainingData
from prunetime.models.distill import Distillation
from prunetime.models.encoder import SequenceClassifier, weights_of
from prunetime.pipeline.stages.verify import torch_logits
from prunetime.training.trainer import _Objective, fit

PAIRS = Task("similarity", (), ("text", "other"), 16)


def distilled(model: SequenceClassifier, data: TrainingData, task: float = 1.0) -> float:
    settings = replace(SETTINGS, distillation=Distillation(task=task))
    objective = _Objective(model.eval(), None, data.task, settings, None, None)
    with torch.no_grad():
        batch = data.batch(range(len(data)))
        return objective(**batch, seed=0, plan=PrecisionPlan())["loss"].item()


@pytest.mark.parametrize("task", [CLASSES, REGRESSION], ids=lambda task: task.kind)
def test_steps_are_those_of_a_teacher_that_is_asked_at_every_step(task: Task, tmp_path: Path) -> None:
    """Where that one reads the same tokens, and only its logits count."""
    data, teacher, student = made(task), half(task).eval(), dense(task, dropout=0.0)
    settings = replace(SETTINGS, epochs=1.0, distillation=Distillation(hidden=0.0))
    fit(student, data, settings, tmp_path / "asked", teacher)
    expected = weights_of(student)
    said, again = replace(data, teacher_logits=torch_logits(teacher, data.tokens, 0)), dense(task, 0.0)
    fit(again, said, replace(settings, distillation=Distillation()), tmp_path / "said")
    for name, array in weights_of(again).items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-3, atol=1e-5, err_msg=name)


def test_of_pairs_the_cosines_are_learned() -> None:
    torch.manual_seed(1)
    config = random_config(np.random.default_rng(0), **SIZES, rows="embedding", outputs=SIZES["hidden"])
    model, rows = SequenceClassifier(config), made(REGRESSION, rows=40)
    data = TrainingData(rows.tokens, rows.labels[:20], PAIRS, 0)
    embeddings = torch.from_numpy(torch_logits(model, data.tokens, 0))
    cosines = functional.cosine_similarity(embeddings[0::2], embeddings[1::2]).numpy()
    labels = float(np.square(cosines - data.labels).mean())
    assert distilled(model, with_logits(data, cosines[:, None])) == pytest.approx(labels, rel=1e-4)
    teacher = 0.5 * cosines + 0.1
    expected = labels + float(np.square(cosines - teacher).mean())
    assert distilled(model, with_logits(data, teacher[:, None])) == pytest.approx(expected, rel=1e-4)
    assert distilled(model, with_logits(data, teacher[:, None]), task=0.0) == pytest.approx(expected - labels, rel=1e-4)


def with_logits(data: TrainingData, logits: Float32Array) -> TrainingData:
    return replace(data, teacher_logits=logits)


def test_examples_keep_the_logits_that_are_theirs() -> None:
    data = made(CLASSES)
    logits = np.random.default_rng(0).random((len(data), 2), np.float32)
    said = with_logits(data, logits)
    assert said.digest() not in (data.digest(), with_logits(data, logits[::-1]).digest())
    np.testing.assert_array_equal(said.select([5, 2]).batch([1, 0])["teacher_logits"], logits[[2, 5]])
    with pytest.raises(InputError, match="60 examples with 59 logits of a teacher"):
        with_logits(data, logits[1:])
