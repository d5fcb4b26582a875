"""The server of gRPC: its port, what shares it, who leaves, and how it stops."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import uvloop
from grpc_client import INFERENCE, PAIRS, Client, infer_request, values
from held import Held
from served import Served, meanwhile
from waiting import PATIENCE, eventually

from prunetime import load
from prunetime.errors import InputError
from prunetime.inference.ragged import Ragged
from prunetime.serve.app import App
from prunetime.serve.core.scheduler import Work
from prunetime.serve.core.speed import Speed
from prunetime.serve.grpc import listening
from prunetime.serve.grpc import open_inference_pb2 as messages
from prunetime.serve.grpc.server import GrpcCall
from prunetime.serve.settings import ServeSettings

Serve = Callable[..., Served]


def test_processes_share_the_port_and_what_is_done_is_done_in_all(serve: Serve, artifacts: Path) -> None:
    served = serve(artifacts / "pairs", "--grpc-port", "0", "--processes", "2", "--model-root", artifacts)
    request = infer_request("pairs", PAIRS)

    def versions() -> set[str]:
        found = set()
        for _ in range(30):
            with Client(served) as client:
                found.add(client.ask("ModelInfer", request).model_version)
        return found

    assert versions() == {"1"}
    assert len({json.loads(line)["process"] for line in served.said.splitlines() if line.startswith("{")}) == 2
    load = messages.RepositoryModelLoadRequest(model_name="pairs")
    load.parameters["artifact"].string_param = "other"
    with Client(served) as client:
        client.ask("RepositoryModelLoad", load)
    assert versions() == {"2"}
    assert served.stop()[0] == 0


def test_a_stop_answers_what_was_taken_on(serve: Serve, artifacts: Path) -> None:
    served = serve(artifacts / "pairs", "--grpc-port", "0", "--batch-tokens", "64", "--queue-tokens", "300000")
    request = infer_request("pairs", {"query": ["red sofa"] * 300, "title": ["lamp " * 20] * 300})
    codes: list[str] = []

    def ask() -> None:
        with Client(served) as client:
            while not codes or codes[-1] == "OK":
                try:
                    client.ask("ModelInfer", request)
                    codes.append("OK")
                except grpc.RpcError as error:
                    codes.append(error.code().name)

    with meanwhile(4, ask):
        eventually(lambda: "OK" in codes and served.queued_tokens() > 0)
        code, said = served.stop()
    assert code == 0
    assert set(codes) <= {"OK", "UNAVAILABLE"}  # the second, of calls that came later
    assert "Traceback" not in said
    assert "leaked" not in said


def on_held_engine(artifacts: Path, work: Callable[[App, Any, Held], Any], **settings: Any) -> None:
    """Runs `work` with an application whose engine is held, and a way to ask it over gRPC."""
    models = (("pairs", artifacts / "pairs"),)

    async def run(given: ServeSettings) -> None:
        app, held = App(given), Held()
        assert app.grpc
        await app.grpc.start()
        deadline = time.monotonic() + PATIENCE
        app.service.scheduler.submit(Work(held, Speed(0.0, 0.0), Ragged.of([[1]]), deadline, lambda *_: None))
        assert held.busy.wait(PATIENCE)
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{given.grpc_port}") as channel:
                await work(app, channel.stream_unary(f"/{INFERENCE}/ModelInfer"), held)
        finally:
            held.go.set()
            await app.grpc.stop()
            app.service.stop()

    whole = ServeSettings(models, grpc_port=0, timeout=PATIENCE, **settings)
    with listening.held_port(whole) as port:
        uvloop.run(run(replace(whole, grpc_port=port)))


async def come(true: Callable[[], bool]) -> None:
    """`eventually`, while the event loop goes on."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def counted(app: App, status: str) -> bool:
    return f'route="/{INFERENCE}/ModelInfer",status="{status}"' in app.metrics.text().decode()


MESSAGE = infer_request("pairs", PAIRS).SerializeToString()


async def one_message() -> Any:
    yield MESSAGE


def test_who_leaves_or_runs_out_of_time_is_not_computed_for(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(app: App, infer: Any, _held: Held) -> None:
        scheduler, forgotten = app.service.scheduler, []
        forget = scheduler.forget
        monkeypatch.setattr(scheduler, "forget", lambda work: (forgotten.append(work), forget(work)))
        before, seconds = scheduler.queued, 0.1
        leaving = infer(one_message())
        await come(lambda: scheduler.queued > before)
        leaving.cancel()
        await come(lambda: counted(app, "CANCELLED") and len(forgotten) == 1)
        while len(forgotten) == 1:  # the time may be over before the work is taken on
            assert await infer(one_message(), timeout=seconds).code() == grpc.StatusCode.DEADLINE_EXCEEDED
            await asyncio.sleep(0.01)
            seconds *= 2.0
        await come(lambda: counted(app, "DEADLINE_EXCEEDED"))

    on_held_engine(artifacts, work)


def test_what_waits_is_answered_before_it_stops_and_nothing_after(artifacts: Path) -> None:
    async def work(app: App, infer: Any, held: Held) -> None:
        assert app.grpc
        before = app.service.scheduler.queued
        waiting = infer(one_message())
        await come(lambda: app.service.scheduler.queued > before)
        stopping = asyncio.create_task(app.grpc.stop())
        while await infer(one_message(), timeout=0.2).code() != grpc.StatusCode.UNAVAILABLE:
            pass
        held.go.set()
        found = values(messages.ModelInferResponse.FromString(await waiting))["score"][1]
        rows = list(zip(*PAIRS.values(), strict=True))
        np.testing.assert_array_equal(found, load(artifacts / "pairs").score(rows))
        await stopping

    on_held_engine(artifacts, work)


def test_a_message_that_does_not_come_is_not_waited_for(artifacts: Path) -> None:
    async def never() -> Any:
        await asyncio.sleep(PATIENCE)
        yield b""

    async def work(_app: App, infer: Any, _held: Held) -> None:
        silent = infer(never())
        assert await silent.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert "has not come within 0.2 seconds" in await silent.details()

    on_held_engine(artifacts, work, read_seconds=0.2)


def test_what_overfills_the_queue_is_told_when_to_come_again(artifacts: Path) -> None:
    async def work(_app: App, infer: Any, _held: Held) -> None:
        refused = [infer(one_message()) for _ in range(40)]
        done, _pending = await asyncio.wait(
            [asyncio.create_task(call.code()) for call in refused], return_when=asyncio.FIRST_COMPLETED
        )
        assert {task.result() for task in done} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        (call, *_rest) = [call for call in refused if call.done()]
        metadata = dict(await call.trailing_metadata())
        assert metadata["error-type"] == "overloaded"
        assert int(metadata["grpc-retry-pushback-ms"]) > 0
        assert int(metadata["retry-after"]) >= 1
        for each in refused:
            each.cancel()

    on_held_engine(artifacts, work, queue_tokens=60)


def test_a_port_that_is_taken_is_refused(serve: Serve, artifacts: Path) -> None:
    port = serve(artifacts / "pairs", "--grpc-port", "0").grpc_port
    code, said = serve(artifacts / "pairs", "--grpc-port", port).stop()
    assert code == 2
    assert f"cannot listen on 127.0.0.1:{port} for gRPC" in said


def test_without_grpc_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "find_spec", lambda _: None)
    with (
        pytest.raises(InputError, match=re.escape("pip install 'prunetime[grpc]'")),
        listening.held_port(ServeSettings((), grpc_port=0)),
    ):
        pass


def test_without_keys_grpc_is_for_this_machine_only(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="for this machine only"):
        ServeSettings((), host="0.0.0.0", uds=tmp_path / "socket", grpc_port=0)


def test_messages_count_as_held_until_their_calls_end(artifacts: Path) -> None:
    async def work(app: App, infer: Any, _held: Held) -> None:
        before = app.service.scheduler.queued
        waiting = infer(one_message())
        await come(lambda: app.service.scheduler.queued > before)
        refused = infer(one_message())
        assert await refused.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "are being read and answered" in await refused.details()
        waiting.cancel()
        await come(lambda: counted(app, "CANCELLED"))
        queued = app.service.scheduler.queued
        again = infer(one_message())
        await come(lambda: app.service.scheduler.queued > queued)
        again.cancel()

    on_held_engine(artifacts, work, max_held_bytes=len(MESSAGE) + 1)


class Context:
    """What gRPC says of a call that has a quarter of a second left."""

    def __init__(self, **metadata: str) -> None:
        self._metadata = tuple((name.replace("_", "-"), value) for name, value in metadata.items())

    def time_remaining(self) -> float:
        return 0.25

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._metadata


def test_the_deadline_of_a_call_limits_its_answer() -> None:
    assert GrpcCall(Context()).seconds(10.0) == 0.25
    assert GrpcCall(Context()).seconds(0.2) == 0.2
    assert GrpcCall(Context(x_request_timeout_ms="100")).seconds(10.0) == 0.1
