"""What Prometheus reads at `/metrics`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

from prunetime.serve.models import Hosted

SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)

KIND = "text/plain; version=0.0.4; charset=utf-8"

TOGETHER = "PROMETHEUS_MULTIPROC_DIR"
"""Of processes that count together, as prometheus_client has it."""


class Metrics:
    """Counters of one process or, where the environment names a folder for it, of all that share it."""

    def __init__(self) -> None:
        here = self.registry = CollectorRegistry()
        of_model = ("model",)
        self.requests = Counter(
            "prunetime_requests", "Requests by route and status.", ("route", "status"), registry=here
        )
        self.rows = Counter("prunetime_rows", "Rows scored.", of_model, registry=here)
        self.tokens = Counter("prunetime_tokens", "Tokens scored.", of_model, registry=here)
        self.seconds = Histogram(
            "prunetime_seconds",
            "Seconds of a request in each stage.",
            ("model", "stage"),
            buckets=SECONDS,
            registry=here,
        )
        self.queued = Gauge("prunetime_queued_tokens", "Tokens that wait.", multiprocess_mode="livesum", registry=here)
        self.cached = Gauge(
            "prunetime_cached_texts",
            "Texts whose tokens are remembered.",
            of_model,
            multiprocess_mode="livesum",
            registry=here,
        )
        self.cache = Counter(
            "prunetime_cache", "Texts looked up, by what came of it.", ("model", "found"), registry=here
        )
        self.arm_seconds = Histogram(
            "prunetime_arm_seconds", "Seconds of a request by arm.", ("arm",), buckets=SECONDS, registry=here
        )
        self.arm_scores = Histogram(
            "prunetime_arm_score", "Scores by arm.", ("arm",), buckets=[i / 20 for i in range(1, 21)], registry=here
        )
        self._counted: dict[tuple[str, str], int] = {}

    def of_arm(self, arm: str, seconds: float, scores: NDArray[Any]) -> None:
        """A request that was answered in an arm of an experiment; `scores` are counted where each is one number."""
        self.arm_seconds.labels(arm).observe(seconds)
        if scores.ndim == 1 and scores.dtype.kind == "f":
            for score in scores.tolist():
                self.arm_scores.labels(arm).observe(score)

    def note(self, hosted: Iterable[Hosted], queued: int) -> None:
        """What is not counted as it happens."""
        self.queued.set(queued)
        for one in hosted:
            if one.cache:
                self.cached.labels(one.label).set(len(one.cache))
                for found, count in (("hit", one.cache.hits), ("miss", one.cache.misses)):
                    before = self._counted.get((one.label, found), 0)
                    self.cache.labels(one.label, found).inc(count - before)
                    self._counted[one.label, found] = count

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        registry = self.registry
        if TOGETHER in os.environ:
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
