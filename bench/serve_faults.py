"""What one client can do to the others, by the worst requests that the limits allow; and what a stop loses."""

from __future__ import annotations

import gzip
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from serve_load import Connection, request

STOPS, CLIENTS = 20, 8
"""Of each number of processes, and clients in each: half of them keep their connections."""

SILENT_SECONDS = 0.5
"""A client that takes longer from its connection, or the last answer, to its next request may find it closed."""

PAIR = {"inputs": ["red sofa with three seats", "velvet couch"]}
HEAD = b"POST /predict HTTP/1.1\r\nhost: localhost\r\n"

Start = Callable[..., AbstractContextManager[tuple[int, int]]]
"""Starts a server with options: (port, process id)."""


def worst_requests() -> dict[str, list[bytes]]:
    """By kind, what a client sends on a new connection, piece by piece."""
    long, solid = "red sofa " * 430_000, "a" * 3_900_000
    tensor = {"name": "query", "datatype": "BYTES", "data": ["red"]}
    bodies: dict[str, Any] = {
        "a long text": {"inputs": ["red", long]},
        "a text without a space": {"inputs": ["red", solid]},
        "a pair of two long texts": {"inputs": [long[:1_900_000], long[:1_900_009]]},
        "long texts that may not be cut": {"inputs": [[long[:1_900_000], "red"]] * 2, "truncate": False},
        "many texts": {"inputs": [["red", long[:4_000]]] * 1_000},
        "many texts without a space": {"inputs": [["red", solid[:65_000]]] * 60},
        "texts of nothing": {"inputs": [["red", "\u200b" * 10_000 + "a"]] * 60},
        "many empty rows": {"inputs": [["", ""]] * 30_000},
        "a long name": {"inputs": ["red", "sofa"], "a" * 3_900_000: 1},
    }
    found = {name: [request("/predict", body)] for name, body in bodies.items()}
    shape = {"inputs": [tensor | {"shape": [2**62] * 60_000}] * 2}
    raw = {
        "empty lists": b'{"inputs": [' + b"[]," * 1_300_000 + b"[]]}",
        "strings": b'{"inputs": [' + b'"",' * 1_300_000 + b'""]}',
        "deep lists": b'{"inputs": ' + b"[" * 4_000_000,
        "escapes": b'{"inputs": "' + rb"\u0000" * 690_000 + b'"}',
        "quotes": b'{"inputs": "' + rb"\"" * 2_000_000 + b'"}',
        "a long number": b'{"inputs": ' + b"9" * 4_000_000 + b"}",
    }
    found |= {name: [HEAD + b"content-length: %d\r\n\r\n" % len(body), body] for name, body in raw.items()}
    zipped = gzip.compress(raw["empty lists"])
    found |= {
        "a long shape": [request("/v2/models/model/infer", shape)],
        "tokens": [request("/tokenize", {"inputs": "a " * 32_000})],
        "token ids": [request("/decode", {"ids": [100] * 60_000})],
        "an endless header": [b"GET / HTTP/1.1\r\nx: ", *[b"a" * 16_384] * 64],
        "an endless line": [b"GET /", *[b"a" * 16_384] * 64],
        "many headers": [b"GET / HTTP/1.1\r\n", *[b"x: a\r\n" * 10_000] * 10],
        "many requests at once": [b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\n\r\n" * 20_000],
        "small chunks": [HEAD + b"transfer-encoding: chunked\r\n\r\n", b"1\r\n \r\n" * 200_000],
        "much in little": [HEAD + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(zipped), zipped],
    }
    return found


def hurt(port: int, pid: int, seconds: float) -> dict[str, Any]:
    """While one client sends each of the worst requests over and over, for so many seconds each: how long others wait,
    and how much memory the server takes. The kind of request that does most is named beside each figure."""
    asked = {
        "health_p99_ms": b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "pair_p99_ms": request("/predict", PAIR),
    }
    requests = worst_requests()
    for raw in asked.values():
        send(port, [raw])
    before = resident(pid)
    by_kind: dict[str, dict[str, float]] = {}
    for kind, parts in requests.items():
        attacker = multiprocessing.Process(target=send_for, args=(port, parts, seconds))
        attacker.start()
        spent, most = while_alive(attacker, port, pid, asked)
        by_kind[kind] = {name: 1e3 * float(np.percentile(times, 99)) for name, times in spent.items()}
        by_kind[kind]["rss_growth"] = most - before
    found: dict[str, Any] = {}
    for figure in (*asked, "rss_growth"):
        worst = max(by_kind, key=lambda kind: by_kind[kind][figure])
        found |= {figure: by_kind[worst][figure], f"{figure.removesuffix('_ms')}_of": worst}
    return found | {"worst_requests": by_kind}


def while_alive(
    attacker: multiprocessing.Process, port: int, pid: int, asked: dict[str, bytes]
) -> tuple[dict[str, list[float]], float]:
    """Seconds of requests that are asked in turn, by name, and the most bytes of the server."""
    connection, most = Connection(port), resident(pid)
    spent: dict[str, list[float]] = {name: [] for name in asked}
    while attacker.is_alive():
        for name, raw in asked.items():
            start = time.monotonic()
            connection.ask(raw)
            spent[name].append(time.monotonic() - start)
        most = max(most, resident(pid))
        time.sleep(0.002)
    connection.close()
    return spent, most


def send_for(port: int, parts: list[bytes], seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        send(port, parts)


def send(port: int, parts: list[bytes]) -> None:
    """Sends a request on a connection of its own, and waits for the beginning of an answer."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)) as client:
        for part in parts:
            client.sendall(part)
        client.recv(1 << 16)


class Asker(Thread):
    """Asks on, on one connection for as long as it is kept or on a new one each time, until it is refused one; `lost`
    are requests that were sent and have no answer."""

    def __init__(self, port: int, keeps: bool) -> None:
        super().__init__()
        self._port, self._keeps = port, keeps
        self.answered = self.lost = 0

    def run(self) -> None:
        connection: Connection | None = None
        raw = request("/predict", PAIR)
        while True:
            try:
                connection = connection or Connection(self._port)
            except ConnectionRefusedError:
                return
            since = time.monotonic()
            sent = False
            try:
                connection.send(raw)
                sent = time.monotonic() - since < SILENT_SECONDS
                status, _ = connection.receive()
                self.answered += status == 200
                self.lost += status != 200
            except OSError:
                self.lost += sent
                connection.close()
                connection = None
                continue
            if connection.ended or not self._keeps:
                connection.close()
                connection = None


def lost_at_stop(start: Start) -> dict[str, Any]:
    """How many requests get no answer, of clients that ask while a server is told to stop: of one process and of two,
    `STOPS` times each."""
    lost = answered = 0
    for processes in (1, 2):
        for _ in range(STOPS):
            with start("--processes", str(processes)) as (port, pid):
                askers = [Asker(port, keeps) for keeps in (True, False) * (CLIENTS // 2)]
                for asker in askers:
                    asker.start()
                time.sleep(0.3)
                os.kill(pid, signal.SIGTERM)
                for asker in askers:
                    asker.join()
            lost += sum(asker.lost for asker in askers)
            answered += sum(asker.answered for asker in askers)
    return {"lost_at_stop": lost, "answered_at_stops": answered}


def resident(pid: int) -> float:
    """Bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024.0 * int(next(line for line in lines if line.startswith("VmRSS")).split()[1])
