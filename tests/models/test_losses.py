import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, mean_squared_error
from transformers import BertConfig
from transformers.loss.loss_utils import ForSequenceClassificationLoss

from prunetime.core.task import Task
from prunetime.models.losses import task_losses

RNG = np.random.default_rng(0)


def loss(logits, labels, task):
    return task_losses(torch.from_numpy(logits), torch.from_numpy(labels), task).mean().item()


def test_classes_have_the_cross_entropy_that_sklearn_computes():
    task = Task("classification", ("a", "b", "c"), ("text",), 32)
    logits = RNG.standard_normal((20, 3)).astype(np.float32)
    labels = RNG.integers(0, 3, 20)
    expected = log_loss(labels, task.scores(logits), labels=[0, 1, 2])
    assert loss(logits, labels, task) == pytest.approx(expected, rel=1e-5)


def test_several_labels_have_the_loss_of_transformers():
    task = Task("multi-label-classification", ("a", "b", "c"), ("text",), 32)
    logits = RNG.standard_normal((20, 3)).astype(np.float32)
    labels = RNG.integers(0, 2, (20, 3)).astype(np.float32)
    config = BertConfig(problem_type=task.traits.problem_type, num_labels=3)
    theirs = ForSequenceClassificationLoss(torch.from_numpy(labels), torch.from_numpy(logits), config)
    assert loss(logits, labels, task) == pytest.approx(theirs.item(), rel=1e-6)
    assert loss(logits, labels, task) == pytest.approx(
        np.mean([log_loss(labels[:, label], task.scores(logits)[:, label]) for label in range(3)]), rel=1e-5
    )


def test_relevance_has_the_binary_cross_entropy_of_graded_labels():
    task = Task("relevance", (), ("text",), 32)
    logits = RNG.standard_normal((20, 1)).astype(np.float32)
    labels = RNG.random(20).astype(np.float32)
    p = task.scores(logits).astype(np.float64)
    expected = -(labels * np.log(p) + (1 - labels) * np.log(1 - p)).mean()
    assert loss(logits, labels, task) == pytest.approx(expected, rel=1e-5)


def test_regression_has_the_squared_error():
    task = Task("regression", (), ("text",), 32)
    logits = RNG.standard_normal((20, 1)).astype(np.float32)
    labels = RNG.standard_normal(20).astype(np.float32)
    expected = mean_squared_error(labels, task.scores(logits))
    assert loss(logits, labels, task) == pytest.approx(expected, rel=1e-5)
