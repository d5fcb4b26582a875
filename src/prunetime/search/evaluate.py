"""Scoring candidates: the interface the search sees, and how far prefixes of an elastic encoder agree with the teacher.

A score is an agreement and not the metric of the task, because labels are few and noisy: on 300 random sub-networks of
MiniLM-L6 on Home Depot, agreement on 500 rows orders AUC on other rows as well as AUC on 2,000 does, and a search for
AUC on 2,000 rows gains nothing on others (docs/STATUS.md, "Measured").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from prunetime.arch import ArchSpec
from prunetime.runtime.engine import Engine
from prunetime.runtime.ragged import Ragged


class Scorer(Protocol):
    """Quality of architectures, higher is better."""

    def __call__(self, specs: Sequence[ArchSpec]) -> Iterable[float]:
        """The score of each spec, in their order; may yield each as soon as it is known."""
        ...


@dataclass(frozen=True)
class ScoringRows:
    """The rows that choose: `tokens` of [rows] sequences, and `expected` [rows, outputs], the teacher's logits."""

    tokens: Ragged
    expected: NDArray[np.float32]


ScorerFor = Callable[[ScoringRows], Scorer]
"""Scores the sub-networks of one encoder on these rows."""


def agreement(logits: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Correlation, -1 to 1, of two models' logits [rows, outputs]; of two classes, that of their log odds.

    Pearson's, of all logits less the mean of their row (which a softmax does not see; not where there is one output)
    and of their output. 0 where a model says the same of every row, as one without any attention does.
    """
    a, b = _centred(logits), _centred(expected)
    sizes = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.vdot(a, b)) / sizes if sizes else 0.0


def _centred(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    logits = logits.astype(np.float64)
    if logits.shape[1] > 1:
        logits -= logits.mean(axis=1, keepdims=True)
    centred: NDArray[np.float64] = logits - logits.mean(axis=0)
    # What is left of equal rows is rounding.
    return np.where(np.abs(centred).max(initial=0.0) > 1e-6 * np.abs(logits).max(initial=0.0), centred, 0.0)


class ElasticScorer:
    """Runs prefixes of an elastic encoder, packed once, on the rows that choose."""

    def __init__(self, engine: Engine, rows: ScoringRows) -> None:
        """`engine` has the weights of the unpruned encoder, heads and rows in order of importance."""
        self._engine = engine
        self._rows = rows

    def __call__(self, specs: Sequence[ArchSpec]) -> Iterator[float]:
        """The agreement of the engine's logits with those expected."""
        for spec in specs:
            self._engine.select(spec)
            yield agreement(self._engine.logits(self._rows.tokens), self._rows.expected)
