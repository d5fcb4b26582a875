"""The client against a real server, and against one that is not there, or not yet."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from served import Served

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
        assert [each.index for each in found] == [each.index for each in expected]
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
    with Client(f"http://127.0.0.1:{server.port}", timeout=20.0) as client:
        began = time.monotonic()
        for texts, model, status, kind in ((["a"], "pairs", 422, "unusable"), (["a"], "none", 404, "not_found")):
            with pytest.raises(ServerError) as refused:
                client.score(texts, model)
            assert (refused.value.status, refused.value.kind) == (status, kind)
        for wrong in ([], ["a", ("b", "c")]):
            with pytest.raises(InputError, match="texts, or pairs"):
                client.score(wrong, "pairs")
        assert time.monotonic() - began < 5


def test_keys_are_sent(serve: Callable[..., Served], artifacts: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("sesame\n")
    served = serve(artifacts / "pairs", "--key-file", tmp_path / "keys")
    with Client(f"http://127.0.0.1:{served.port}", "sesame") as client:
        assert client.models() == ["pairs/1"]
    with Client(f"http://127.0.0.1:{served.port}") as client, pytest.raises(ServerError) as refused:
        client.models()
    assert refused.value.kind == "unauthorized"


class Busy(BaseHTTPRequestHandler):
    """Refuses twice before it answers; keeps what it was told."""

    seen: list[tuple[float, float]]
    refusals: int

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.seen.append((time.monotonic(), float(self.headers["x-request-timeout-ms"])))
        body = b"[]" if len(self.seen) > self.refusals else b'{"error": "later", "error_type": "overloaded"}'
        self.send_response(200 if len(self.seen) > self.refusals else 429)
        self.send_header("content-length", str(len(body)))
        self.send_header("retry-after", "1")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def busy() -> HTTPServer:
    handler = type("Now", (Busy,), {"seen": [], "refusals": 1})
    server = HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_busy_server_is_asked_again_when_it_says(busy: HTTPServer) -> None:
    seen = busy.RequestHandlerClass.seen
    with Client(f"http://127.0.0.1:{busy.server_port}", timeout=5.0) as client:
        assert client.models() == []
    (first, budget), (second, left) = seen
    assert 1.0 <= second - first < 1.6
    assert budget == pytest.approx(5000, abs=50)
    assert left == pytest.approx(budget - 1e3 * (second - first), abs=50)


def test_there_is_no_try_after_the_deadline(busy: HTTPServer) -> None:
    began = time.monotonic()
    with Client(f"http://127.0.0.1:{busy.server_port}", timeout=0.8) as client, pytest.raises(ServerError) as refused:
        client.models()
    assert refused.value.status == 429
    assert time.monotonic() - began < 0.5  # the server says to come after a second: that would be too late
    assert len(busy.RequestHandlerClass.seen) == 1


def test_a_server_that_is_not_there_is_said_to_be(unused_port: int) -> None:
    began = time.monotonic()
    with Client(f"http://127.0.0.1:{unused_port}", timeout=0.5) as client, pytest.raises(ServerError) as refused:
        client.models()
    assert refused.value.kind == "unreachable"
    assert 0.1 < time.monotonic() - began < 1.0


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
