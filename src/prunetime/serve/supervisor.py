"""The supervisor of several workers: they share one port and one set of models, and their counters add up."""

from __future__ import annotations

import asyncio
import itertools
import logging
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prunetime.errors import InputError
from prunetime.serve.core.counts import retire
from prunetime.serve.core.models import Entry
from prunetime.serve.errors import RefusedError
from prunetime.serve.experiments.databases import database
from prunetime.serve.listening import Acceptor
from prunetime.serve.settings import ServeSettings
from prunetime.serve.workers.control import Drain, Link, Reload, StartServing, WorkerExitedError
from prunetime.serve.workers.passing import Dealer
from prunetime.serve.workers.pool import LocalPool

LOG = logging.getLogger(__name__)

FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
"""The seconds before a worker that could not start is started again; they double with each failure."""

KILL_AFTER = 5.0
"""The seconds that workers get beyond `stop_seconds` before they are killed."""


class Supervisor:
    """The supervisor starts the workers, replaces those that end, and passes on to all what one is asked to do."""

    def __init__(self, settings: ServeSettings, listener: socket.socket, counts: Path) -> None:
        self._settings = settings
        self._files = (counts / f"{number}.json" for number in itertools.count())
        self._acceptor, self._dealer = Acceptor(listener), Dealer()
        self._pool = LocalPool([])
        self._running: set[Process] = set()
        self._stop, self._told_again = asyncio.Event(), asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, on_ready: Callable[[Sequence[Entry]], None]) -> None:
        """Runs until SIGTERM or SIGINT, and until the accepted requests are answered. Raises InputError where a worker
        cannot start."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_stop)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._soon(self._pool.ask(Reload())))
        try:
            async with self._pool.lock:  # the first may be asked to load before the last is there
                started = asyncio.gather(*(self._started(None) for _ in range(self._settings.processes)))
                await self._unless_stopped(started)
            if not self._stop.is_set():
                self._acceptor.start(self._dealer.give)
                on_ready(self._pool.entries)
                await self._stop.wait()
                await self._drained()
        except (RefusedError, WorkerExitedError) as error:
            raise InputError(str(error)) from None
        finally:
            self._stop.set()
            await self._ended()

    async def _started(self, catalogue: Sequence[Entry] | None) -> None:
        """Starts a worker, and returns once it serves.

        Raises RefusedError where the worker says why it cannot serve, WorkerExitedError where it ends without a word.
        """
        counted = next(self._files)
        (connections, to_receive), (ours, theirs) = socket.socketpair(), socket.socketpair()
        with to_receive, theirs:
            descriptors = to_receive.fileno(), theirs.fileno()
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "prunetime.serve.worker", *map(str, descriptors)),
                pass_fds=descriptors,
                start_new_session=True,  # a Ctrl-C is for the supervisor, which tells them
            )
        self._running.add(process)
        link = await Link.over(ours, self._pool.ask)
        talking = asyncio.create_task(link.run())
        try:
            known = None if catalogue is None else list(catalogue)
            entries = await link.ask(StartServing(self._settings.of_each, known, counted))
        except BaseException:
            connections.close()
            link.close()
            raise
        finally:
            self._soon(self._watch(process, link, talking, counted))
        self._pool.entries = entries
        self._pool.processes.append(link)
        self._dealer.add(connections)

    async def _watch(self, process: Process, link: Link, talking: asyncio.Task[None], counted: Path) -> None:
        """Waits until a worker ends, and replaces it if it was serving and nobody told it to stop."""
        code = await process.wait()
        await talking
        self._running.discard(process)
        retire(counted, [entry.label for entry in self._pool.entries])
        if link not in self._pool.processes or self._stop.is_set():
            return
        self._pool.processes.remove(link)
        LOG.error("process %d has ended with %d; another one takes its place", process.pid, code)
        wait = FIRST_WAIT
        while not self._stop.is_set():
            try:
                async with self._pool.lock:
                    await self._started(self._pool.entries)
                return
            except (RefusedError, WorkerExitedError) as error:
                LOG.error("it cannot start; the next try is in %g s: %s", wait, error)
            await self._unless_stopped(asyncio.sleep(wait))
            wait = min(2.0 * wait, LONGEST_WAIT)

    async def _drained(self) -> None:
        """Drains the workers, and passes on the last connections."""
        await self._pool.ask(Drain())
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._told_again.wait(), self._settings.drain_seconds)
        await self._acceptor.close(0.0 if self._told_again.is_set() else KILL_AFTER)
        self._dealer.close()

    async def _ended(self) -> None:
        """Stops the workers: they answer what they have accepted, and are killed if that takes too long."""
        for process in self._running:
            process.terminate()
        ends = asyncio.gather(*(process.wait() for process in self._running))
        try:
            await asyncio.wait_for(asyncio.shield(ends), self._settings.stop_seconds + KILL_AFTER)
        except asyncio.TimeoutError:
            self._kill()
            await ends

    def _told_to_stop(self) -> None:
        if self._stop.is_set():
            self._told_again.set()
            self._kill()
        self._stop.set()

    def _kill(self) -> None:
        for process in self._running:
            process.kill()

    async def _unless_stopped(self, work: Awaitable[Any]) -> None:
        done, stop = asyncio.ensure_future(work), asyncio.create_task(self._stop.wait())
        await asyncio.wait({done, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if done.done():
            done.result()
        done.cancel()

    def _soon(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def supervise(settings: ServeSettings, listener: socket.socket, on_ready: Callable[[Sequence[Entry]], None]) -> None:
    """Serves until a signal stops it. Raises InputError where a worker cannot start."""
    if settings.experiments:
        # Processes that make its table at the same time would be in each other's way.
        database(settings.outcomes).close()
    with TemporaryDirectory(prefix="prunetime-counts-") as counts:
        asyncio.run(Supervisor(settings, listener, Path(counts)).run(on_ready))
