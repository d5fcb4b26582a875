"""What a client may send, and how fast: every limit is said, and nobody else waits for who goes beyond one."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from served import Served, ask, make_artifact
from waiting import PATIENCE, eventually

from prunetime.runtime.inputs import Inputs
from prunetime.runtime.twins import Singles
from prunetime.serve import bodies, connection
from prunetime.serve.app import App
from prunetime.serve.bodies import Bodies, has_more_values
from prunetime.serve.errors import RefusedError
from prunetime.serve.listening import Acceptor
from prunetime.serve.models import Hosted
from prunetime.serve.protocols import openai
from prunetime.serve.protocols.tei import routes as tei
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
    app = App(ServeSettings((("pairs", artifacts / "pairs"),), connections=3))
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


# Bodies

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.sampled_from('ab,"\\:[]{}')),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(st.sampled_from('a,"\\')), inner, max_size=5),
    max_leaves=30,
)


def counted(value: Any) -> int:
    """Strings, and commas between what is in lists and objects."""
    if isinstance(value, list):
        return sum(map(counted, value)) + max(0, len(value) - 1)
    if isinstance(value, dict):
        return sum(map(counted, value.values())) + len(value) + max(0, len(value) - 1)
    return int(isinstance(value, str))


@given(JSON, st.booleans())
@settings(max_examples=300, deadline=None)
def test_values_are_counted_without_decoding(value: Any, spaced: bool) -> None:
    body = json.dumps(value, indent=1 if spaced else None).encode()
    expected = counted(value)
    assert not has_more_values(body, expected)
    assert expected == 0 or has_more_values(body, expected - 1)


MANY = ["[" + "[]," * 200_000 + "[]]", "[" + '"",' * 100_000 + '""]', "[" + '"a"' * 100_000, '{"a":' + "1," * 100_000]
DEEP = ["[" * 500_000, '{"a":' * 50_000, "[" * 500_000 + "]" * 500_000]


@pytest.mark.parametrize("form", ["%s", '{"inputs": %s}', '{"inputs": [], "x": %s}'])
def test_bodies_of_many_values_or_deep_ones_are_refused(server: Served, form: str) -> None:
    for content in MANY:
        assert server.post("/predict", (form % content).encode()).status == 413
    for content in DEEP:
        assert server.post("/predict", (form % content).encode()).status in (400, 422)


@pytest.mark.parametrize("name", ["a" * 1_000_000, "\u0000" * 100_000, "\u4e00" * 100_000])
def test_what_is_refused_is_not_quoted_whole(server: Served, name: str) -> None:
    tensor = {"name": name, "shape": [1], "datatype": "BYTES", "data": ["red"]}
    for path, content in (
        ("/v1/embeddings", {"input": "red", name: 1}),
        ("/v1/embeddings", {"input": "red", "model": name}),
        ("/rerank", {"query": "red", "texts": ["a"], "truncation_direction": name}),
        ("/v2/models/pairs/infer", {"inputs": [tensor, tensor | {"shape": [2]}]}),
        ("/v2/models/pairs/infer", {"inputs": [tensor | {"datatype": name}] * 2}),
        ("/v2/models/pairs/infer", {"inputs": [tensor | {"parameters": {name: 1}}] * 2}),
    ):
        answer = server.post(path, content)
        assert answer.status in (400, 404, 422), (path, answer.status)
        assert len(answer.body) < 2_000, path


class Reading:
    """Bodies as they come, of a request whose parts a test gives."""

    def __init__(self, **limits: Any) -> None:
        self.bodies = Bodies(ServeSettings((), **limits))
        self.scope: dict[str, Any] = {}

    async def read(self, *parts: bytes | Exception) -> bytes:
        given = list(parts)

        async def receive() -> dict[str, Any]:
            part = given.pop(0)
            if isinstance(part, Exception):
                raise part
            return {"type": "http.request", "body": part, "more_body": bool(given)}

        return await self.bodies.read(self.scope, receive)


def test_all_bodies_together_have_a_limit() -> None:
    reading = Reading(body_bytes=1_000, held_bytes=1_500)

    async def run() -> None:
        first = await reading.read(b"a" * 500, b"b" * 400)
        assert first == b"a" * 500 + b"b" * 400
        for _ in range(3):  # what is refused, or fails, is not held
            with pytest.raises(RefusedError, match="more than 1500 bytes") as refused:
                await reading.read(b"a" * 500, b"b" * 101)
            assert (refused.value.status, refused.value.retry_after) == (429, 1.0)
            with pytest.raises(ValueError, match="lost"):
                await reading.read(b"a" * 500, ValueError("lost"))
        assert len(await reading.read(b"a" * 600)) == 600
        reading.bodies.release(900)
        assert len(await reading.read(b"a" * 900)) == 900

    asyncio.run(run())


def test_answered_bodies_are_not_held(artifacts: Path) -> None:
    app = App(ServeSettings((("pairs", artifacts / "pairs"),), body_bytes=400, held_bytes=400))

    async def run() -> None:
        for content, status in (
            ({"inputs": PAIR}, 200),
            ({"inputs": ["a"]}, 422),
            ({"inputs": [PAIR] * 8}, 200),
            ({"inputs": [PAIR] * 40}, 413),
        ):
            for _ in range(10):
                assert await ask(app, content) == status

    asyncio.run(run())


def test_large_bodies_are_decoded_beside_the_event_loop(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = App(ServeSettings((("pairs", artifacts / "pairs"),)))
    where: list[tuple[int, bool]] = []
    decoded = bodies.decoded

    def noted(body: bytes, kind: type[Any]) -> Any:
        where.append((len(body), threading.current_thread() is threading.main_thread()))
        return decoded(body, kind)

    monkeypatch.setattr(bodies, "decoded", noted)

    async def run() -> None:
        assert await ask(app, {"inputs": PAIR}) == 200
        assert await ask(app, {"inputs": [["red", "lamp " * 4_000]]}) == 200

    asyncio.run(run())
    assert [on_loop for _, on_loop in where] == [True, False]


# Texts

LONG = {
    "words": "red sofa " * 400_000,
    "no space": "a" * 3_900_000,
    "spaces": " " * 3_900_000 + "a",
    "nothing": "\u200b" * 600_000 + "a",
    "ideographs": "\u4e00" * 500_000,
    "long words": ("a" * 900 + " ") * 4_000,
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_long_texts_are_cut_or_refused(server: Served, text: str) -> None:
    """What is answered has the score of what is kept of the text."""
    expected = {
        cut: server.post("/predict", {"inputs": ["red sofa", cut]}).json
        for cut in ("red sofa " * 100, "\u4e00" * 1_000)
    }
    for content in (
        {"inputs": ["red sofa", text]},
        {"inputs": [text, "red sofa"]},
        {"inputs": [text[: len(text) // 2]] * 2},
        {"inputs": ["red sofa", text], "truncate": False},
        {"inputs": [["red sofa", text[:4_000]]] * 150},
    ):
        answer = server.post("/predict", content)
        if answer.status == 200:
            assert content.get("truncate") is not False
            if content["inputs"][0] == "red sofa":
                assert answer.json in expected.values()
        else:
            assert answer.status == 422
            assert re.search("cannot be cut|more tokens than|cannot be counted|is empty", answer.json["error"])
            assert len(answer.body) < 1_000
    cut = server.post("/v2/rerank", {"query": "red", "documents": [text], "max_tokens_per_doc": 5})
    if cut.status == 200:  # its first five tokens, between [CLS], red, [SEP] and [SEP]
        assert cut.json["meta"]["tokens"]["input_tokens"] == 9
    else:
        assert (cut.status, "cannot be cut" in cut.json["message"] or "is empty" in cut.json["message"]) == (422, True)
    whole = {
        "inputs": [{"name": n, "shape": [1], "datatype": "BYTES", "data": [text]} for n in ("question", "context")]
    }
    assert server.post("/v2/models/answers/infer", whole).status == 413


def test_others_are_answered_while_texts_are_tokenised(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = App(ServeSettings((("pairs", artifacts / "pairs"),)))
    go_on, waiting = threading.Event(), threading.Event()
    read = Hosted.read

    def held_up(self: Hosted, rows: Sequence[Any], **options: Any) -> Any:
        if len(rows) > 2:
            waiting.set()
            assert go_on.wait(PATIENCE)
        return read(self, rows, **options)

    monkeypatch.setattr(Hosted, "read", held_up)

    async def run() -> None:
        large = asyncio.create_task(ask(app, {"inputs": [PAIR] * 900}))
        while not waiting.is_set():
            await asyncio.sleep(0.01)
        for _ in range(20):
            assert await ask(app, {"inputs": PAIR}) == 200
        assert not large.done()
        go_on.set()
        assert await large == 200

    asyncio.run(run())


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/predict", {"inputs": [PAIR] * 40}),
        ("/rerank", {"query": "red", "texts": PAIR * 20}),
        ("/embed", {"inputs": PAIR * 20}),
        ("/v1/embeddings", {"input": PAIR * 20}),
    ],
)
def test_answers_of_many_rows_are_made_beside_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, content: Any
) -> None:
    name = "twins" if "embed" in path else "pairs"
    app = App(ServeSettings((("model", make_artifact(tmp_path / name, name)),)))
    on_loop: list[bool] = []

    def note(of: Any, function: str) -> None:
        called = getattr(of, function)

        def noted(*arguments: Any) -> Any:
            on_loop.append(threading.current_thread() is threading.main_thread())
            return called(*arguments)

        monkeypatch.setattr(of, function, noted)

    note(Inputs, "scores")
    note(Singles, "scores")
    for module, function in ((tei, "encoded_list"), (openai, "encoded_list"), (tei, "_predictions")):
        note(module, function)
    assert asyncio.run(ask(app, content, path)) == 200
    assert on_loop
    assert not any(on_loop)
