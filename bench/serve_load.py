"""Clients that cost next to nothing: kept connections, requests that are made before, answers that are hardly read."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


def request(path: str, content: Any, *headers: str) -> bytes:
    body = json.dumps(content).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        "host: localhost",
        "content-type: application/json",
        f"content-length: {len(body)}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Connection:
    """One kept connection, for one request at a time."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.ended = False
        """Whether the last answer has said that it is the last."""

    def ask(self, raw: bytes) -> tuple[int, bytes]:
        """Status and body."""
        self.send(raw)
        return self.receive()

    def send(self, raw: bytes) -> None:
        self._socket.sendall(raw)

    def receive(self) -> tuple[int, bytes]:
        """Status and body of the next answer."""
        found = self._received()
        while b"\r\n\r\n" not in found:
            found += self._received()
        head, _, body = found.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        assert length
        while len(body) < int(length.group(1)):
            body += self._received()
        self.ended = b"connection: close" in head.lower()
        return int(head[9:12]), body

    def _received(self) -> bytes:
        found = self._socket.recv(1 << 16)
        if not found:
            raise ConnectionError("the server has closed the connection")
        return found

    def close(self) -> None:
        self._socket.close()


@dataclass
class Tally:
    """What became of the requests of a load, each known by its number; `seconds` of those that were answered."""

    statuses: dict[int, int] = field(default_factory=dict)
    bodies: dict[int, bytes] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    lost: int = 0
    left: int = 0


@dataclass(frozen=True)
class Crowd:
    """So many `connections`: as fast as they are answered, or at `rate` requests a second together that come at random
    (Poisson) and count from when they were due. Every `keep`-th body is kept, and before every `leave`-th answer its
    client leaves (0: none)."""

    connections: int
    rate: float | None = None
    keep: int = 0
    leave: int = 0


async def load(port: int, requests: Sequence[bytes], crowd: Crowd, seconds: float) -> Tally:
    """Sends `requests` around for so many seconds."""
    tally, began = Tally(), time.monotonic()
    end, numbers = began + seconds, itertools.count()
    gaps = (
        np.random.default_rng(0).exponential(1.0 / crowd.rate, int(2 * crowd.rate * seconds) + 100)
        if crowd.rate
        else []
    )
    arrivals = np.cumsum(gaps).tolist()

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while True:
            number = next(numbers)
            start = time.monotonic()
            if arrivals:
                due = began + arrivals[number]
                if due < end:
                    await asyncio.sleep(due - start)
                start = due
            if start >= end:
                break
            try:
                writer.write(requests[number % len(requests)])
                if crowd.leave and number % crowd.leave == 1:
                    tally.left += 1
                    writer.close()
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    continue
                head = await reader.readuntil(b"\r\n\r\n")
                length = LENGTH.search(head)
                assert length
                body = await reader.readexactly(int(length.group(1)))
            except (OSError, asyncio.IncompleteReadError):
                tally.lost += 1
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                continue
            status = int(head[9:12])
            tally.statuses[status] = tally.statuses.get(status, 0) + 1
            if status == 200:
                tally.seconds.append(time.monotonic() - start)
                if crowd.keep and number % crowd.keep == 0:
                    tally.bodies[number] = body
        writer.close()

    await asyncio.gather(*(client() for _ in range(crowd.connections)))
    return tally
