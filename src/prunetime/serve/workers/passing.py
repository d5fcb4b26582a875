"""Accepted connections, passed by the supervisor to the processes that serve: their descriptors, over socket pairs.

Processes that accept from one socket do not share evenly: of connections that are kept, the first that wakes may take
all. The one that accepts them knows how many each has.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

AT_ONCE = 64
"""Connections that are received before the event loop does something else."""

CONNECTION, ENDED = b"c", b"e"
"""The messages: to a process, with a descriptor; and back, for each connection that has ended."""


class Dealer:
    """The side of the supervisor: gives each connection to the process that has the fewest."""

    def __init__(self) -> None:
        self._open: dict[socket.socket, int] = {}
        """How many connections each process has, the one that was given one last at the end."""

    def add(self, process: socket.socket) -> None:
        """Has connections given to a process, over this end of a pair, until it wants no more or is gone."""
        process.setblocking(False)
        self._open[process] = 0
        asyncio.get_running_loop().add_reader(process, self._listen, process)

    def give(self, connection: socket.socket) -> bool:
        """Whether there is a process to take the connection; then it is closed here."""
        for process in sorted(self._open, key=self._open.__getitem__):
            try:
                socket.send_fds(process, [CONNECTION], [connection.fileno()])
            except BlockingIOError:  # it has not received the last ones yet
                continue
            except OSError:
                self._drop(process)
                continue
            self._open[process] = self._open.pop(process) + 1
            connection.close()
            return True
        return False

    def close(self) -> None:
        """Tells all processes that no more come; they still receive what was given."""
        for process in list(self._open):
            self._drop(process)

    def _listen(self, process: socket.socket) -> None:
        try:
            said = process.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if said:
            self._open[process] -= len(said)
        else:
            self._drop(process)

    def _drop(self, process: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(process)
        del self._open[process]
        process.close()


class Receiver:
    """The side of a process that serves: hands each connection to `take`."""

    def __init__(self, supervisor: socket.socket) -> None:
        self._supervisor = supervisor
        self._supervisor.setblocking(False)
        self._unsaid = 0
        self.over = asyncio.Event()
        """Set once all connections have come."""

    def start(self, take: Callable[[socket.socket], bool]) -> None:
        self._take = take
        asyncio.get_running_loop().add_reader(self._supervisor, self._receive)

    def ended(self) -> None:
        """Tells the supervisor that a connection has ended."""
        self._unsaid += 1
        with suppress(OSError):  # it is busy, and is told with the next one; or it is gone
            self._unsaid -= self._supervisor.send(ENDED * self._unsaid)

    async def close(self, seconds: float) -> None:
        """Tells the supervisor to pass no more, and waits so many seconds for what it has passed."""
        with suppress(OSError):
            self._supervisor.shutdown(socket.SHUT_WR)
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.over.wait(), seconds)

    def _receive(self) -> None:
        for _ in range(AT_ONCE):
            try:
                said, descriptors, _, _ = socket.recv_fds(self._supervisor, len(CONNECTION), 1)
            except BlockingIOError:
                return
            except OSError:
                said, descriptors = b"", []
            if not said:
                asyncio.get_running_loop().remove_reader(self._supervisor)
                self.over.set()
                return
            for descriptor in descriptors:
                self._take(socket.socket(fileno=descriptor))
