"""OpenTelemetry spans of requests, where it is installed and configured (`opentelemetry-instrument`)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NamedTuple

from prunetime._version import __version__
from prunetime.serve.core.request import ServiceRequest

try:
    from opentelemetry import propagate, trace
except ModuleNotFoundError:
    COLLECTED = False
else:
    COLLECTED = True


class RequestSpan(NamedTuple):
    """The name and the attributes of a request's span, by OpenTelemetry's semantic conventions, and whether the server
    `failed`."""

    name: str
    attributes: Mapping[str, str | int]
    failed: bool


class Tracing:
    """A tracer that makes a span of each request, in the trace of its client (`traceparent`), and a child span of each
    stage."""

    def __init__(self) -> None:
        self._tracer = None
        if COLLECTED and not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            self._tracer = trace.get_tracer("prunetime", __version__)

    def record(self, request: ServiceRequest, span: RequestSpan, seconds: float) -> None:
        """Records the span of a request that was answered just now, after `seconds`."""
        if self._tracer is None:
            return
        end = time.time_ns()
        begin = end - _ns(seconds)
        about = {**span.attributes, "prunetime.request_id": request.id}
        if request.model is not None:
            about["prunetime.model"] = request.model
        context = propagate.extract(request.headers)
        made = self._tracer.start_span(span.name, context, trace.SpanKind.SERVER, about, start_time=begin)
        within, at = trace.set_span_in_context(made), begin + _ns(request.scored_from - request.began)
        for stage, spent in request.stages.items():
            self._tracer.start_span(stage, within, start_time=at).end(at + _ns(spent))
            at += _ns(spent)
        if span.failed:
            made.set_status(trace.StatusCode.ERROR)
        made.end(end)


def _ns(seconds: float) -> int:
    return int(1e9 * seconds)
