"""Linear models of scikit-learn: logistic regression of classes and of grades, ridge regression of numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from prunetime.core.arrays import Array, Float32Array, Float64Array
from prunetime.core.task_kind import TaskKind
from prunetime.inference.tagging import NO_LABEL

HELD_OUT = 5
"""One row in so many chooses the strength of the regularisation."""

STRENGTHS = (0.003, 0.03, 0.3)
"""Inverse strengths of the regularisation that fit features whose deviation is 1."""

ITERATIONS = 100
TOLERANCE = 1e-3
"""The solver ends at this gradient: the rest is noise of the rows."""

LEAST_PROBABILITY = 1e-6
"""A class that no row has gets the logit of this probability."""


@dataclass(frozen=True)
class LinearModel:
    """A linear layer: `weight` [outputs, width] and `bias` [outputs]."""

    weight: Float64Array
    bias: Float64Array

    def logits(self, features: Any) -> Float32Array:
        """Returns the logits [rows, outputs] of `features` [rows, width], an array or a sparse matrix."""
        return np.asarray(features @ self.weight.T + self.bias, np.float32)


def fit_linear(kind: TaskKind, features: Any, labels: Array, outputs: int, strengths: Sequence[float]) -> LinearModel:
    """Fits a linear model of the labels of a task of `kind`, the same to the byte on any number of threads.

    Args:
        kind: One of `LINEAR_MODELS`.
        features: [rows, width], an array or a sparse matrix.
        labels: [rows]: class indices, grades from 0 to 1, or numbers; of several labels a text [rows, outputs]. A row
            with `NO_LABEL` is left out.
        outputs: The number of logits.
        strengths: Inverse strengths of the regularisation, C of scikit-learn. Of several, the one is taken whose loss
            on a fifth of the rows is the least, and fitted to all rows.
    """
    fit, loss = LINEAR_MODELS[kind]
    if kind == "token-classification":
        known = labels != NO_LABEL
        features, labels = features[known], labels[known]
    with threadpool_limits(1):  # sums of BLAS depend on the number of its threads
        if len(strengths) == 1:
            return fit(features, labels, outputs, strengths[0])
        held_out = np.arange(len(labels)) % HELD_OUT == 0
        seen, seen_labels = features[~held_out], labels[~held_out]

        def loss_of(strength: float) -> float:
            model = fit(seen, seen_labels, outputs, strength)
            return loss(model.logits(features[held_out]).astype(np.float64), labels[held_out])

        return fit(features, labels, outputs, min(strengths, key=loss_of))


def _fit_classes(features: Any, labels: Array, outputs: int, strength: float) -> LinearModel:
    """Fits a logit for every class; two classes have opposite ones."""
    from sklearn.linear_model import LogisticRegression  # only here: scikit-learn is slow to import

    classes, indices = np.unique(labels.astype(np.int64), return_inverse=True)
    weight, bias = np.zeros((outputs, features.shape[1])), np.full(outputs, np.log(LEAST_PROBABILITY))
    if len(classes) == 1:
        bias[classes] = 0.0
        return LinearModel(weight, bias)
    found = LogisticRegression(C=strength, max_iter=ITERATIONS, tol=TOLERANCE).fit(features, indices)
    if len(classes) == 2:
        weight[classes] = np.concatenate((-found.coef_, found.coef_)) / 2
        bias[classes] = np.concatenate((-found.intercept_, found.intercept_)) / 2
    else:
        weight[classes], bias[classes] = found.coef_, found.intercept_
    return LinearModel(weight, bias)


def _fit_grades(features: Any, grades: Array, _: int, strength: float) -> LinearModel:
    """Fits one logit to grades from 0 to 1: a row is a good one by its grade, and a bad one by the rest."""
    from scipy.sparse import issparse, vstack
    from sklearn.linear_model import LogisticRegression

    twice = vstack((features, features), "csr") if issparse(features) else np.concatenate((features, features))
    grades = np.clip(grades, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    weights, is_good = np.concatenate((grades, 1 - grades)), np.repeat([1, 0], len(grades))
    model = LogisticRegression(C=strength, max_iter=ITERATIONS, tol=TOLERANCE)
    found = model.fit(twice, is_good, sample_weight=weights)
    return LinearModel(found.coef_, found.intercept_)


def _fit_labels(features: Any, labels: Array, outputs: int, strength: float) -> LinearModel:
    """Fits a logit for each of several labels, by itself, to `labels` [rows, outputs] of 0 and 1."""
    models = [_fit_grades(features, labels[:, label], 1, strength) for label in range(outputs)]
    return LinearModel(np.concatenate([m.weight for m in models]), np.concatenate([m.bias for m in models]))


def _fit_numbers(features: Any, labels: Array, _: int, strength: float) -> LinearModel:
    from sklearn.linear_model import Ridge

    found = Ridge(1 / strength).fit(features, labels)
    return LinearModel(np.atleast_2d(found.coef_), np.atleast_1d(found.intercept_))


def _loss_of_classes(logits: Float64Array, labels: Array) -> float:
    largest = logits.max(1, keepdims=True)
    total = np.log(np.exp(logits - largest).sum(1)) + largest[:, 0]
    return float((total - logits[np.arange(len(labels)), labels.astype(np.int64)]).mean())


def _loss_of_grades(logits: Float64Array, labels: Array) -> float:
    return float((np.logaddexp(0.0, logits[:, 0]) - labels * logits[:, 0]).mean())


def _loss_of_labels(logits: Float64Array, labels: Array) -> float:
    return float((np.logaddexp(0.0, logits) - labels * logits).mean())


def _loss_of_numbers(logits: Float64Array, labels: Array) -> float:
    return float(np.square(logits[:, 0] - labels).mean())


Fit = Callable[[Any, Array, int, float], LinearModel]
"""Fits features [rows, width] and labels [rows], for so many outputs, with a strength."""

MeanLoss = Callable[[Float64Array, Array], float]
"""The mean loss of logits [rows, outputs] and labels [rows]."""

LINEAR_MODELS: dict[TaskKind, tuple[Fit, MeanLoss]] = {
    "classification": (_fit_classes, _loss_of_classes),
    "multi-label-classification": (_fit_labels, _loss_of_labels),
    "relevance": (_fit_grades, _loss_of_grades),
    "regression": (_fit_numbers, _loss_of_numbers),
    "token-classification": (_fit_classes, _loss_of_classes),
    "similarity": (_fit_numbers, _loss_of_numbers),
}
"""The fit and the loss of every kind whose labels are of rows, or of words; those of similarity are of cosines."""
