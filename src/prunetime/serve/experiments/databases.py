"""The databases of experiments' outcomes: a SQLite file, or PostgreSQL.

There are two tables: `outcomes` has every outcome by its id, so that one that is posted again is recognised, and
`outcome_keys` has the numbers of outcomes and defects of each key in an arm, which a report sums. A database of an
older version has the first table only: its outcomes have no key, and each becomes a key of its own.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from prunetime.errors import InputError, PrunetimeError
from prunetime.serve.experiments.sequential import KeySums

LOG = logging.getLogger(__name__)

BUSY_SECONDS = 5.0
"""The seconds to wait for another process that writes, and for PostgreSQL to accept a connection."""

LAYOUT_LOCK = 0x70727565
"""The advisory lock of PostgreSQL under which processes that start together create the tables in turn."""

OUTCOMES = """create table if not exists outcomes (
    experiment text not null, id text not null, arm text not null, defect integer not null, primary key (experiment, id)
)"""

KEYS = """create table outcome_keys (
    experiment text not null, arm text not null, key text not null, outcomes bigint not null, defects bigint not null,
    primary key (experiment, arm, key)
)"""

OLD_OUTCOMES = "insert into outcome_keys select experiment, arm, id, 1, defect from outcomes"

ADD_TO_KEY = """insert into outcome_keys values ({mark}, {mark}, {mark}, {mark}, {mark})
on conflict (experiment, arm, key) do update
set outcomes = outcome_keys.outcomes + excluded.outcomes, defects = outcome_keys.defects + excluded.defects"""

SUMS = """select arm, count(*), sum(outcomes), sum(defects), sum(outcomes * outcomes), sum(outcomes * defects),
    sum(defects * defects)
from outcome_keys where experiment = {mark} group by arm"""


class DatabaseError(PrunetimeError):
    """Outcomes cannot be written or read now."""


@dataclass(frozen=True)
class StoredOutcome:
    """An outcome in the arm of its `key`. An `id` that is posted again counts once."""

    experiment: str
    id: str
    arm: str
    key: str
    defect: bool


class Database(Protocol):
    """An open database, used by one thread. Once a call has raised DatabaseError it is to be closed."""

    def add(self, outcomes: Sequence[StoredOutcome]) -> None:
        """Adds the outcomes whose ids are new; they are on disk when it returns."""
        ...

    def sums(self, experiment: str) -> Mapping[str, KeySums]:
        """The sums over the keys of each arm that has any, by the arm's name."""
        ...

    def close(self) -> None: ...


def database(where: str) -> Database:
    """Opens a file, or a `postgresql://` URL. Raises InputError where it cannot be opened at all."""
    try:
        return opened(where)
    except DatabaseError as error:
        raise InputError(f"cannot keep outcomes in {error}; give another place with --outcomes") from error


def opened(where: str) -> Database:
    """Opens a file, or a `postgresql://` URL. Raises DatabaseError where it cannot be opened now."""
    return Postgres(where) if where.startswith(("postgresql://", "postgres://")) else Sqlite(where)


class Sqlite:
    """A SQLite file, created where there is none."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        with self._failing():
            self._connection = sqlite3.connect(path, BUSY_SECONDS, check_same_thread=False, isolation_level=None)
        try:
            with self._failing():
                self._file = self._path.stat()
                self._use_write_ahead_log()
                self._connection.execute("pragma synchronous = full")
                with self._transaction():
                    self._make_tables()
        except DatabaseError:
            self._connection.close()
            raise

    def add(self, outcomes: Sequence[StoredOutcome]) -> None:
        with self._failing(), self._transaction():
            self._check_file()
            new = [each for each in outcomes if self._insert(each)]
            self._connection.executemany(ADD_TO_KEY.format(mark="?"), _by_key(new))

    def sums(self, experiment: str) -> Mapping[str, KeySums]:
        with self._failing():
            self._check_file()
            return _sums(self._connection.execute(SUMS.format(mark="?"), (experiment,)))

    def close(self) -> None:
        self._connection.close()

    def _insert(self, outcome: StoredOutcome) -> bool:
        """Inserts an outcome, and returns whether it is new."""
        row = (outcome.experiment, outcome.id, outcome.arm, int(outcome.defect))
        return self._connection.execute("insert or ignore into outcomes values (?, ?, ?, ?)", row).rowcount == 1

    def _use_write_ahead_log(self) -> None:
        """Waits for its turn itself: SQLite refuses this at once where another process has the file."""
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                self._connection.execute("pragma journal_mode = wal")
                return
            except sqlite3.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def _make_tables(self) -> None:
        self._connection.execute(OUTCOMES)
        if not self._connection.execute("select 1 from sqlite_master where name = 'outcome_keys'").fetchone():
            self._connection.execute(KEYS)
            _say_old(self._connection.execute(OLD_OUTCOMES).rowcount, str(self._path))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("begin immediate")
        try:
            yield
            self._connection.execute("commit")
        except BaseException:
            if self._connection.in_transaction:  # SQLite ends it itself after some errors
                self._connection.execute("rollback")
            raise

    def _check_file(self) -> None:
        """Raises where the opened file has been moved or removed: SQLite would go on writing to it unseen."""
        if not os.path.samestat(self._path.stat(), self._file):
            raise DatabaseError(f"{self._path}: another file has taken its place")

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Turns errors of SQLite and the disk into DatabaseError."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise DatabaseError(f"{self._path}: {error}") from error


class Postgres:
    """A PostgreSQL database over one connection."""

    def __init__(self, url: str) -> None:
        try:
            import psycopg
        except ModuleNotFoundError:
            raise InputError("outcomes in PostgreSQL need psycopg: pip install 'psycopg[binary]'") from None
        self._error = psycopg.Error
        with self._failing():
            asked = psycopg.conninfo.conninfo_to_dict(url)
            patience = {} if "connect_timeout" in asked else {"connect_timeout": int(BUSY_SECONDS)}
            self._server = psycopg.connect(url, autocommit=True, **patience)  # type: ignore[arg-type]  # libpq knows the name
        try:
            with self._failing(), self._server.transaction():
                self._make_tables()
        except DatabaseError:
            self._server.close()
            raise

    def add(self, outcomes: Sequence[StoredOutcome]) -> None:
        # In one order in every process: two that wait for each other would be a deadlock.
        ordered = sorted({(each.experiment, each.id): each for each in reversed(outcomes)}.items())
        columns = zip(*((each.experiment, each.id, each.arm, int(each.defect)) for _, each in ordered), strict=True)
        statement = """insert into outcomes select * from unnest(%s::text[], %s::text[], %s::text[], %s::integer[])
            on conflict do nothing returning experiment, id"""
        with self._failing(), self._server.transaction(), self._server.cursor() as cursor:
            new = set(cursor.execute(statement, [list(column) for column in columns]).fetchall()) if ordered else set()
            cursor.executemany(ADD_TO_KEY.format(mark="%s"), _by_key(each for key, each in ordered if key in new))

    def sums(self, experiment: str) -> Mapping[str, KeySums]:
        with self._failing():
            return _sums(self._server.execute(SUMS.format(mark="%s"), (experiment,)))

    def close(self) -> None:
        self._server.close()

    def _make_tables(self) -> None:
        self._server.execute("select pg_advisory_xact_lock(%s)", (LAYOUT_LOCK,))
        self._server.execute(OUTCOMES)
        if self._server.execute("select to_regclass('outcome_keys')").fetchone() == (None,):
            self._server.execute(KEYS)
            _say_old(self._server.execute(OLD_OUTCOMES).rowcount, "PostgreSQL")

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except self._error as error:
            raise DatabaseError(f"PostgreSQL: {str(error).strip()}") from error


def _by_key(outcomes: Iterable[StoredOutcome]) -> list[tuple[Any, ...]]:
    """The rows to add to `outcome_keys`, in order."""
    found: dict[tuple[str, str, str], list[int]] = {}
    for each in outcomes:
        row = found.setdefault((each.experiment, each.arm, each.key), [0, 0])
        row[0] += 1
        row[1] += each.defect
    return [(*key, *row) for key, row in sorted(found.items())]


def _sums(rows: Iterable[Sequence[Any]]) -> Mapping[str, KeySums]:
    return {arm: KeySums.read([float(number) for number in numbers]) for arm, *numbers in rows}


def _say_old(count: int, where: str) -> None:
    if count:
        LOG.warning("%s: %d outcomes of an older version have no key: each counts as a key of its own", where, count)
