"""Spans of requests for OpenTelemetry, where it is installed and somebody collects (`opentelemetry-instrument`)."""

from __future__ import annotations

import time

from prunetime import __version__
from prunetime.serve.http import Request

try:
    from opentelemetry import propagate, trace
except ModuleNotFoundError:
    COLLECTED = False
else:
    COLLECTED = True


class Tracing:
    """Each request is a span of the trace that its client has begun (`traceparent`), with one for each stage within."""

    def __init__(self) -> None:
        self._tracer = None
        if COLLECTED and not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            self._tracer = trace.get_tracer("prunetime", __version__)

    def record(self, request: Request, route: str, status: int, seconds: float) -> None:
        """A request that was answered just now, after so many seconds; attributes are those of the semantic conventions
        for HTTP servers."""
        if self._tracer is None:
            return
        end = time.time_ns()
        begin = end - _ns(seconds)
        method = request.scope["method"]
        about: dict[str, str | int] = {
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": status,
            "prunetime.request_id": request.id,
        }
        if request.model is not None:
            about["prunetime.model"] = request.model
        span = self._tracer.start_span(
            f"{method} {route}", propagate.extract(request.headers), trace.SpanKind.SERVER, about, start_time=begin
        )
        within, at = trace.set_span_in_context(span), begin + _ns(request.scored_from - request.began)
        for stage, spent in request.stages.items():
            self._tracer.start_span(stage, within, start_time=at).end(at + _ns(spent))
            at += _ns(spent)
        if status >= 500:
            span.set_status(trace.StatusCode.ERROR)
        span.end(end)


def _ns(seconds: float) -> int:
    return int(1e9 * seconds)
