"""What happens in every process that serves, or in none: of one process, or of several (`supervisor`)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from prunetime.errors import InputError
from prunetime.serve import memory
from prunetime.serve.certificate import Certificate
from prunetime.serve.core.models import Entry, Hosted, Models, Replaced
from prunetime.serve.errors import RefusedError
from prunetime.serve.keys import Keys
from prunetime.serve.workers.control import Catalogue, Drain, Drop, GoneError, Load, Message, Note, Put, Reread, Unload

LOG = logging.getLogger(__name__)

NOTE_SECONDS = 1.0

TIDY_SECONDS = 1.0


class Process(Protocol):
    """One that serves: `Here`, or the `control.Link` to it."""

    async def ask(self, message: Message) -> Sequence[Entry]: ...


class Fleet(Protocol):
    """All processes that serve, as one of them sees them."""

    async def load(self, name: str, folder: str, replaced: Replaced) -> Entry:
        """Once it answers everywhere; raises RefusedError where one process cannot load it, and it changes nothing."""
        ...

    async def unload(self, name: str, version: str | None) -> Sequence[Entry]: ...

    async def reload(self) -> None:
        """Keys and certificates are read again, and then the newest version of each model, from its folder, as a new
        one in its place. Of what cannot be read, the old one stays and the log says why."""
        ...

    async def note(self) -> None:
        """Once every process has written down for `/metrics` what only it knows."""
        ...


class Processes:
    """A fleet, from where all of its processes can be asked: those that are there now, and what they serve. Who changes
    either has the `lock`."""

    def __init__(self, processes: Sequence[Process], entries: Sequence[Entry] = ()) -> None:
        self.processes, self.entries, self.lock = list(processes), entries, asyncio.Lock()

    async def load(self, name: str, folder: str, replaced: Replaced) -> Entry:
        async with self.lock:
            return await self._load(name, folder, replaced)

    async def unload(self, name: str, version: str | None) -> Sequence[Entry]:
        async with self.lock:
            gone = await self._all(Unload(name, version))
            self.entries = await self._all(Catalogue())
        return gone

    async def reload(self) -> None:
        try:
            await self._all(Reread())  # first: a key that was taken back must not wait for models
        except RefusedError as error:
            LOG.error("not read again, the old ones stay: %s", error)
        for name in dict.fromkeys(entry.name for entry in self.entries):
            async with self.lock:
                folders = [entry.folder for entry in self.entries if entry.name == name]
                if not folders:  # unloaded meanwhile
                    continue
                try:
                    await self._load(name, folders[-1], "newest")
                except RefusedError as error:
                    LOG.error("model %s is not reloaded, the old one stays: %s", name, error)
        LOG.info("reloaded; serving %s", ", ".join(entry.label for entry in self.entries))

    async def drain(self) -> None:
        """Every process says that it is not ready, and ends connections with its answers."""
        with suppress(asyncio.TimeoutError, RefusedError):  # of those that hang or are gone
            await asyncio.wait_for(self._all(Drain()), NOTE_SECONDS)

    async def note(self) -> None:
        with suppress(asyncio.TimeoutError):  # of one that hangs: what it counted itself is there
            await asyncio.wait_for(self._all(Note()), NOTE_SECONDS)

    async def _load(self, name: str, folder: str, replaced: Replaced) -> Entry:
        """Has all processes load a version, and then all have it answer."""
        try:
            await self._all(Load(name, folder, replaced))
        except RefusedError:
            await self._all(Drop())
            raise
        (loaded,) = await self._all(Put())
        self.entries = await self._all(Catalogue())
        return loaded

    async def _all(self, message: Message) -> Sequence[Entry]:
        """What they say, which is the same of all. One that has ended says nothing: it comes again with `entries`."""
        said = await asyncio.gather(*(each.ask(message) for each in self.processes), return_exceptions=True)
        answers = []
        for each in said:
            if not isinstance(each, BaseException):
                answers.append(each)
            elif not isinstance(each, GoneError):
                raise each
        if not answers:
            raise RefusedError("not_ready", "no process is there to do it", 1.0)
        return answers[0]


class Here:
    """This process. `note` writes down for `/metrics` what only it knows."""

    def __init__(self, models: Models, keys: Keys, certificate: Certificate | None, note: Callable[[], None]) -> None:
        self._models, self._keys, self._certificate, self._note = models, keys, certificate, note
        self._loaded: tuple[Hosted, Replaced] | None = None

    async def ask(self, message: Message) -> Sequence[Entry]:
        match message:
            case Load(name, folder, replaced):
                loop = asyncio.get_running_loop()
                self._loaded = await loop.run_in_executor(None, self._models.opened, name, Path(folder)), replaced
            case Put():
                assert self._loaded
                hosted, replaced = self._loaded
                self._loaded = None
                self._models.put(hosted, replaced)
                self._note()
                _tidy_up()
                return [hosted.entry]
            case Drop():
                self._loaded = None
                _tidy_up()
            case Unload(name, version):
                gone = [hosted.entry for hosted in self._models.unload(name, version)]
                self._note()
                _tidy_up()
                return gone
            case Reread():
                self._reread()
            case Note():
                self._note()
            case Catalogue():
                return [hosted.entry for hosted in self._models]
            case _:
                raise AssertionError(message)
        return []

    def _reread(self) -> None:
        problems = []
        for each in (self._keys, self._certificate):
            try:
                if each:
                    each.reload()
            except InputError as error:
                problems.append(str(error))
        if problems:
            raise RefusedError("unusable", "; ".join(problems))


def _tidy_up() -> None:
    """Once those that are being answered by a model that has gone are done."""
    loop = asyncio.get_running_loop()
    loop.call_later(TIDY_SECONDS, lambda: loop.run_in_executor(None, memory.give_back_small_blocks))
