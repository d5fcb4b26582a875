"""The metrics of a server, which Prometheus scrapes at `/metrics`."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from prunetime.serve.core import counts
from prunetime.serve.core.models import LoadedModel

LOG = logging.getLogger(__name__)

SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)

TWENTIETHS = tuple(i / 20 for i in range(1, 21))

KIND = "text/plain; version=0.0.4; charset=utf-8"


M = TypeVar("M", Counter, Gauge, Histogram)


class ByLabels(dict[tuple[str, ...], M], Generic[M]):
    """A cache of a metric's children by the values of their labels: `metric.labels` takes 3 us a call."""

    def __init__(self, metric: M) -> None:
        self.metric: M = metric

    def __missing__(self, labels: tuple[str, ...]) -> M:
        found: M = self.metric.labels(*labels)
        self[labels] = found
        return found


class Metrics:
    """The metrics of one process. Where several processes serve together, each writes its own to `file`, and the files
    of its folder are added up. The metrics of a version of a model are removed with that version."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self.registry = CollectorRegistry()
        self.requests = self._counter("requests", "Requests by route and status.", "route", "status")
        self.rows = self._counter("rows", "Rows scored.", "model")
        self.tokens = self._counter("tokens", "Tokens scored.", "model")
        self.seconds = self._histogram("seconds", "Seconds of a request in each stage.", SECONDS, "model", "stage")
        self.queued = Gauge("prunetime_queued_tokens", "Tokens that wait.", registry=self.registry)
        texts = "Texts whose tokens are remembered."
        self.cached = ByLabels(Gauge("prunetime_cached_texts", texts, ("model",), registry=self.registry))
        self.cache = self._counter("cache", "Texts looked up, by what came of it.", "model", "found")
        self.arm_seconds = self._histogram("arm_seconds", "Seconds of a request by arm.", SECONDS, "arm")
        self.arm_scores = self._histogram("arm_score", "Scores by arm.", TWENTIETHS, "arm")
        self._of_models: tuple[ByLabels[Any], ...] = self.rows, self.tokens, self.seconds, self.cached, self.cache
        self._served: Collection[str] = ()
        self._counted: dict[tuple[str, str], int] = {}

    def _counter(self, name: str, what: str, *labels: str) -> ByLabels[Counter]:
        return ByLabels(Counter(f"prunetime_{name}", what, labels, registry=self.registry))

    def _histogram(self, name: str, what: str, buckets: Sequence[float], *labels: str) -> ByLabels[Histogram]:
        return ByLabels(Histogram(f"prunetime_{name}", what, labels, buckets=buckets, registry=self.registry))

    def of_arm(self, arm: str, seconds: float, scores: NDArray[Any]) -> None:
        """Counts a request that an arm of an experiment has answered; `scores` are counted where each is one number."""
        self.arm_seconds[arm,].observe(seconds)
        if scores.ndim == 1 and scores.dtype.kind == "f":
            for score in scores.tolist():
                self.arm_scores[arm,].observe(score)

    def flush(self, loaded: Iterable[LoadedModel], queued: int) -> None:
        """Updates the gauges and the cache counters, removes the metrics of versions that are no longer served, and
        writes the file of this process."""
        models = {one.label: one for one in loaded}
        self.queued.set(queued)
        for label, one in models.items():
            if one.cache is not None:
                self.cached[label,].set(len(one.cache))
                for found, count in (("hit", one.cache.hits), ("miss", one.cache.misses)):
                    before = self._counted.get((label, found), 0)
                    self.cache[label, found].inc(count - before)
                    self._counted[label, found] = count
        for counted in self._of_models:
            for labels in [labels for labels in counted if labels[0] not in models]:
                counted.metric.remove(*labels)
                del counted[labels]
        self._counted = {key: count for key, count in self._counted.items() if key[0] in models}
        self._served = models.keys()
        if self._file:
            try:
                counts.write(self._file, counts.families_of(self.registry.collect()))
            except OSError as error:  # a full disk is no reason to stop
                LOG.error("what was counted is not written to %s: %s", self._file, error)

    def text(self) -> bytes:
        """The metrics of all processes, in Prometheus' text format."""
        if self._file is None:
            return generate_latest(self.registry)
        return generate_latest(counts.Collected(counts.read_sum(self._file.parent, self._served)))
