"""Outcomes of experiments, kept: in SQLite, or in PostgreSQL by URL. What was acknowledged survives a kill."""

from __future__ import annotations

import queue
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, Protocol

from prunetime.errors import InputError
from prunetime.serve.sequential import Counts

TABLE = """create table if not exists outcomes (
    experiment text not null, id text not null, arm text not null, defect integer not null, primary key (experiment, id)
)"""

TOTALS = "select arm, count(*), sum(defect) from outcomes where experiment = {mark} group by arm"

MOST_AT_ONCE = 1_000
"""Posts that are written in one transaction."""


@dataclass(frozen=True)
class Outcome:
    """`id` is of the outcome itself: posted again, it counts once."""

    experiment: str
    id: str
    arm: str
    defect: bool


class Database(Protocol):
    """Used by one thread."""

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Those that are not there yet; once it returns, they are on the disk."""
        ...

    def totals(self, experiment: str) -> Mapping[str, Counts]:
        """By arm."""
        ...

    def close(self) -> None: ...


class Sqlite:
    def __init__(self, path: str) -> None:
        try:
            self._file = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._file.execute("pragma journal_mode = wal")
            self._file.execute("pragma synchronous = full")
            self._file.execute(TABLE)
        except sqlite3.Error as error:
            raise InputError(f"cannot keep outcomes in {path}: {error}") from error

    def add(self, outcomes: Sequence[Outcome]) -> None:
        with closing(self._file.cursor()) as cursor:
            cursor.execute("begin immediate")
            cursor.executemany("insert or ignore into outcomes values (?, ?, ?, ?)", map(_row, outcomes))
            cursor.execute("commit")

    def totals(self, experiment: str) -> Mapping[str, Counts]:
        rows = self._file.execute(TOTALS.format(mark="?"), (experiment,))
        return {arm: Counts(outcomes, defects) for arm, outcomes, defects in rows}

    def close(self) -> None:
        self._file.close()


class Postgres:
    def __init__(self, url: str) -> None:
        try:
            import psycopg
        except ModuleNotFoundError:
            raise InputError("outcomes in PostgreSQL need psycopg: pip install 'psycopg[binary]'") from None
        try:
            self._server = psycopg.connect(url, autocommit=True)
            self._server.execute(TABLE)
        except psycopg.Error as error:
            raise InputError(f"cannot keep outcomes in PostgreSQL: {error}") from error

    def add(self, outcomes: Sequence[Outcome]) -> None:
        with self._server.transaction(), self._server.cursor() as cursor:
            statement = "insert into outcomes values (%s, %s, %s, %s) on conflict do nothing"
            cursor.executemany(statement, list(map(_row, outcomes)))

    def totals(self, experiment: str) -> Mapping[str, Counts]:
        rows = self._server.execute(TOTALS.format(mark="%s"), (experiment,))
        return {arm: Counts(int(outcomes), int(defects)) for arm, outcomes, defects in rows}

    def close(self) -> None:
        self._server.close()


def database(where: str) -> Database:
    """Of a file, or of a `postgresql://` URL; raises InputError where it cannot be opened."""
    return Postgres(where) if where.startswith(("postgresql://", "postgres://")) else Sqlite(where)


class Outcomes:
    """A database with a thread of its own: posts that come together are written together."""

    def __init__(self, where: str | Path) -> None:
        self._database = database(str(where))
        self._asked: queue.SimpleQueue[tuple[Any, Future[Any]] | None] = queue.SimpleQueue()
        self._thread = Thread(target=self._run, name="prunetime-outcomes", daemon=True)
        self._thread.start()

    def add(self, outcomes: Sequence[Outcome]) -> Future[None]:
        """Done once they are on the disk."""
        return self._ask(list(outcomes))

    def totals(self, experiment: str) -> Future[Mapping[str, Counts]]:
        """Of all that was added before."""
        return self._ask(lambda: self._database.totals(experiment))

    def close(self) -> None:
        """Once everything that was asked is done."""
        self._asked.put(None)
        self._thread.join()
        self._database.close()

    def _ask(self, what: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._asked.put((what, future))
        return future

    def _run(self) -> None:
        over = False
        while not over:
            asked = [self._asked.get()]
            while len(asked) < MOST_AT_ONCE and not self._asked.empty():
                asked.append(self._asked.get())
            over = None in asked
            jobs = [job for job in asked if job is not None]
            added = [(what, future) for what, future in jobs if isinstance(what, list)]
            _done([future for _, future in added], partial(self._write, added))
            for what, future in jobs:
                if not isinstance(what, list):
                    _done([future], what)

    def _write(self, added: Sequence[tuple[list[Outcome], Future[Any]]]) -> None:
        if added:
            self._database.add([outcome for outcomes, _ in added for outcome in outcomes])


def _done(futures: Sequence[Future[Any]], work: Callable[[], Any]) -> None:
    try:
        found = work()
    except Exception as error:  # of whatever database: whoever asked hears of it
        for future in futures:
            future.set_exception(error)
    else:
        for future in futures:
            future.set_result(found)


def _row(outcome: Outcome) -> tuple[Any, ...]:
    experiment, id_, arm, defect = astuple(outcome)
    return experiment, id_, arm, int(defect)
