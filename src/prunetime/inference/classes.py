"""The best classes of a text, by name."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from prunetime.core.arrays import Float32Array
from prunetime.core.task import Task
from prunetime.errors import InputError


class ClassScore(NamedTuple):
    """A class by its name, with its score: the probability that a text is of it, 0 to 1."""

    label: str
    score: float


def best_classes(task: Task, scores: Float32Array, count: int) -> list[list[ClassScore]]:
    """Names the classes that score highest, of every text.

    Args:
        task: The task, one of classes.
        scores: Its scores [texts, classes], or [texts] of the second of two classes.
        count: How many classes of each text.

    Returns:
        For each text the `count` best classes, the best first; of equal ones the first of the task's.

    Raises:
        InputError: The task has no classes of texts, or fewer than `count`.

    Example:
        >>> best_classes(Task("classification", ("cat", "dog"), ("text",), 8), np.array([0.75], np.float32), 1)
        [[ClassScore(label='dog', score=0.75)]]
    """
    if not task.traits.has_labels or task.rows != "pooled":
        raise InputError(f"a model of {task.kind} has no classes of texts to name the best of: ask for its scores")
    if not 1 <= count <= len(task.labels):
        raise InputError(f"the {count} best classes: this model has {len(task.labels)}; ask for 1 to that many")
    of_classes = scores if scores.ndim == 2 else np.stack([1.0 - scores, scores], axis=1)
    best = np.argsort(-of_classes, axis=1, kind="stable")[:, :count]
    return [
        [ClassScore(task.labels[index], float(row[index])) for index in at]
        for at, row in zip(best.tolist(), of_classes, strict=True)
    ]
