"""The client against a real server, and against one that is not there, or not yet."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from counted_time import CountedTime
from served import Served
from waiting import PATIENCE

import prunetime.client.conversation
from prunetime import AsyncClient, Client, load
from prunetime.client import ServerError
from prunetime.errors import InputError

PAIRS = [("red sofa", "a sofa with red legs"), ("red sofa", "lamp")]
DOCUMENTS = ["lamp", "a sofa with red legs", "sofa"]


def test_it_says_what_the_loaded_model_says(server: Served, artifacts: Path) -> None:
    model, topics, answers = (load(artifacts / name) for name in ("pairs", "topics", "answers"))
    with Client(f"http://127.0.0.1:{server.port}/") as client:
        np.testing.assert_array_equal(np.float32(client.score(PAIRS, "pairs")), model.score(PAIRS))
        np.testing.assert_array_equal(np.float32(client.score(PAIRS, "pairs", "1")), model.score(PAIRS))
        np.testing.assert_array_equal(np.float32(client.score(["sofa"], "topics")), topics.score(["sofa"]))
        question = [("which legs", "a sofa with red legs")]
        assert client.score(question, "answers")[0][:2] == answers.score(question)[0][:2]
        found, expected = client.rank("red sofa", DOCUMENTS, 2), model.rank("red sofa", DOCUMENTS, 2)
        assert [each["corpus_id"] for each in found] == [each["corpus_id"] for each in expected]
        assert client.models() == ["pairs/1", "topics/1", "answers/1"]


def test_both_clients_say_the_same(server: Served) -> None:
    url = f"http://127.0.0.1:{server.port}"

    async def asked() -> tuple[object, ...]:
        async with AsyncClient(url) as client:
            scores = await asyncio.gather(*(client.score(PAIRS, "pairs") for _ in range(5)))
            assert all(each == scores[0] for each in scores)
            return scores[0], await client.rank("red sofa", DOCUMENTS), await client.models()

    with Client(url) as client:
        assert asyncio.run(asked()) == (
            client.score(PAIRS, "pairs"),
            client.rank("red sofa", DOCUMENTS),
            client.models(),
        )


def test_what_will_not_get_better_is_not_tried_again(server: Served) -> None:
    sent: list[object] = []
    with Client(f"http://127.0.0.1:{server.port}", timeout=PATIENCE) as client:
        client._http.event_hooks["request"].append(sent.append)
        for text, model, status, kind in ((" ", "pairs", 422, "unusable"), ("a", "none", 404, "not_found")):
            with pytest.raises(ServerError) as refused:
                client.score([("a", text)], model)
            assert (refused.value.status, refused.value.kind) == (status, kind)
        for wrong in ([], ["a", ("b", "c")]):
            with pytest.raises(InputError, match="texts, or pairs"):
                client.score(wrong, "pairs")
        with pytest.raises(InputError, match="rows of 1 texts; pairs scores 2: query, title"):
            client.score(["a"], "pairs")
    paths = ["/v2/models/pairs", "/v2/models/pairs/infer", "/v2/models/none", "/v2/models/pairs"]
    assert [each.url.path for each in sent] == paths


def test_keys_are_sent(serve: Callable[..., Served], artifacts: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("sesame\n")
    served = serve(artifacts / "pairs", "--key-file", tmp_path / "keys")
    with Client(f"http://127.0.0.1:{served.port}", "sesame") as client:
        assert client.models() == ["pairs/1"]
    with Client(f"http://127.0.0.1:{served.port}") as client, pytest.raises(ServerError) as refused:
        client.models()
    assert refused.value.kind == "unauthorized"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> CountedTime:
    """What the client takes for time: it passes only while the client waits for another try."""
    counted = CountedTime()
    for module in (prunetime.client, prunetime.client.conversation):
        monkeypatch.setattr(module, "time", counted)
    return counted


class Busy(BaseHTTPRequestHandler):
    """Refuses once before it answers, and says to come after `retry_after` seconds; keeps how long it was given."""

    seen: list[float]
    retry_after = 100

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.seen.append(float(self.headers["x-request-timeout-ms"]) / 1e3)
        body = b"[]" if len(self.seen) > 1 else b'{"error": "later", "error_type": "overloaded"}'
        self.send_response(200 if len(self.seen) > 1 else 429)
        self.send_header("content-length", str(len(body)))
        self.send_header("retry-after", str(self.retry_after))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def busy() -> HTTPServer:
    handler = type("Now", (Busy,), {"seen": []})
    server = HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_busy_server_is_asked_again_when_it_says(busy: HTTPServer, clock: CountedTime) -> None:
    with Client(f"http://127.0.0.1:{busy.server_port}", timeout=500.0) as client:
        assert client.models() == []
    first, left = busy.RequestHandlerClass.seen
    assert first == pytest.approx(500.0, abs=0.01)
    assert left == pytest.approx(500.0 - clock.monotonic(), abs=0.01)
    assert Busy.retry_after <= clock.monotonic() <= 1.25 * Busy.retry_after + 0.01


def test_there_is_no_try_after_the_deadline(busy: HTTPServer, clock: CountedTime) -> None:
    url, timeout = f"http://127.0.0.1:{busy.server_port}", 0.8 * Busy.retry_after
    with Client(url, timeout=timeout) as client, pytest.raises(ServerError) as refused:
        client.models()
    assert refused.value.status == 429
    assert clock.monotonic() < 0.01
    assert len(busy.RequestHandlerClass.seen) == 1


def test_a_server_that_is_not_there_is_said_to_be(unused_port: int, clock: CountedTime) -> None:
    with Client(f"http://127.0.0.1:{unused_port}", timeout=20.0) as client, pytest.raises(ServerError) as refused:
        client.models()
    assert refused.value.kind == "unreachable"
    assert 10.0 < clock.monotonic() < 20.0  # the last try would have been later


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_names_of_before_are_still_taken(server: Served) -> None:
    async def closed() -> None:
        with pytest.warns(DeprecationWarning, match="close will go in the next release: use aclose"):
            await AsyncClient("http://localhost").close()

    asyncio.run(closed())
    with pytest.warns(DeprecationWarning, match="url will go in the next release: use base_url"):
        client = Client(url=f"http://127.0.0.1:{server.port}")
    with client:
        assert "pairs/1" in client.models()


def test_documents_come_back_where_they_are_asked_for(server: Served, artifacts: Path) -> None:
    with Client(f"http://127.0.0.1:{server.port}") as client:
        found = client.rank("red sofa", DOCUMENTS, return_documents=True)
    expected = load(artifacts / "pairs").rank("red sofa", DOCUMENTS, return_documents=True)
    assert [each | {"score": None} for each in found] == [each | {"score": None} for each in expected]
