"""How fast a client may send, and on how many connections: every limit is said, and nobody else waits."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from served import Served
from waiting import PATIENCE, eventually

from prunetime.serve.app import App
from prunetime.serve.http import connection
from prunetime.serve.listening import Acceptor
from prunetime.serve.run import Server
from prunetime.serve.settings import ServeSettings

Serve = Callable[..., Served]
PAIR = ["red sofa", "a sofa with red legs"]
POST = b"POST /predict HTTP/1.1\r\nhost: localhost\r\n"


def said(port: int, *parts: bytes) -> bytes:
    """All that the server says to what is sent, until it closes the connection or has answered."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
        for part in parts:
            client.sendall(part)
        found = b""
        while not (length := re.search(rb"content-length: (\d+)\r\n(?:.*\r\n)*?\r\n", found)) or len(
            found
        ) < length.end() + int(length.group(1)):
            more = client.recv(1 << 16)
            if not more:
                break
            found += more
    return found


def refusal(found: bytes) -> tuple[int, str]:
    head, _, body = found.partition(b"\r\n\r\n")
    failure = json.loads(body)
    assert set(failure) == {"error", "error_type", "request_id"}
    assert failure["error"]
    return int(head[9:12]), failure["error_type"]


def chunked(count: int) -> bytes:
    """A body of spaces, a byte in each chunk, and then a pair."""
    pair = json.dumps({"inputs": PAIR}).encode()
    head = POST + b"transfer-encoding: chunked\r\n\r\n"
    return head + b"1\r\n \r\n" * count + b"%x\r\n%b\r\n0\r\n\r\n" % (len(pair), pair)


@pytest.mark.parametrize("key", [False, True])
@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([b"GET /" + b"a" * connection.URL_BYTES + b" HTTP/1.1\r\n\r\n"], (414, "uri_too_long")),
        ([b"GET /", *[b"a" * 5_000] * 2], (414, "uri_too_long")),
        ([b"GET / HTTP/1.1\r\nx: " + b"a" * connection.HEADERS_BYTES + b"\r\n\r\n"], (431, "headers_too_large")),
        ([b"GET / HTTP/1.1\r\nx: ", *[b"a" * 5_000] * 7], (431, "headers_too_large")),
        ([b"GET / HTTP/1.1\r\n", *[b"x: a\r\n" * 60] * 2], (431, "headers_too_large")),
        ([POST + b"transfer-encoding: chunked\r\n\r\n0\r\n" + b"x: a\r\n" * 101], (431, "headers_too_large")),
        ([b"\r\n" * connection.HEADERS_BYTES], (431, "headers_too_large")),
        ([chunked(connection.CHUNKS)], (413, "too_large")),
        ([POST + b"content-length: 5000000\r\n\r\n"], (413, "too_large")),
        ([b"no http\r\n\r\n"], (400, "bad_request")),
    ],
)
def test_what_goes_beyond_a_limit_is_refused(
    server: Served, locked: Served, parts: list[bytes], expected: tuple[int, str], key: bool
) -> None:
    served = locked if key else server
    if key and expected == (413, "too_large"):
        expected = (401, "unauthorized")  # and the body is not looked at
        parts = [re.sub(rb"transfer.*", b"content-length: 5000000\r\n\r\n", parts[0], flags=re.DOTALL)]
    assert refusal(said(served.port, *parts)) == expected
    assert served.get("/health").status == 200


def test_what_is_within_the_limits_is_answered(server: Served) -> None:
    body = json.dumps({"inputs": PAIR}).encode()
    headers = b"x: " + b"a" * 200 + b"\r\n"
    head = POST + headers * (connection.HEADERS - 2) + b"content-length: %d\r\n\r\n" % len(body)
    for parts in ([head + body], [head[:9_000], head[9_000:], body], [chunked(connection.CHUNKS - 2)]):
        assert said(server.port, *parts)[:12] == b"HTTP/1.1 200"


def test_requests_that_come_together_are_counted_apart(server: Served) -> None:
    """On a kept connection, in one piece of more bytes than a head may have."""
    body = json.dumps({"inputs": PAIR}).encode()
    one = POST + b"x: %b\r\ncontent-length: %d\r\n\r\n" % (b"a" * 9_000, len(body)) + body
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as client:
        client.sendall(one * 6)
        found = b""
        while found.count(b"HTTP/1.1 200") < 6:
            found += (more := client.recv(1 << 16))
            assert more


def test_more_requests_at_once_than_wait_end_their_connection(server: Served) -> None:
    """Those that wait are answered, the others are not read."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as client:
        client.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\n\r\n" * 1_000)
        found = b""
        while more := client.recv(1 << 16):
            found += more
    assert connection.PIPELINED <= found.count(b"HTTP/1.1 200") < 1_000
    assert found.count(b"HTTP/1.1") == found.count(b"HTTP/1.1 200")
    assert found.count(b"connection: close") == 1


def test_more_connections_than_the_limit_are_refused(artifacts: Path) -> None:
    app = App(ServeSettings((("pairs", artifacts / "pairs"),), max_connections=3))
    ask_ = b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\n\r\n"
    with running(app) as (port, server), ExitStack() as stack:
        kept = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)) for _ in range(3)]
        for client in kept:
            client.sendall(ask_)
            assert client.recv(1 << 16).startswith(b"HTTP/1.1 200")
        found = said(port, ask_)
        assert refusal(found) == (429, "overloaded")
        assert b"retry-after: 1\r\n" in found
        kept[0].close()
        eventually(lambda: len(server.connections.connections) == 2)
        assert said(port, ask_).startswith(b"HTTP/1.1 200")


@pytest.fixture(scope="module")
def locked(serve: Serve, artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Served:
    """One that answers nothing without a key but whether it lives."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text("sesame\n")
    keys.chmod(0o600)
    return serve(artifacts / "pairs", "--key-file", keys)


@pytest.fixture(scope="module")
def hasty(serve: Serve, artifacts: Path) -> Served:
    """One to whom a request must come within no time."""
    return serve(artifacts / "pairs", "--read-seconds", "0.3")


@pytest.mark.parametrize(
    "sent",
    [
        b"POST /predict HT",
        POST,
        POST + b"content-length: 100\r\n\r\n{",
        POST + b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n",
        POST + b"content-length: 100\r\nexpect: 100-continue\r\n\r\n",
    ],
)
def test_a_slow_request_is_refused(hasty: Served, sent: bytes) -> None:
    found = said(hasty.port, sent).removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert refusal(found) == (408, "request_timeout")
    assert b"connection: close" in found


def test_a_connection_on_which_nothing_comes_is_closed(hasty: Served) -> None:
    assert said(hasty.port) == b""


@contextmanager
def running(app: App) -> Iterator[tuple[int, Server]]:
    """A server in a thread of this process, and its port."""
    listener, ready = socket.create_server(("127.0.0.1", 0)), threading.Event()
    server = Server(app, Acceptor(listener), ready.set)
    thread = threading.Thread(target=server.run)
    thread.start()
    assert ready.wait(PATIENCE)
    try:
        yield listener.getsockname()[1], server
    finally:
        server.should_exit = True
        thread.join(PATIENCE)


def test_who_does_not_take_an_answer_is_cut_off(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answers are larger than what the kernel takes on."""
    monkeypatch.setattr(connection, "SLOWEST_BYTES", 1 << 30)
    body = json.dumps({"query": "red", "texts": ["red sofa " * 330_000], "return_text": True}).encode()
    request = b"POST /rerank HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    settings_ = ServeSettings((("pairs", artifacts / "pairs"),), read_seconds=0.5)
    with running(App(settings_)) as (port, server), socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.connect(("127.0.0.1", port))
        client.settimeout(PATIENCE)
        client.sendall(request + request)
        assert client.recv(12) == b"HTTP/1.1 200"
        eventually(lambda: not server.connections.connections)
