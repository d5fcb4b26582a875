"""The listening socket of a server, whose connections are accepted to the last one at a stop."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from prunetime.errors import InputError
from prunetime.serve.settings import ServeSettings

LOG = logging.getLogger(__name__)

BACKLOG = 2_048
"""The most connections that wait to be accepted."""

AT_ONCE = 64
"""The most connections that are accepted before the event loop does something else."""

PAUSE_SECONDS = 0.02
"""The pause before another try where there was no file descriptor, or no worker, for a connection."""

HANDSHAKE_SECONDS = 0.1
"""The time that TCP handshakes under way get to finish after new ones are dropped."""

SO_ATTACH_FILTER = 26
DROP_SYN = (
    (0x30, 0, 0, 13),  # load the flags of the TCP header
    (0x54, 0, 0, 0x12),  # of them SYN and ACK
    (0x15, 0, 1, 0x02),  # SYN alone?
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0xFFFFFFFF),  # keep
)
"""A classic BPF program that drops SYN packets to a listening socket: (code, jump if true, if false, operand)."""


@contextmanager
def listening(settings: ServeSettings) -> Iterator[socket.socket]:
    """Listens on the port or unix socket of the settings, and removes the socket's file at the end. Raises InputError
    where it cannot."""
    try:
        made = _unix(settings.uds) if settings.uds else _port(settings.host, settings.port)
    except OSError as error:
        raise InputError(f"cannot listen on {settings.uds or f'{settings.host}:{settings.port}'}: {error}") from error
    with made:
        try:
            yield made
        finally:
            if made.fileno() >= 0:  # nobody has closed it in order
                _let_none_in(made)


class Acceptor:
    """An acceptor hands each connection of a listening socket to `take`, which returns whether it took it."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._held: socket.socket | None = None
        """A connection that was accepted and not taken yet."""
        self._paused: asyncio.TimerHandle | None = None

    def start(self, take: Callable[[socket.socket], bool]) -> None:
        self._listener.setblocking(False)
        self._take = take
        self._go_on()

    def ended(self) -> None:
        """Called when a connection has ended; an acceptor need not know."""

    async def close(self, seconds: float) -> None:
        """Stops new connections, and accepts every one that is established, so that none is lost.

        Connections that are not taken within `seconds` are closed.
        """
        _let_none_in(self._listener)
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        await asyncio.sleep(HANDSHAKE_SECONDS)
        self._stop()
        while not self._accepted_all() and loop.time() < until:
            await asyncio.sleep(PAUSE_SECONDS)
        self._listener.close()
        if self._held is not None:
            self._held.close()

    def _go_on(self) -> None:
        self._paused = None
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def _stop(self) -> None:
        asyncio.get_running_loop().remove_reader(self._listener)
        if self._paused is not None:
            self._paused.cancel()
            self._paused = None

    def _accept(self) -> None:
        try:
            self._accept_some()
        except OSError as error:
            LOG.error("cannot accept connections, the next try is in %g s: %s", PAUSE_SECONDS, error)
            self._pause()

    def _accepted_all(self) -> bool:
        try:
            return self._accept_some()
        except OSError:
            return False

    def _accept_some(self) -> bool:
        """Accepts some connections; returns whether none is left. Raises OSError where there is no file descriptor."""
        for _ in range(AT_ONCE):
            if self._held is None:
                try:
                    self._held, _ = self._listener.accept()
                except BlockingIOError:
                    return True
                except ConnectionError:  # its client has left
                    continue
            if not self._take(self._held):
                self._pause()
                return False
            self._held = None
        return False

    def _pause(self) -> None:
        self._stop()
        self._paused = asyncio.get_running_loop().call_later(PAUSE_SECONDS, self._go_on)


def _let_none_in(listener: socket.socket) -> None:
    """Drops the SYN packets of new clients, so that all established connections can be accepted: closing a listening
    socket resets those that wait. A client that tries again after the close is refused, as it should be."""
    if listener.family == socket.AF_UNIX:
        Path(listener.getsockname()).unlink(missing_ok=True)
        return
    program = b"".join(struct.pack("HBBI", *step) for step in DROP_SYN)
    kept = ctypes.create_string_buffer(program)
    with suppress(OSError):  # some sandboxes have no filters; then the last few microseconds are not covered
        listener.setsockopt(
            socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", len(DROP_SYN), ctypes.addressof(kept))
        )


def _port(host: str, port: int) -> socket.socket:
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


def _unix(path: Path) -> socket.socket:
    if path.is_socket():
        with socket.socket(socket.AF_UNIX) as other:
            if other.connect_ex(str(path)) == 0:
                raise OSError("another server listens there")
        path.unlink()  # of one that was killed
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    made.listen(BACKLOG)
    return made
