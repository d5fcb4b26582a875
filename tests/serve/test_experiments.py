"""Who sees which model, what is counted, and that outcomes that were acknowledged are there after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from served import ADS, CONFIG, Served
from waiting import PATIENCE, eventually

from prunetime import load
from prunetime.errors import InputError
from prunetime.serve.experiments import Arm, Experiment, read_experiments, report_of
from prunetime.serve.outcomes import Outcome, Outcomes, database
from prunetime.serve.sequential import Counts

Serve = Callable[..., Served]
PAIR = ["red sofa", "a sofa with red legs"]


@given(st.lists(st.floats(0.05, 1), min_size=2, max_size=4), st.integers(0, 1000))
def test_keys_are_split_in_the_shares_and_stay(shares: list[float], salt: int) -> None:
    arms = [Arm(str(i), "m", share / sum(shares)) for i, share in enumerate(shares)]
    experiment = Experiment("e", "m", arms, salt=str(salt))
    found = [experiment.arm_of(f"user {n}").name for n in range(2000)]
    assert found == [experiment.arm_of(f"user {n}").name for n in range(2000)]
    for arm in arms:
        assert found.count(arm.name) / 2000 == pytest.approx(arm.share, abs=0.06)


def test_experiments_are_split_apart_from_each_other() -> None:
    other = Experiment("other", "pairs", ADS.arms)
    both = [(ADS.arm_of(str(n)).name, other.arm_of(str(n)).name) for n in range(4000)]
    for pair in {("dense", "dense"), ("dense", "pruned"), ("pruned", "dense"), ("pruned", "pruned")}:
        assert both.count(pair) / 4000 == pytest.approx(0.25, abs=0.03)


@pytest.fixture
def served(serve: Serve, artifacts: Path, tmp_path: Path) -> Served:
    config = tmp_path / "experiments.toml"
    config.write_text(CONFIG)
    words = ("--experiment", config, "--outcomes", tmp_path / "outcomes.sqlite")
    return serve(artifacts / "pairs", artifacts / "other", *words)


def test_a_key_gets_the_model_of_its_arm(served: Served, artifacts: Path) -> None:
    expected = {name: load(artifacts / name).score([tuple(PAIR)])[0] for name in ("pairs", "other")}
    for n in range(8):
        arm = ADS.arm_of(f"user {n}")
        answer = served.post("/predict", {"inputs": PAIR}, x_experiment_key=f"user {n}")
        assert answer.headers["x-prunetime-arm"] == f"ads/{arm.name}"
        assert answer.headers["x-prunetime-model"] == f"{arm.model}/1"
        good = next(each["score"] for each in answer.json if each["label"] == "good")
        assert good == pytest.approx(expected[arm.model])
    answer = served.post("/predict", {"inputs": PAIR})
    assert "x-prunetime-arm" not in answer.headers
    assert answer.headers["x-prunetime-model"] == "pairs/1"

    def text() -> str:
        return served.get("/metrics").body.decode()

    eventually(lambda: 'prunetime_arm_seconds_count{arm="ads/shadow:other"} 8.0' in text())
    assert 'prunetime_arm_score_count{arm="ads/dense"}' in text()


def test_outcomes_become_a_report(served: Served) -> None:
    outcomes = [{"key": f"user {n}", "id": str(n), "defect": n % 4 == 0} for n in range(400)]
    for _ in range(2):  # posted again, they count once
        assert served.post("/experiments/ads/outcomes", {"outcomes": outcomes}).json == {"accepted": 400}
    found = served.get("/experiments/ads").json
    assert sum(arm["outcomes"] for arm in found["arms"]) == 400
    assert sum(arm["defects"] for arm in found["arms"]) == 100
    (comparison,) = found["comparisons"]
    low, high = comparison["interval"]
    assert low < comparison["difference"] < high
    assert comparison["advice"] == "continue"
    for answer in (served.get("/experiments/none"), served.post("/experiments/none/outcomes", {"outcomes": []})):
        assert (answer.status, answer.json["error_type"]) == (404, "not_found")


def test_every_acknowledged_outcome_survives_a_kill(served: Served, tmp_path: Path) -> None:
    acknowledged: list[int] = []

    def post(worker: int) -> None:
        for n in range(10_000):
            id_ = worker * 100_000 + n
            try:
                posted = {"outcomes": [{"key": str(id_), "id": str(id_), "defect": False}]}
                if served.post("/experiments/ads/outcomes", posted).status == 200:
                    acknowledged.append(id_)
            except OSError:
                return
            except Exception:  # half an answer
                return

    posters = [threading.Thread(target=post, args=(worker,)) for worker in range(3)]
    for poster in posters:
        poster.start()
    eventually(lambda: len(acknowledged) > 100)
    os.kill(served.process.pid, signal.SIGKILL)
    for poster in posters:
        poster.join()
    kept = database(str(tmp_path / "outcomes.sqlite"))
    ids = {int(row[0]) for row in kept._file.execute("select id from outcomes")}
    assert set(acknowledged) <= ids


def test_two_processes_keep_outcomes_in_one_file(tmp_path: Path) -> None:
    path = tmp_path / "outcomes.sqlite"
    code = (
        "import sys; from prunetime.serve.outcomes import Outcome, Outcomes; kept = Outcomes(sys.argv[1]);"
        "[kept.add([Outcome('e', f'{sys.argv[2]} {n}', 'a', n % 2 == 0)]).result() for n in range(200)]; kept.close()"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in "xy"]
    assert [writer.wait(PATIENCE) for writer in writers] == [0, 0]
    kept = Outcomes(path)
    assert kept.totals("e").result() == {"a": Counts(400, 200)}
    kept.close()


@pytest.mark.system
def test_postgresql_keeps_outcomes_as_well(postgresql: str) -> None:
    url = postgresql.replace("+psycopg", "")
    first, second = Outcomes(url), Outcomes(url)
    added = [first.add([Outcome("e", str(n), "ab"[n % 2], n % 3 == 0)]) for n in range(60)]
    added += [second.add([Outcome("e", str(n), "ab"[n % 2], n % 3 == 0) for n in range(30, 90)])]
    for each in added:
        each.result()
    assert first.totals("e").result() == {"a": Counts(45, 15), "b": Counts(45, 15)}
    assert second.totals("other").result() == {}
    first.close()
    second.close()
    with pytest.raises(InputError, match="cannot keep outcomes in PostgreSQL"):
        Outcomes("postgresql://nobody@127.0.0.1:1/none")


def test_a_database_that_fails_is_heard_of(tmp_path: Path) -> None:
    kept = Outcomes(tmp_path / "outcomes.sqlite")
    kept._database._file.execute("drop table outcomes")
    with pytest.raises(Exception, match="no such table"):
        kept.add([Outcome("e", "1", "a", True)]).result()
    kept.close()
    with pytest.raises(InputError, match="cannot keep outcomes"):
        Outcomes(tmp_path / "missing" / "outcomes.sqlite")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("0.5 }, {", "0.6 }, {"), "add up to 1"),
        (('name = "pruned"', 'name = "dense"'), "of different names"),
        (('model = "other"', 'model = "none"'), "no model 'none' is served"),
        (("margin = 0.01", "margin = -1.0"), "margin -1"),
        (("margin = 0.01", "margins = 1.0"), "unknown field `margins`"),
        (("[[experiment]]", "[[experiments"), "experiments.toml"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(change: tuple[str, str], says: str, tmp_path: Path) -> None:
    path = tmp_path / "experiments.toml"
    path.write_text(CONFIG.replace(*change))

    def check() -> None:
        for experiment in read_experiments(path):
            experiment.check(["pairs", "other"])

    with pytest.raises(InputError, match=says):
        check()


def test_with_several_arms_all_intervals_hold_at_once() -> None:
    three = Experiment("e", "m", [Arm(name, "m", 1 / 3) for name in "abc"])
    totals = {name: Counts(1000, 200) for name in "abc"}
    two = report_of(ADS, {"dense": Counts(1000, 200), "pruned": Counts(1000, 200)}).comparisons[0].interval
    for comparison in report_of(three, totals).comparisons:
        assert comparison.interval[0] < two[0] < two[1] < comparison.interval[1]
