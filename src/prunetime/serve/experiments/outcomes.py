"""The store of outcomes, with a thread of its own. Acknowledged outcomes survive a kill."""

from __future__ import annotations

import logging
import queue
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any, Literal

from prunetime.errors import PrunetimeError
from prunetime.serve.experiments.databases import Database, DatabaseError, StoredOutcome, database, opened
from prunetime.serve.experiments.sequential import KeySums

LOG = logging.getLogger(__name__)

MAX_BATCH = 1_000
"""The most posts that are written in one transaction."""

MAX_WAITING = 10_000
"""The most posts that wait while the database does not answer; more are refused."""


class UnavailableError(PrunetimeError):
    """Outcomes cannot be stored or read now, and may be later."""


class Outcomes:
    """A store of outcomes: a database with a thread of its own, which writes posts that come together in one
    transaction.

    A database that fails (a full disk, a lock of another process, a file or server that is gone) is closed, and opened
    again for the next post. Raises InputError where it cannot be opened at first.
    """

    def __init__(self, where: str | Path) -> None:
        self._where = str(where)
        self._database: Database | None = database(self._where)
        self._failing = False
        self._asked: queue.SimpleQueue[tuple[Any, Future[Any]] | None] = queue.SimpleQueue()
        self._thread = Thread(target=self._run, name="prunetime-outcomes", daemon=True)
        self._thread.start()

    def add(self, outcomes: Sequence[StoredOutcome]) -> Future[None]:
        """Adds outcomes; the future is done once they are on disk, or has UnavailableError."""
        return self._ask(list(outcomes))

    def sums(self, experiment: str) -> Future[Mapping[str, KeySums]]:
        """Sums over keys, by arm, all that was added before; the future may have UnavailableError."""
        return self._ask(experiment)

    def close(self) -> None:
        """Waits until all posts are written, and closes the database."""
        self._asked.put(None)
        self._thread.join()
        self._close_database()

    def _ask(self, what: list[StoredOutcome] | str) -> Future[Any]:
        future: Future[Any] = Future()
        if self._asked.qsize() >= MAX_WAITING:
            future.set_exception(UnavailableError(f"{MAX_WAITING} posts of outcomes wait already"))
        else:
            self._asked.put((what, future))
        return future

    def _run(self) -> None:
        over = False
        while not over:
            asked = [self._asked.get()]
            while len(asked) < MAX_BATCH and not self._asked.empty():
                asked.append(self._asked.get())
            over = None in asked
            jobs = [job for job in asked if job is not None]
            posts = [(what, future) for what, future in jobs if isinstance(what, list)]
            if posts:
                outcomes = [outcome for what, _ in posts for outcome in what]
                self._do("add", outcomes, [future for _, future in posts])
            for what, future in jobs:
                if isinstance(what, str):
                    self._do("sums", what, [future])

    def _do(
        self, method: Literal["add", "sums"], what: list[StoredOutcome] | str, futures: Sequence[Future[Any]]
    ) -> None:
        try:
            if self._database is None:
                self._database = opened(self._where)
            found = getattr(self._database, method)(what)
        except Exception as error:  # whoever asked hears of it, and others are served
            self._close_database()
            unavailable = isinstance(error, DatabaseError)
            self._note(error if unavailable else None)
            failure = UnavailableError(str(error)) if unavailable else error
            for future in futures:
                with suppress(InvalidStateError):  # who asked has given up waiting
                    future.set_exception(failure)
        else:
            self._note(None)
            for future in futures:
                with suppress(InvalidStateError):
                    future.set_result(found)

    def _note(self, error: Exception | None) -> None:
        """Logs that the database fails, and that it works again: one line each, however many posts come meanwhile."""
        if error and not self._failing:
            LOG.error("outcomes of experiments cannot be kept or read: %s", error)
        elif not error and self._failing:
            LOG.warning("outcomes of experiments are kept again")
        self._failing = error is not None

    def _close_database(self) -> None:
        if self._database is not None:
            with suppress(Exception):  # it may have failed already
                self._database.close()
        self._database = None
