"""The control channel between the supervisor and its workers: requests and responses, a line of JSON each."""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec import Struct

from prunetime.errors import PrunetimeError
from prunetime.serve.core.models import Entry, Replaced
from prunetime.serve.errors import Code, RefusedError
from prunetime.serve.settings import ServeSettings

LOG = logging.getLogger(__name__)

MAX_LINE_BYTES = 1 << 24
"""The longest line, in bytes."""


class StartServing(Struct, tag=True):
    """Tells a worker to start. It loads the models of `catalogue`, or those of the settings where that is None, and
    writes its counters to the file `counts`."""

    settings: ServeSettings
    catalogue: list[Entry] | None
    counts: Path


class Load(Struct, tag=True):
    """Loads a version of a model. A pool does so in every process, or in none where one cannot; a process does it as
    the first of two phases, before `Commit` or `Rollback`."""

    name: str
    folder: str
    replaced: Replaced


class Commit(Struct, tag=True):
    """Publishes the version that was loaded (second phase)."""


class Rollback(Struct, tag=True):
    """Drops the version that was loaded, because another worker could not load it."""


class Unload(Struct, tag=True):
    name: str
    version: str | None


class ReloadKeys(Struct, tag=True):
    """Reads keys and certificates again."""


class Reload(Struct, tag=True):
    """Reads keys and certificates again in every process, as SIGHUP does, then the newest version of each model, as a
    new version. Where something cannot be read, the old one stays and the log says why."""


class Drain(Struct, tag=True):
    """Makes a worker fail its readiness check, and close each connection after its next answer."""


class Flush(Struct, tag=True):
    """Makes a process write its counters to its file, for `/metrics`."""


class ListModels(Struct, tag=True):
    """Asks for the catalogue of served models."""


Message = StartServing | Load | Commit | Rollback | Unload | ReloadKeys | Reload | Drain | Flush | ListModels


class MessageHandler(Protocol):
    """A process that does what a message asks, or a pool of all processes that serve together."""

    async def ask(self, message: Message) -> Sequence[Entry]:
        """Returns the entries that the message is about. Raises RefusedError where it cannot be done."""
        ...


class ControlRequest(Struct, tag=True):
    number: int
    message: Message


class Refusal(Struct):
    code: Code
    message: str
    retry_after: float | None


class ControlResponse(Struct, tag=True):
    number: int
    entries: list[Entry]
    refused: Refusal | None = None


class WorkerExitedError(PrunetimeError):
    """The process at the other end of the channel has ended."""


# A pathlib.Path is written as a string.
ENCODER = msgspec.json.Encoder(enc_hook=str)
DECODER = msgspec.json.Decoder(ControlRequest | ControlResponse, dec_hook=lambda kind, value: kind(value))


class Link:
    """One end of a control channel, over which both sides send requests; `answer` handles those of the other side."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        answer: Callable[[Message], Awaitable[Sequence[Entry]]],
    ) -> None:
        self._reader, self._writer, self._answer = reader, writer, answer
        self._numbers = itertools.count()
        self._open: dict[int, asyncio.Future[list[Entry]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._over = False

    @classmethod
    async def over(cls, end: socket.socket, answer: Callable[[Message], Awaitable[Sequence[Entry]]]) -> Link:
        """Makes a link of one of a pair of connected sockets."""
        reader, writer = await asyncio.open_unix_connection(sock=end, limit=MAX_LINE_BYTES)
        return cls(reader, writer, answer)

    async def ask(self, message: Message) -> list[Entry]:
        """Sends a request and returns the response. Raises RefusedError where the other side refuses, WorkerExitedError
        where it has ended."""
        if self._over:
            raise WorkerExitedError("the process has ended")
        number = next(self._numbers)
        answer: asyncio.Future[list[Entry]] = asyncio.get_running_loop().create_future()
        self._open[number] = answer
        self._send(ControlRequest(number, message))
        return await answer

    async def run(self) -> None:
        """Handles messages until the other side closes the channel."""
        try:
            while line := await self._reader.readline():
                self._take(DECODER.decode(line))
        except ConnectionError:
            pass
        finally:
            self._over = True
            for answer in self._open.values():
                if not answer.done():
                    answer.set_exception(WorkerExitedError("the process has ended"))
            self.close()

    def close(self) -> None:
        self._writer.close()

    def _take(self, found: ControlRequest | ControlResponse) -> None:
        if isinstance(found, ControlRequest):
            task = asyncio.get_running_loop().create_task(self._reply(found))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        answer = self._open.pop(found.number)
        if answer.done():  # whoever asked was cancelled
            return
        if found.refused is None:
            answer.set_result(found.entries)
        else:
            answer.set_exception(RefusedError(found.refused.code, found.refused.message, found.refused.retry_after))

    async def _reply(self, asked: ControlRequest) -> None:
        try:
            answered = ControlResponse(asked.number, list(await self._answer(asked.message)))
        except RefusedError as error:
            answered = ControlResponse(asked.number, [], Refusal(error.code, str(error), error.retry_after))
        except PrunetimeError as error:
            answered = ControlResponse(asked.number, [], Refusal("unusable", str(error), None))
        except Exception:  # whatever it is, the other side waits
            LOG.exception("%s failed", asked.message)
            answered = ControlResponse(
                asked.number, [], Refusal("internal", "an error of the server; its log says more", None)
            )
        self._send(answered)

    def _send(self, message: ControlRequest | ControlResponse) -> None:
        if not self._over:
            self._writer.write(ENCODER.encode(message) + b"\n")
