"""A pool runs an operation (load, unload, reload) in every process that serves, or in none."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from prunetime.errors import InputError
from prunetime.serve import memory
from prunetime.serve.certificate import Certificate
from prunetime.serve.core.models import Entry, LoadedModel, ModelRegistry, Replaced
from prunetime.serve.errors import RefusedError
from prunetime.serve.keys import Keys
from prunetime.serve.workers import control

LOG = logging.getLogger(__name__)

FLUSH_SECONDS = 1.0

TIDY_SECONDS = 1.0


class LocalPool:
    """A pool that asks its workers itself. `processes` serve the models in `entries`; whoever changes either must hold
    the `lock`."""

    def __init__(self, processes: Sequence[control.MessageHandler], entries: Sequence[Entry] = ()) -> None:
        self.processes, self.entries, self.lock = list(processes), entries, asyncio.Lock()

    async def ask(self, message: control.Message) -> Sequence[Entry]:
        match message:
            case control.Load():
                async with self.lock:
                    return [await self._load(message)]
            case control.Unload():
                async with self.lock:
                    gone = await self._all(message)
                    self.entries = await self._all(control.ListModels())
                return gone
            case control.Reload():
                await self._reload()
            case control.Flush():
                with suppress(asyncio.TimeoutError):  # of one that hangs: what it counted itself is there
                    await asyncio.wait_for(self._all(message), FLUSH_SECONDS)
            case control.Drain():
                with suppress(asyncio.TimeoutError, RefusedError):  # of those that hang or are gone
                    await asyncio.wait_for(self._all(message), FLUSH_SECONDS)
            case _:
                raise AssertionError(message)
        return []

    async def _reload(self) -> None:
        try:
            await self._all(control.ReloadKeys())  # first: a key that was taken back must not wait for models
        except RefusedError as error:
            LOG.error("not read again, the old ones stay: %s", error)
        for name in dict.fromkeys(entry.name for entry in self.entries):
            async with self.lock:
                folders = [entry.folder for entry in self.entries if entry.name == name]
                if not folders:  # unloaded meanwhile
                    continue
                try:
                    await self._load(control.Load(name, folders[-1], "newest"))
                except RefusedError as error:
                    LOG.error("model %s is not reloaded, the old one stays: %s", name, error)
        LOG.info("reloaded; serving %s", ", ".join(entry.label for entry in self.entries))

    async def _load(self, message: control.Load) -> Entry:
        """Loads a version in all processes, then publishes it in all (two-phase commit)."""
        try:
            await self._all(message)
        except RefusedError:
            await self._all(control.Rollback())
            raise
        (loaded,) = await self._all(control.Commit())
        self.entries = await self._all(control.ListModels())
        return loaded

    async def _all(self, message: control.Message) -> Sequence[Entry]:
        """Sends a message to all workers, and returns the answer, which is the same of all. A worker that has ended is
        skipped: its successor starts with `entries`."""
        said = await asyncio.gather(*(each.ask(message) for each in self.processes), return_exceptions=True)
        answers = []
        for each in said:
            if not isinstance(each, BaseException):
                answers.append(each)
            elif not isinstance(each, control.WorkerExitedError):
                raise each
        if not answers:
            raise RefusedError("not_ready", "no process is there to do it", 1.0)
        return answers[0]


class LocalWorker:
    """The worker of this process. `flush` writes its counters to its file."""

    def __init__(
        self, models: ModelRegistry, keys: Keys, certificate: Certificate | None, flush: Callable[[], None]
    ) -> None:
        self._models, self._keys, self._certificate, self._flush = models, keys, certificate, flush
        self._loaded: tuple[LoadedModel, Replaced] | None = None

    async def ask(self, message: control.Message) -> Sequence[Entry]:
        match message:
            case control.Load(name, folder, replaced):
                loop = asyncio.get_running_loop()
                self._loaded = await loop.run_in_executor(None, self._models.load, name, Path(folder)), replaced
            case control.Commit():
                assert self._loaded
                loaded, replaced = self._loaded
                self._loaded = None
                self._models.publish(loaded, replaced)
                self._flush()
                _tidy_up()
                return [loaded.entry]
            case control.Rollback():
                self._loaded = None
                _tidy_up()
            case control.Unload(name, version):
                gone = [loaded.entry for loaded in self._models.unload(name, version)]
                self._flush()
                _tidy_up()
                return gone
            case control.ReloadKeys():
                self._reread()
            case control.Flush():
                self._flush()
            case control.ListModels():
                return [loaded.entry for loaded in self._models]
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
    """Returns memory to the system, once the requests that an unloaded model is still answering are done."""
    loop = asyncio.get_running_loop()
    loop.call_later(TIDY_SECONDS, lambda: loop.run_in_executor(None, memory.give_back_small_blocks))
