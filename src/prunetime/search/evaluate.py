"""Scoring candidates: the interface the search sees, and scoring by importance masks without retraining."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from prunetime.arch import ArchSpec
from prunetime.config import EncoderConfig
from prunetime.mask import Scores, rank
from prunetime.models.compact import compact
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


@dataclass(frozen=True)
class MaskScorer:
    """Keeps the most important heads and rows of the unpruned `weights`, as many as the spec says, and runs the engine.

    No retraining: what is scored is the order of architectures, not the quality that tuning will give them.
    """

    config: EncoderConfig
    weights: Mapping[str, NDArray[Any]]
    importance: Scores
    rows: ScoringRows
    metric: Metric
    threads: int = 1

    def __call__(self, specs: Sequence[ArchSpec]) -> Iterator[float]:
        """The metric of the engine's answers, negated where lower is better."""
        rows = self.rows
        for spec in specs:
            kept = compact(self.weights, rank(self.importance, spec), self.config.dims)
            scores = rows.task.scores(Engine(self.config, kept, self.threads).logits(rows.tokens))
            value = self.metric.value(scores, rows.labels, rows.groups)
            yield value if self.metric.higher_is_better else -value
