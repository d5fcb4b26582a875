"""The head that fine-tuning begins with is the linear model that scikit-learn fits to the frozen encoder's rows."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from cases import family_fields, random_config
from sklearn.linear_model import LogisticRegression, Ridge
from trainings import CLASSES, REGRESSION, RELEVANCE, SIZES, digest, loss_of, made

from prunetime.core.task import Task
from prunetime.core.task_kind import TaskKind
from prunetime.models.batches import TrainingData
from prunetime.models.encoder import SequenceClassifier
from prunetime.training import head_start
from prunetime.training.head_start import start_head
from prunetime.training.linear import LinearModel, fit_linear

TAGS = Task("token-classification", ("no", "yes", "other"), ("text",), 16)


def encoder(task: Task, family: str = "bert", **fields: Any) -> SequenceClassifier:
    torch.manual_seed(1)
    fields = {"outputs": task.outputs, "rows": task.rows, "pooling": "first"} | fields
    config = random_config(np.random.default_rng(0), **(SIZES | family_fields(family) | fields))
    return SequenceClassifier(config)


def tagged(rows: int) -> TrainingData:
    data = made(CLASSES, rows)
    ids = data.tokens.ids
    return dataclasses.replace(data, labels=np.where(ids < 5, -100, (ids >= 20) + (ids >= 40)), task=TAGS)


@pytest.mark.parametrize("task", [CLASSES, RELEVANCE, REGRESSION, TAGS], ids=lambda task: task.kind)
def test_a_start_is_better_than_a_random_head_and_than_a_constant(task: Task) -> None:
    data = tagged(400) if task is TAGS else made(task, 400)
    model = encoder(task)
    before = {name: array for name, array in digest(model).items() if not name.startswith("head.")}
    random = loss_of(model, data)
    assert start_head(model, data, 2)
    started = loss_of(model, data)
    model.head.output.weight.data.zero_()
    assert started < min(random, loss_of(model, data)) - 0.005
    assert before == {name: array for name, array in digest(model).items() if not name.startswith("head.")}


def read_by_last(model: SequenceClassifier, data: TrainingData) -> np.ndarray[Any, Any]:
    """What the last layer of `model` reads of every row, as torch computes it."""
    batch = data.batch(range(len(data)))
    read: list[torch.Tensor] = []
    last = model.get_submodule(model.config.head_layers[-1][0])
    hook = last.register_forward_hook(lambda _, inputs, __: read.append(inputs[0]))
    with torch.no_grad():
        model.eval()(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
    hook.remove()
    return read[0].double().numpy()


def logits_of(model: SequenceClassifier, data: TrainingData) -> np.ndarray[Any, Any]:
    batch = data.batch(range(len(data)))
    batch.pop("labels")
    with torch.no_grad():
        return model.eval()(**batch).logits.numpy()


@pytest.mark.parametrize(
    "family", ["bert", "roberta", "distilbert", "electra", "mpnet", "modernbert"], ids=lambda name: name
)
def test_logits_are_those_of_scikit_learn_on_frozen_rows(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_start, "STRENGTHS", (0.1,))
    data, model = made(CLASSES, 300), encoder(CLASSES, family)
    assert start_head(model, data, 1)
    features = read_by_last(model, data)
    mean, deviation = features.mean(0), np.sqrt(features.var(0).mean())
    reference = LogisticRegression(C=0.1, max_iter=1000, tol=1e-8).fit((features - mean) / deviation, data.labels)
    expected = reference.decision_function((features - mean) / deviation)
    found = logits_of(model, data)
    np.testing.assert_allclose(found[:, 1] - found[:, 0], expected, atol=0.05)


def test_a_number_is_that_of_ridge_regression(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_start, "STRENGTHS", (0.1,))
    data, model = made(REGRESSION, 300), encoder(REGRESSION)
    assert start_head(model, data, 1)
    features = read_by_last(model, data)
    mean, deviation = features.mean(0), np.sqrt(features.var(0).mean())
    expected = Ridge(10.0).fit((features - mean) / deviation, data.labels).predict((features - mean) / deviation)
    np.testing.assert_allclose(logits_of(model, data)[:, 0], expected, atol=5e-3)


@pytest.mark.parametrize("family", ["bert", "distilbert", "electra"])
def test_a_fresh_dense_layer_passes_its_rows_on(family: str) -> None:
    data, model = made(CLASSES, 300), encoder(CLASSES, family)
    start_head(model, data, 1)
    rows, read = head_start.hidden_rows(model, data, 1), read_by_last(model, data)
    alike = [np.corrcoef(rows[:, at], read[:, at])[0, 1] for at in range(rows.shape[1])]
    assert min(alike) > 0.95


def test_the_start_is_the_same_on_any_number_of_threads() -> None:
    data, models = made(CLASSES, 300), [encoder(CLASSES) for _ in range(2)]
    for threads, model in enumerate(models, start=1):
        start_head(model, data, threads)
    assert digest(models[0]) == digest(models[1])


def test_a_feature_that_hardly_varies_gets_no_huge_weight() -> None:
    """MiniLM has such numbers in its last rows; scaled to deviation 1 each, they would have weights of 1e31."""
    data, model = made(CLASSES, 300), encoder(CLASSES)
    with torch.no_grad():
        norm = model.layers[-1].ffn_norm
        norm.weight[3], norm.bias[3] = 1e-30, 0.0
    start_head(model, data, 1)
    assert float(model.head.output.weight.detach().abs().max()) < 100


def test_rows_in_order_of_their_labels_are_drawn_from_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray[Any, Any]] = []

    def fit(kind: TaskKind, features: Any, labels: Any, *rest: Any) -> LinearModel:
        seen.append(labels)
        return fit_linear(kind, features, labels, *rest)

    monkeypatch.setattr(head_start, "ROWS", 100)
    monkeypatch.setattr(head_start, "fit_linear", fit)
    data = made(CLASSES, 400)
    start_head(encoder(CLASSES), data.select(np.argsort(data.labels, kind="stable")), 1)
    assert len(seen[0]) == 100
    assert 30 < seen[0].sum() < 70


def test_classes_without_rows_are_unlikely_and_kinds_without_a_linear_model_are_left_alone() -> None:
    task = Task("classification", ("no", "yes", "never"), ("text",), 16)
    data, model = dataclasses.replace(made(CLASSES, 300), task=task), encoder(task)
    start_head(model, data, 1)
    assert logits_of(model, data).argmax(1).max() == 1
    assert np.isfinite(logits_of(model, data)).all()
    answers = Task("question-answering", (), ("question", "context"), 16, 4)
    spans = dataclasses.replace(made(CLASSES, 20), task=answers, labels=np.zeros((20, 2), np.int64))
    model = encoder(answers)
    before = digest(model)
    assert not start_head(model, spans, 1)
    assert digest(model) == before


def test_the_strength_is_that_of_the_least_loss_on_rows_held_out() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 20))
    noise, signal = rng.integers(0, 2, 200), (features[:, 0] > 0).astype(np.int64)
    weak, strong = (fit_linear("classification", features, labels, 2, (1e-4, 1.0)) for labels in (noise, signal))
    assert np.abs(weak.weight).max() < 0.01 < 0.5 < np.abs(strong.weight).max()
