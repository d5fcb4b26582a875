"""Records each answered request: in counters, a span, and a line of the access log."""

from __future__ import annotations

import logging
import os
import time

import msgspec

from prunetime.serve.core.metrics import Metrics
from prunetime.serve.core.request import ServiceRequest
from prunetime.serve.core.tracing import RequestSpan, Tracing

LOG = logging.getLogger(__name__)

PROCESS = os.getpid()


class AccessLogEntry(msgspec.Struct, omit_defaults=True):
    """A JSON line of the access log: which process answered which request, its status, and the milliseconds it took."""

    id: str
    process: int
    method: str
    route: str
    status: int | str
    ms: float
    model: str | None = None


class Records:
    """The recorder of answered requests, which is the same for every protocol."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics, self._tracing = metrics, Tracing()

    def record(self, request: ServiceRequest, method: str, route: str, status: int | str, span: RequestSpan) -> None:
        """Records a request that has just been answered; `status` is a number of HTTP or a name of gRPC. Runs its
        background tasks."""
        spent = time.monotonic() - request.began
        self._metrics.requests[route, str(status)].inc()
        for task in request.background_tasks:
            task()
        self._tracing.record(request, span, spent)
        if LOG.isEnabledFor(logging.INFO):
            line = AccessLogEntry(request.id, PROCESS, method, route, status, round(1e3 * spent, 3), request.model)
            LOG.info("%s", msgspec.json.encode(line).decode())
