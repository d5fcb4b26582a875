"""Outcomes in their databases: each counts once, by key, whoever writes; what fails is refused, and works again."""

from __future__ import annotations

import asyncio
import logging
import resource
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from served import ADS, CONFIG, Reply, Served
from waiting import PATIENCE, eventually

from prunetime.errors import InputError
from prunetime.serve.errors import RefusedError
from prunetime.serve.experiments import databases, experiment, outcomes
from prunetime.serve.experiments.databases import StoredOutcome
from prunetime.serve.experiments.experiment import Experiments, PostedOutcome
from prunetime.serve.experiments.outcomes import Outcomes, UnavailableError
from prunetime.serve.experiments.sequential import KeySums

Serve = Callable[..., Served]

OLD_TABLE = """create table outcomes (
    experiment text not null, id text not null, arm text not null, defect integer not null, primary key (experiment, id)
)"""


def made(numbers: range, name: str = "") -> list[StoredOutcome]:
    """Outcomes of seven keys, each in one of two arms; every third is a defect."""
    return [StoredOutcome("e", f"{name}{n}", "ab"[n % 7 % 2], f"key {n % 7}", n % 3 == 0) for n in numbers]


def sums_of(outcomes: list[StoredOutcome]) -> dict[str, KeySums]:
    """The sums of outcomes, each once, counted here."""
    counts, defects = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for each in {each.id: each for each in outcomes}.values():
        counts[each.arm, each.key] += 1
        defects[each.arm, each.key] += each.defect
    return {
        arm: KeySums.of(*zip(*[(counts[key], defects[key]) for key in counts if key[0] == arm], strict=True))
        for arm in {arm for arm, _ in counts}
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outcomes.sqlite"


def test_outcomes_are_summed_by_key_and_each_counts_once(path: Path) -> None:
    with closing(Outcomes(path)) as kept:
        for part in (made(range(40)), made(range(20, 70)), made(range(5)) * 2):
            kept.add(part).result()
        assert kept.sums("e").result() == sums_of(made(range(70)))
        assert kept.sums("other").result() == {}
    with closing(Outcomes(path)) as kept:  # and they are there the next time
        assert kept.sums("e").result() == sums_of(made(range(70)))


def test_two_processes_keep_outcomes_in_one_file(path: Path) -> None:
    code = (
        "import sys; from prunetime.serve.experiments.outcomes import Outcomes;"
        "from prunetime.serve.experiments.databases import StoredOutcome as O;"
        "kept, name = Outcomes(sys.argv[1]), sys.argv[2];"
        "made = lambda n: O('e', f'{name}{n}', 'ab'[n % 7 % 2], f'key {n % 7}', n % 3 == 0);"
        "[kept.add([made(n)]).result() for n in range(100)]; kept.close()"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in "xy"]
    assert [writer.wait(PATIENCE) for writer in writers] == [0, 0]
    with closing(Outcomes(path)) as kept:
        assert kept.sums("e").result() == sums_of(made(range(100), "x") + made(range(100), "y"))


def test_a_new_file_that_another_process_is_making_is_waited_for(path: Path) -> None:
    """SQLite refuses to go to a write-ahead log at once where a file is locked, whatever its timeout is."""
    with closing(sqlite3.connect(path, check_same_thread=False, isolation_level=None)) as other:
        other.execute("begin immediate")
        other.execute("create table notes (text)")
        done = threading.Timer(0.2, other.execute, ["commit"])
        done.start()
        with closing(Outcomes(path)) as kept:
            done.join()
            assert kept.sums("e").result() == {}


def test_a_database_of_an_older_version_is_read(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its outcomes have no key: each counts as a key of its own, once."""
    caplog.set_level(logging.WARNING)
    with closing(sqlite3.connect(path)) as old:
        old.execute(OLD_TABLE)
        old.executemany(
            "insert into outcomes values ('e', ?, ?, ?)", [(str(n), "ab"[n % 2], n % 5 == 0) for n in range(50)]
        )
        old.commit()
    expected = {arm: KeySums.of([1] * 25, [n % 5 == 0 for n in range(start, 50, 2)]) for start, arm in enumerate("ab")}
    for _ in range(2):
        with closing(Outcomes(path)) as kept:
            assert kept.sums("e").result() == expected
            kept.add([StoredOutcome("e", "7", "a", "new", True)]).result()  # known by its id
            assert kept.sums("e").result() == expected
    assert caplog.text.count("50 outcomes of an older version have no key") == 1


def test_a_report_reads_keys_only(path: Path) -> None:
    """However many outcomes a key has, it is one row of what a report reads."""
    with closing(Outcomes(path)) as kept:
        kept.add(made(range(5_000))).result()
        assert kept.sums("e").result() == sums_of(made(range(5_000)))
    with closing(sqlite3.connect(path)) as kept:
        assert kept.execute("select count(*) from outcome_keys").fetchone() == (7,)


def failing(kept: Outcomes, caplog: pytest.LogCaptureFixture, mend: Callable[[], object]) -> None:
    """Asserts that outcomes are refused for now, with one line in the log, and kept again once that is mended."""
    caplog.set_level(logging.WARNING)
    for _ in range(3):
        with pytest.raises(UnavailableError):
            kept.add(made(range(100, 200))).result()
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    mend()
    kept.add(made(range(100, 200))).result()
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert "kept again" in caplog.text


def test_a_lock_of_another_process_passes(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "BUSY_SECONDS", 0.05)
    with closing(Outcomes(path)) as kept, closing(sqlite3.connect(path, isolation_level=None)) as other:
        kept.add(made(range(100))).result()
        other.execute("begin immediate")
        failing(kept, caplog, lambda: other.execute("rollback"))
        assert kept.sums("e").result() == sums_of(made(range(200)))


def test_a_file_that_is_taken_away_is_noticed(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """SQLite itself would write on into the file without a name, and what it acknowledges would be lost."""
    caplog.set_level(logging.WARNING)
    with closing(Outcomes(path)) as kept:
        kept.add(made(range(100))).result()
        away = path.with_suffix(".away")
        path.rename(away)
        with pytest.raises(UnavailableError, match="No such file"):
            kept.add(made(range(100, 200))).result()
        away.rename(path)
        kept.add(made(range(100, 200))).result()
        assert kept.sums("e").result() == sums_of(made(range(200)))
        path.unlink()
        with pytest.raises(UnavailableError):
            kept.sums("e").result()
        kept.add(made(range(10))).result()
        assert kept.sums("e").result() == sums_of(made(range(10)))
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"] * 2


def test_a_table_that_is_gone_is_made_again(path: Path) -> None:
    with closing(Outcomes(path)) as kept:
        with closing(sqlite3.connect(path)) as other:
            other.execute("drop table outcomes")
            other.execute("drop table outcome_keys")
        with pytest.raises(UnavailableError, match="no such table"):
            kept.add(made(range(10))).result()
        kept.add(made(range(10))).result()
        assert kept.sums("e").result() == sums_of(made(range(10)))


def test_a_place_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot keep outcomes in .*missing.*--outcomes"):
        Outcomes(tmp_path / "missing" / "outcomes.sqlite")
    (tmp_path / "text").write_text("no database, and longer than the header of one would be" * 10)
    with pytest.raises(InputError, match=r"cannot keep outcomes in .*not a database"):
        Outcomes(tmp_path / "text")


def test_who_gives_up_waiting_harms_nobody(path: Path) -> None:
    with closing(Outcomes(path)) as kept, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("begin immediate")
        given_up, waiting = kept.add(made(range(10))), kept.add(made(range(5, 20)))
        eventually(lambda: kept._asked.empty())
        assert given_up.cancel()
        other.execute("rollback")
        waiting.result()
        assert set(kept.sums("e").result()) == {"a", "b"}


def test_a_database_that_does_not_answer_holds_up_nobody(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits is told to come again, and no more than so many may wait."""
    monkeypatch.setattr(experiment, "ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(outcomes, "MAX_WAITING", 3)
    with closing(Outcomes(path)) as kept, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("begin immediate")
        posted = [PostedOutcome("user", "1", False)]
        with pytest.raises(RefusedError) as refused:
            asyncio.run(Experiments({"ads": ADS}, kept).add("ads", posted))
        assert (refused.value.code, refused.value.retry_after) == ("unavailable", 1.0)
        eventually(lambda: kept._asked.empty())
        waiting = [kept.sums("ads") for _ in range(5)]
        with pytest.raises(UnavailableError, match="3 posts of outcomes wait"):
            waiting[-1].result()
        other.execute("rollback")
        assert sum(int(arm.outcomes) for arm in waiting[0].result().values()) == 1


@pytest.fixture
def served(serve: Serve, artifacts: Path, tmp_path: Path, path: Path) -> Served:
    config = tmp_path / "experiments.toml"
    config.write_text(CONFIG)
    return serve(artifacts / "pairs", artifacts / "other", "--experiment", config, "--outcomes", path)


def test_a_full_disk_is_said_and_passes(served: Served) -> None:
    """No file of the server may grow beyond some size, which SQLite takes as it takes a full disk; later it may."""

    def post(count: int) -> Reply:
        rows = [{"key": f"user {n} {'k' * 400}", "id": str(n), "defect": n % 4 == 0} for n in range(count)]
        return served.post("/experiments/ads/outcomes", {"outcomes": rows})

    def kept() -> int:
        return sum(arm["outcomes"] for arm in served.get("/experiments/ads").json["arms"])

    assert post(10).status == 200
    _, hard = resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, (100_000, hard))
    for _ in range(2):
        refused = post(500)
        assert (refused.status, refused.json["error_type"], refused.headers["retry-after"]) == (503, "unavailable", "1")
        assert "outcomes.sqlite" not in refused.json["error"]  # where it is is for the log
    assert served.get("/v2/health/live").status == 200
    resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
    assert kept() == 10
    assert post(500).status == 200
    assert kept() == 500
    said = [line for line in served.said.splitlines() if "outcomes of experiments" in line]
    assert len(said) == 2
    assert "outcomes.sqlite" in said[0]
    assert "kept again" in said[1]
    assert "Traceback" not in served.said


@pytest.mark.system
def test_postgresql_keeps_outcomes_as_well(postgresql: str, caplog: pytest.LogCaptureFixture) -> None:
    import psycopg

    caplog.set_level(logging.WARNING)
    url = postgresql.replace("+psycopg", "")
    with psycopg.connect(url, autocommit=True) as old:
        old.execute(OLD_TABLE)
        old.execute("insert into outcomes values ('old', '1', 'a', 1), ('old', '2', 'a', 0)")
    with closing(Outcomes(url)) as first, closing(Outcomes(url)) as second:
        assert first.sums("old").result() == {"a": KeySums.of([1, 1], [1, 0])}
        assert caplog.text.count("2 outcomes of an older version have no key") == 1
        caplog.clear()
        added = [first.add([outcome]) for outcome in made(range(60))] + [second.add(made(range(30, 90))[::-1])]
        for each in added:
            each.result()
        assert first.sums("e").result() == second.sums("e").result() == sums_of(made(range(90)))
        assert second.sums("other").result() == {}
        with psycopg.connect(url, autocommit=True) as admin:
            admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()")
        for kept in (first, second):
            with pytest.raises(UnavailableError, match="PostgreSQL"):
                kept.sums("e").result()
            assert kept.sums("e").result() == sums_of(made(range(90)))
        assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"] * 2
    with pytest.raises(InputError, match="cannot keep outcomes in PostgreSQL"):
        Outcomes("postgresql://nobody@127.0.0.1:1/none")


def test_sums_are_exact(path: Path) -> None:
    rng = np.random.default_rng(0)
    outcomes = [
        StoredOutcome("e", str(n), "a", str(key), bool(defect))
        for n, (key, defect) in enumerate(zip(rng.integers(0, 300, 3_000), rng.random(3_000) < 0.3, strict=True))
    ]
    with closing(Outcomes(path)) as kept:
        kept.add(outcomes).result()
        assert kept.sums("e").result() == sums_of(outcomes)
