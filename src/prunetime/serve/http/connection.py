"""HTTP connections with limits: on the size and pace of requests, on the pace of clients that read, and at a stop."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import secrets
import struct
import termios
import time
from collections.abc import Callable
from typing import Any, NoReturn

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from prunetime.serve.errors import Failure, RefusedError, whole_seconds
from prunetime.serve.http.bodies import LATE
from prunetime.serve.http.routing import ARRIVED, JSON, Response

LOG = logging.getLogger(__name__)

URL_BYTES, HEADERS_BYTES, HEADERS = 8 << 10, 32 << 10, 100
"""The limits of a request's URL, of the bytes before its body (and of trailers), and of its number of headers. The
parser has none, and its time grows with the square of the length of a header that comes in parts."""

PIPELINED = 64
"""The most requests that may wait on one connection while an earlier one is answered."""

CHUNKS = 8_192
"""The most chunks of a body: each is a call of the parser on the event loop."""

SLOWEST_BYTES = 64 << 10
"""A client gets a second more to read an answer for each so many bytes of it."""

LINGER_SECONDS = 1.0
"""How long incoming bytes are read and dropped after a refusal: closing a connection with unread bytes resets it, and
the client may not see the answer."""


class Connections(ServerState):
    """The open connections of a process. Beyond `max_connections`, requests are refused. While the process is
    `draining`, each connection closes after its next answer.

    A request must arrive within `seconds`; `on_lost` is called once for each connection that has ended.
    """

    def __init__(self, max_connections: int, seconds: float, on_lost: Callable[[], None]) -> None:
        super().__init__()
        self.max_connections, self.seconds, self.on_lost, self.draining = max_connections, seconds, on_lost, False

    def drain(self) -> None:
        self.draining = True
        for each in list(self.connections):
            each.shutdown_after_answer()  # type: ignore[union-attr]  # all are `Connection`s

    def close_silent(self) -> None:
        """Closes the connections on which no unanswered request has begun to arrive."""
        for each in list(self.connections):
            each.close_if_silent()  # type: ignore[union-attr]  # all are `Connection`s

    def abort(self) -> None:
        """Closes all connections at once."""
        for each in list(self.connections):
            each.transport.abort()


class Connection(HttpToolsProtocol):
    """A connection with limits.

    A request that does not arrive within `Connections.seconds` is refused (408), as is one with too large a head (414,
    431) or that is no HTTP (400). An idle connection is closed after as long.
    """

    server_state: Connections

    def __init__(
        self, config: uvicorn.Config, state: Connections, app_state: dict[str, Any], loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(config, state, app_state, loop)
        self._late: asyncio.TimerHandle | None = None
        self._untaken: asyncio.TimerHandle | None = None
        self._begun = False
        """Whether a request has begun to arrive and has not ended."""
        self._in_head = True
        """Whether the next bytes belong to the head of a request."""
        self._heads = self._head_bytes = self._header_bytes = self._headers = self._chunks = 0
        self._problem: RefusedError | None = None
        """The refusal that a callback of the parser has found."""
        self._refused = False

    # What comes

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn narrows it
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        before = self._in_head, self._heads
        super().data_received(data)
        if self._in_head and before == (self._in_head, self._heads):  # all of it is of one head, which has not ended
            self._head_bytes += len(data)
            if self._head_bytes > HEADERS_BYTES and not self._refused:
                self._refuse(_headers_too_large())

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= PIPELINED:
            self._fail(RefusedError("overloaded", f"more than {PIPELINED} requests wait on this connection", 1.0))
        super().on_message_begin()
        self._begun = True
        self._header_bytes = self._headers = self._chunks = 0
        self._expect()
        if self._untaken is not None and not self.transport.get_write_buffer_size():
            self._untaken.cancel()
            self._untaken = None

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > URL_BYTES:
            self._fail(RefusedError("uri_too_long", f"the URL is longer than {URL_BYTES} bytes"))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers += 1
        self._header_bytes += len(name) + len(value) + len(": \r\n")
        if self._headers > HEADERS or self._header_bytes > HEADERS_BYTES:
            self._fail(_headers_too_large())
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if len(self.connections) > self.server_state.max_connections:
            self._fail(
                RefusedError("overloaded", f"there are more than {self.server_state.max_connections} connections", 1.0)
            )
        self._in_head = False
        self._heads += 1
        self._head_bytes = 0
        self.scope[ARRIVED] = time.monotonic()  # type: ignore[literal-required]  # ASGI allows it
        super().on_headers_complete()
        if self.server_state.draining:
            self.cycle.keep_alive = False

    def on_chunk_header(self) -> None:
        self._chunks += 1
        if self._chunks > CHUNKS:
            self._fail(RefusedError("too_large", f"the body comes in more than {CHUNKS} chunks: send larger ones"))

    def on_message_complete(self) -> None:
        self._begun, self._in_head = False, True
        self._come()
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._come()
        if self._untaken is not None:
            self._untaken.cancel()
        super().connection_lost(exc)
        self.server_state.on_lost()

    def _expect(self) -> None:
        if self._late is None:
            self._late = self.loop.call_later(self.server_state.seconds, self._be_late)

    def _come(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _be_late(self) -> None:
        self._late = None
        if not self._begun:
            self.transport.close()
        elif self._in_head:
            self._refuse(
                RefusedError("request_timeout", f"the request did not come within {self.server_state.seconds:g} s")
            )
        elif self.cycle.response_complete:  # and nobody reads the rest
            self.transport.close()
        else:
            self.cycle.scope[LATE] = True  # type: ignore[literal-required]  # ASGI allows it
            self.cycle.message_event.set()

    # What goes back

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._be_taken()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._be_taken()

    def send_400_response(self, _: str) -> None:
        """Answers a request that the parser could not read, or whose callback raised."""
        self._refuse(self._problem or RefusedError("bad_request", "this is no HTTP/1.1"))

    def _fail(self, problem: RefusedError) -> NoReturn:
        """Stops the parser."""
        self._problem = problem
        raise problem

    def _be_taken(self) -> None:
        """Starts a timer, if none runs, that closes the connection of a client that does not read its answer."""
        if waiting := self.transport.get_write_buffer_size():
            seconds = self.server_state.seconds + waiting / SLOWEST_BYTES
            self._untaken = self._untaken or self.loop.call_later(seconds, self._cut_off)

    def _cut_off(self) -> None:
        self._untaken = None
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def _refuse(self, error: RefusedError) -> None:
        """Sends a refusal, unless another answer is under way, and closes the connection."""
        self._refused = True
        self._come()
        under_way = self.cycle is not None and not self.cycle.response_complete
        if under_way and (self._in_head or self.cycle.response_started or self.pipeline):
            self.cycle.keep_alive = False  # of an earlier request
            return
        if under_way:
            self.cycle.disconnected = True  # the application has nobody to answer any more
            self.cycle.message_event.set()
        request_id = secrets.token_hex(8)
        answer = Response.of(Failure(str(error), error.code, request_id), error.status)
        headers = {"content-type": JSON, "content-length": str(len(answer.body)), "connection": "close"}
        if error.retry_after is not None:
            headers["retry-after"] = whole_seconds(error.retry_after)
        lines = [f"{name}: {value}\r\n".encode() for name, value in (headers | {"x-request-id": request_id}).items()]
        self.transport.write(b"".join([STATUS_LINE[error.status], *lines, b"\r\n", answer.body]))
        self.loop.call_later(LINGER_SECONDS, self.transport.close)
        LOG.info("%s", json.dumps({"id": request_id, "status": error.status, "error": error.code}))

    # How it ends

    def shutdown_after_answer(self) -> None:
        """Makes the current answer, if there is one, the last of this connection."""
        if self.cycle is not None:
            self.cycle.keep_alive = False

    def close_if_silent(self) -> None:
        answered = self.cycle is None or self.cycle.response_complete
        if answered and not self._begun and not self._unread():
            self.transport.close()

    def _unread(self) -> bool:
        """Whether the socket holds bytes that this process has not read."""
        connected = self.transport.get_extra_info("socket")
        if connected is None or connected.fileno() < 0:
            return False
        (waiting,) = struct.unpack("i", fcntl.ioctl(connected.fileno(), termios.FIONREAD, bytes(4)))
        return bool(waiting)


def _headers_too_large() -> RefusedError:
    return RefusedError(
        "headers_too_large", f"the headers are larger than {HEADERS_BYTES} bytes, or more than {HEADERS}: send fewer"
    )
