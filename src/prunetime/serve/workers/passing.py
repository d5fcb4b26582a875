"""The supervisor accepts connections and passes their descriptors to the workers, over socket pairs.

Processes that accept from one socket do not share evenly: the first to wake may take all connections, and keep them.
The supervisor knows how many connections each worker has.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

AT_ONCE = 64
"""The most connections that are received before the event loop does something else."""

CONNECTION, ENDED = b"c", b"e"
"""The messages: a connection, to a worker, with a descriptor; and back, one that has ended."""


class Dealer:
    """The supervisor's end: it gives each connection to the worker that has the fewest."""

    def __init__(self) -> None:
        self._open: dict[socket.socket, int] = {}
        """The number of connections of each worker; the worker that was given one last is at the end."""

    def add(self, process: socket.socket) -> None:
        """Adds a worker, which gets connections over this end of a pair until it closes its own."""
        process.setblocking(False)
        self._open[process] = 0
        asyncio.get_running_loop().add_reader(process, self._listen, process)

    def give(self, connection: socket.socket) -> bool:
        """Passes a connection to a worker, closes it here, and returns whether there was a worker to take it."""
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
        """Tells all workers that no more connections come; they still receive the ones that were sent."""
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
    """A worker's end: it hands each connection to `take`."""

    def __init__(self, supervisor: socket.socket) -> None:
        self._supervisor = supervisor
        self._supervisor.setblocking(False)
        self._unsaid = 0
        self.over = asyncio.Event()
        """An event that is set once the last connection has come."""

    def start(self, take: Callable[[socket.socket], bool]) -> None:
        self._take = take
        asyncio.get_running_loop().add_reader(self._supervisor, self._receive)

    def ended(self) -> None:
        """Tells the supervisor that a connection has ended."""
        self._unsaid += 1
        with suppress(OSError):  # it is busy, and is told with the next one; or it is gone
            self._unsaid -= self._supervisor.send(ENDED * self._unsaid)

    async def close(self, seconds: float) -> None:
        """Tells the supervisor to pass no more connections, and waits up to `seconds` for those under way."""
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
