"""Requests as spans, with the real SDK."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from grpc_client import INFERENCE, PAIRS, infer_request
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from served import ask

from prunetime.serve.app import App
from prunetime.serve.grpc.listening import held_port
from prunetime.serve.settings import ServeSettings

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield exporter
    provider.shutdown()


def spans(exporter: InMemorySpanExporter) -> tuple[ReadableSpan, dict[str, ReadableSpan]]:
    """Of the one request, and of its stages."""
    *stages, whole = exporter.get_finished_spans()
    return whole, {each.name: each for each in stages}


def test_a_request_is_a_span_of_its_clients_trace_with_one_for_each_stage(
    artifacts: Path, collected: InMemorySpanExporter
) -> None:
    app = App(ServeSettings((("pairs", artifacts / "pairs"),)))
    pair = ["red sofa", "a sofa with red legs"]
    assert asyncio.run(ask(app, {"inputs": pair}, traceparent=PARENT, x_request_id="mine")) == 200
    app.service.stop()
    whole, stages = spans(collected)
    assert whole.name == "POST /predict"
    assert format(whole.context.trace_id, "032x") in PARENT
    assert format(whole.parent.span_id, "016x") in PARENT
    assert whole.kind is trace.SpanKind.SERVER
    assert dict(whole.attributes) == {
        "http.request.method": "POST",
        "http.route": "/predict",
        "http.response.status_code": 200,
        "prunetime.request_id": "mine",
        "prunetime.model": "pairs/1",
    }
    assert list(stages) == ["tokenize", "queue", "compute"]
    at = whole.start_time
    for each in stages.values():
        assert each.parent.span_id == whole.context.span_id
        assert at <= each.start_time <= each.end_time <= whole.end_time
        at = each.end_time


def test_a_call_over_grpc_is_a_span_too(artifacts: Path, collected: InMemorySpanExporter) -> None:
    path, request = f"/{INFERENCE}/ModelInfer", infer_request("pairs", PAIRS).SerializeToString()

    async def call(app: App, port: int) -> None:
        assert app.grpc
        await app.grpc.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await channel.unary_unary(path)(request, metadata=[("traceparent", PARENT), ("x-request-id", "mine")])
        await app.grpc.stop()
        app.service.stop()

    settings = ServeSettings((("pairs", artifacts / "pairs"),), grpc_port=0)
    with held_port(settings) as port:
        asyncio.run(call(App(replace(settings, grpc_port=port)), port))
    whole, stages = spans(collected)
    assert whole.name == f"{INFERENCE}/ModelInfer"
    assert format(whole.context.trace_id, "032x") in PARENT
    assert dict(whole.attributes) == {
        "rpc.system": "grpc",
        "rpc.service": INFERENCE,
        "rpc.method": "ModelInfer",
        "rpc.response.status_code": "OK",
        "prunetime.request_id": "mine",
        "prunetime.model": "pairs/1",
    }
    assert list(stages) == ["tokenize", "queue", "compute"]


def test_what_is_refused_is_a_span_without_stages(artifacts: Path, collected: InMemorySpanExporter) -> None:
    app = App(ServeSettings((("pairs", artifacts / "pairs"),)))
    assert asyncio.run(ask(app, {"inputs": [["red", "sofa"]]}, x_request_timeout_ms="0.0001")) == 503
    app.service.stop()
    whole, stages = spans(collected)
    assert not stages
    assert whole.attributes["http.response.status_code"] == 503
    assert whole.status.status_code is trace.StatusCode.ERROR


def test_nothing_is_recorded_where_nobody_collects(artifacts: Path) -> None:
    app = App(ServeSettings((("pairs", artifacts / "pairs"),)))
    assert asyncio.run(ask(app, {"inputs": "red"})) == 422
    app.service.stop()
