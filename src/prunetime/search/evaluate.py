"""Scoring candidates: the interface the search sees, and scoring by prefixes of an elastic encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from prunetime.arch import ArchSpec
from prunetime.runtime.engine import Engine
from prunetime.runtime.ragged import Ragged
from prunetime.task import Task
from prunetime.tasks.metrics import Metric


class Scorer(Protocol):
    """Quality of architectures, higher is better."""

    def __call__(self, specs: Sequence[ArchSpec]) -> Iterable[float]:
        """The score of each spec, in their order; may yield each as soon as it is known."""
        ...


@dataclass(frozen=True)
class ScoringRows:
    """The rows that choose: `tokens` of [rows] sequences, `labels` [rows] and `groups` [rows] of `task`."""

    tokens: Ragged
    labels: NDArray[Any]
    groups: NDArray[Any]
    task: Task


ScorerFor = Callable[[ScoringRows, Metric], Scorer]
"""Scores the sub-networks of one encoder by a metric of these rows."""


class ElasticScorer:
    """Runs prefixes of an elastic encoder, packed once, on the rows that choose."""

    def __init__(self, engine: Engine, rows: ScoringRows, metric: Metric) -> None:
        """`engine` has the weights of the unpruned encoder, heads and rows in order of importance."""
        self._engine = engine
        self._rows = rows
        self._metric = metric

    def __call__(self, specs: Sequence[ArchSpec]) -> Iterator[float]:
        """The metric of the engine's answers, negated where lower is better."""
        rows = self._rows
        for spec in specs:
            self._engine.select(spec)
            value = self._metric.value(rows.task.scores(self._engine.logits(rows.tokens)), rows.labels, rows.groups)
            yield value if self._metric.higher_is_better else -value
