"""A server that is told to stop answers all that has come by then, and says that it is not ready."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Thread

import pytest
from served import Served
from waiting import PATIENCE, eventually

from prunetime.serve.run import QUIET_SECONDS

Serve = Callable[..., Served]
Connect = Callable[[Served], socket.socket]
BODY = json.dumps({"inputs": ["red sofa", "a sofa with red legs"]}).encode()
HEAD = b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(BODY)
ALIVE = b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\n\r\n"

pytestmark = pytest.mark.parametrize("processes", [1, 2])


def connected(served: Served) -> socket.socket:
    return socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE)


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Connections that are closed at the end of the test."""
    with ExitStack() as stack:
        yield lambda served: stack.enter_context(connected(served))


def answer(client: socket.socket) -> tuple[int, str | None]:
    """Status and `Connection` header; the connection ends after an answer that says so, and not before."""
    found = http.client.HTTPResponse(client)
    found.begin()
    found.read()
    found.close()
    return found.status, found.headers["connection"]


def ended(client: socket.socket) -> bool:
    """Whether the server has closed the connection, in order and with nothing more said."""
    return client.recv(1) == b""


def group(served: Served) -> list[int]:
    children = Path(f"/proc/{served.process.pid}/task/{served.process.pid}/children").read_text()
    return [served.process.pid, *map(int, children.split())]


@contextmanager
def halted(served: Served) -> Iterator[None]:
    """Meanwhile none of the server's processes runs: the kernel alone takes connections, bytes and signals."""
    processes = group(served)
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    eventually(lambda: all("T (stopped)" in Path(f"/proc/{pid}/status").read_text() for pid in processes))
    yield
    for pid in processes:
        os.kill(pid, signal.SIGCONT)


def test_what_has_come_is_answered(serve: Serve, connect: Connect, artifacts: Path, processes: int) -> None:
    """On connections that are kept, are new, or wait to be accepted, and of which a request has begun to come."""
    served = serve(artifacts / "pairs", "--processes", str(processes), "--read-seconds", str(PATIENCE))
    kept, begun = [connect(served) for _ in range(8)], [connect(served) for _ in range(4)]
    for client in kept:
        client.sendall(HEAD + BODY)
        assert answer(client) == (200, None)
    for number, client in enumerate(begun):
        client.sendall([HEAD[:30], HEAD, HEAD + BODY[:9], b"P"][number])
    with halted(served):
        for client in kept[:6]:
            client.sendall(HEAD + BODY)
        new = [connect(served) for _ in range(20)]
        for client in new:
            client.sendall(HEAD + BODY)
        served.signal(signal.SIGTERM)
    for client in (*kept[:6], *new):
        status, _ = answer(client)  # which says `close`, unless it was on its way before the signal was seen
        assert status == 200
        assert ended(client)
    assert all(map(ended, kept[6:]))  # on which nothing came
    for number, client in enumerate(begun):
        whole = HEAD + BODY
        client.sendall(whole[len([HEAD[:30], HEAD, HEAD + BODY[:9], b"P"][number]) :])
        assert answer(client) == (200, "close")
        assert ended(client)
    code, said = served.stop()
    assert code == 0
    assert "Traceback" not in said
    with pytest.raises(ConnectionRefusedError):
        connect(served)


def test_while_it_drains_all_is_answered_but_not_ready(
    serve: Serve, connect: Connect, artifacts: Path, processes: int
) -> None:
    served = serve(artifacts / "pairs", "--processes", str(processes), "--drain-seconds", str(PATIENCE))
    kept = connect(served)
    kept.sendall(ALIVE)
    assert answer(kept) == (200, None)
    assert served.get("/health").status == 200
    served.signal(signal.SIGTERM)
    eventually(lambda: served.get("/health").status == 503)
    eventually(lambda: served.get("/v2/health/ready").status == 503)
    assert served.get("/health").json["error_type"] == "stopping"
    kept.sendall(HEAD + BODY)
    assert answer(kept) == (200, "close")
    assert ended(kept)
    for _ in range(4):
        new = connect(served)
        new.sendall(HEAD + BODY)
        assert answer(new) == (200, "close")
    served.signal(signal.SIGTERM)  # a second time: at once
    served.process.wait(PATIENCE)


class Client(Thread):
    """Asks on, on one connection for as long as it is kept or on a new one each time, until it is refused one."""

    def __init__(self, served: Served, keeps: bool) -> None:
        super().__init__()
        self._served, self._keeps = served, keeps
        self.statuses: list[int] = []
        self.lost = 0

    def run(self) -> None:
        client: socket.socket | None = None
        while True:
            try:
                client = client or connected(self._served)
            except ConnectionRefusedError:
                return
            since = time.monotonic()
            try:
                client.sendall(HEAD + BODY)
                in_time = time.monotonic() - since < QUIET_SECONDS / 2  # or the server may have closed it, unasked
                status, ends = answer(client)
                self.statuses.append(status)
            except (OSError, http.client.HTTPException):
                self.lost += in_time
                ends = "close"
            if ends or not self._keeps:
                client.close()
                client = None


@pytest.mark.parametrize("drain_seconds", ["0", "0.3"])
def test_no_request_is_lost_under_load(serve: Serve, artifacts: Path, processes: int, drain_seconds: str) -> None:
    served = serve(artifacts / "pairs", "--processes", str(processes), "--drain-seconds", drain_seconds)
    clients = [Client(served, keeps) for keeps in (True, False) * 4]
    for client in clients:
        client.start()
    eventually(lambda: all(len(client.statuses) > 5 for client in clients))
    served.signal(signal.SIGTERM)
    for client in clients:
        client.join(PATIENCE)
    assert served.process.wait(PATIENCE) == 0
    assert {status for client in clients for status in client.statuses} == {200}
    assert not sum(client.lost for client in clients)
