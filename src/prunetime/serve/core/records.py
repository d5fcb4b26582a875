"""What is kept of a request once it is answered: counters, spans and a line of the log."""

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
    """A line of the log, as JSON: who answered which request, with which status, and the milliseconds that it took."""

    id: str
    process: int
    method: str
    route: str
    status: int | str
    ms: float
    model: str | None = None


class Records:
    """Counters, spans and the log are the same for every protocol."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics, self._tracing = metrics, Tracing()

    def record(self, request: ServiceRequest, method: str, route: str, status: int | str, span: RequestSpan) -> None:
        """A request has just been answered, with `status`: a number of HTTP, or a name of gRPC."""
        spent = time.monotonic() - request.began
        self._metrics.requests[route, str(status)].inc()
        for task in request.background_tasks:
            task()
        self._tracing.record(request, span, spent)
        if LOG.isEnabledFor(logging.INFO):
            line = AccessLogEntry(request.id, PROCESS, method, route, status, round(1e3 * spent, 3), request.model)
            LOG.info("%s", msgspec.json.encode(line).decode())
