"""What is kept of a request once it is answered: counters, spans and a line of the log."""

from __future__ import annotations

import logging
import os
import time

from msgspec.json import encode

from prunetime.serve.call import Call
from prunetime.serve.metrics import Metrics
from prunetime.serve.tracing import Span, Tracing

LOG = logging.getLogger(__name__)

PROCESS = os.getpid()


class Records:
    """Counters, spans and the log are the same for every protocol."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics, self._tracing = metrics, Tracing()

    def record(self, call: Call, method: str, route: str, status: int | str, span: Span) -> None:
        """A request has just been answered, with `status`: a number of HTTP, or a name of gRPC."""
        spent = time.monotonic() - call.began
        self._metrics.requests[route, str(status)].inc()
        for work in call.afterwards:
            work()
        self._tracing.record(call, span, spent)
        if LOG.isEnabledFor(logging.INFO):
            said = {"id": call.id, "process": PROCESS, "method": method, "route": route}
            of_model = {} if call.model is None else {"model": call.model}
            LOG.info("%s", encode(said | of_model | {"status": status, "ms": round(1e3 * spent, 3)}).decode())
