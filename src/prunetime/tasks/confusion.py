"""Which classes a model takes for which, and which it finds least well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prunetime.core.arrays import Array, Int64Array

FEW_CLASSES = 12
"""The most classes whose confusion matrix can be read as a whole."""


@dataclass(frozen=True)
class ClassQuality:
    """How well a class is found: F1, recall and precision, 0 to 1, and its `support`, the examples labelled with it."""

    label: str
    support: int
    predicted: int
    hits: int

    @property
    def f1(self) -> float:
        return 2 * self.hits / max(1, self.support + self.predicted)

    @property
    def recall(self) -> float:
        return self.hits / max(1, self.support)

    @property
    def precision(self) -> float:
        return self.hits / max(1, self.predicted)


@dataclass(frozen=True)
class Confusion:
    """The confusion matrix of a model: `counts` [classes, classes] of the examples of each (label, predicted class).

    Attributes:
        labels: The names of the classes.
        counts: The numbers of examples.

    Example:
        >>> Confusion(("cat", "dog"), np.array([[3, 1], [0, 2]])).pairs(1)
        [('cat', 'dog', 1)]
    """

    labels: tuple[str, ...]
    counts: Int64Array

    @classmethod
    def of(cls, labels: Sequence[str], scores: Array, gold: Array) -> Confusion:
        """Counts examples.

        Args:
            labels: The names of the classes.
            scores: Scores [examples] of the second of two classes, or [examples, classes].
            gold: The class of each example [examples].
        """
        classes = len(labels)
        predicted = (scores > 0.5).astype(np.int64) if scores.ndim == 1 else scores.argmax(axis=1)
        counts = np.bincount(gold * classes + predicted, minlength=classes * classes).reshape(classes, classes)
        return cls(tuple(labels), counts)

    def pairs(self, most: int) -> list[tuple[str, str, int]]:
        """Returns up to `most` (label, predicted class, examples) that are confused, the most often first."""
        wrong = self.counts.copy()
        np.fill_diagonal(wrong, 0)
        worst = np.argsort(-wrong, axis=None, kind="stable")[:most]
        found = ((*np.unravel_index(cell, wrong.shape), int(wrong.flat[cell])) for cell in worst)
        return [(self.labels[label], self.labels[predicted], count) for label, predicted, count in found if count]

    def classes(self) -> list[ClassQuality]:
        """Returns the quality of every class that examples have, the worst F1 first, of equal ones the larger class."""
        supports, predicted, hits = self.counts.sum(1), self.counts.sum(0), np.diagonal(self.counts)
        columns = zip(self.labels, supports.tolist(), predicted.tolist(), hits.tolist(), strict=True)
        return sorted((each for row in columns if (each := ClassQuality(*row)).support), key=_worst_first)

    def to_json(self) -> list[list[int]]:
        """Returns the cells that are not 0, each as [label, predicted class, examples]."""
        return [[int(i), int(j), int(self.counts[i, j])] for i, j in np.argwhere(self.counts)]

    @classmethod
    def from_json(cls, labels: Sequence[str], cells: Sequence[Sequence[int]]) -> Confusion:
        """Returns what `to_json` wrote; raises ValueError where a cell is none of the matrix's."""
        counts = np.zeros((len(labels), len(labels)), np.int64)
        for label, predicted, count in cells:
            if not (0 <= label < len(labels) and 0 <= predicted < len(labels) and count > 0):
                raise ValueError(f"{[label, predicted, count]} is no cell of {len(labels)} classes")
            counts[label, predicted] = count
        return cls(tuple(labels), counts)


def _worst_first(quality: ClassQuality) -> tuple[float, int, str]:
    return quality.f1, -quality.support, quality.label
