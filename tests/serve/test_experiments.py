"""Who sees which model, what is counted, and that outcomes that were acknowledged are there after a kill."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from served import ADS, CONFIG, Served
from waiting import PATIENCE, eventually

from prunetime import AsyncClient, Client, load
from prunetime.client import Outcome, ServerError
from prunetime.errors import InputError
from prunetime.serve.experiments.experiment import Arm, Experiment, read_experiments, report_of
from prunetime.serve.experiments.sequential import KeySums

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
    assert sum(arm["keys"] for arm in found["arms"]) == 400
    (comparison,) = found["comparisons"]
    low, high = comparison["interval"]
    assert low < comparison["difference"] < high
    assert (comparison["advice"], comparison["progress"]) == ("continue", None)
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
    with closing(sqlite3.connect(tmp_path / "outcomes.sqlite")) as kept:
        ids = {int(id_) for (id_,) in kept.execute("select id from outcomes")}
    assert set(acknowledged) <= ids


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("0.5 }, {", "0.6 }, {"), "add up to 1"),
        (('name = "pruned"', 'name = "dense"'), "of different names"),
        (('model = "other"', 'model = "none"'), "no model 'none' is served"),
        (("margin = 0.01", "margin = -1.0"), "margin -1"),
        (('name = "ads"', 'name = "a/b"'), "'a/b' is no name"),
        (("margin = 0.01", "detect = 0.0"), "detect is 0: give a difference of rates above 0"),
        (("margin = 0.01", "margins = 1.0"), "unknown field `margins`"),
        (("[[experiment]]", f"{CONFIG.replace('ads', 'more')}[[experiment]]"), "two experiments are on pairs"),
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
    arm = KeySums.of([5] * 200, [0, 1, 1, 3] * 50)
    two = report_of(ADS, {"dense": arm, "pruned": arm}).comparisons[0].interval
    for comparison in report_of(three, dict.fromkeys("abc", arm)).comparisons:
        assert comparison.interval[0] < two[0] < two[1] < comparison.interval[1]


def test_a_report_says_how_far_the_plan_is() -> None:
    planned = Experiment("e", "m", ADS.arms, detect=0.1)
    half, whole = (KeySums.of([1] * n, [0, 0, 0, 1] * (n // 4)) for n in (200, 400))
    first, second = (report_of(planned, {"dense": arm, "pruned": arm}).comparisons[0].progress for arm in (half, whole))
    assert second == pytest.approx(2 * first, rel=0.02)
    empty = report_of(planned, {"dense": half})
    assert (empty.arms[1].rate, empty.comparisons[0].difference) == (None, None)
    assert (empty.comparisons[0].interval, empty.comparisons[0].advice) == ((-1.0, 1.0), "continue")


KEYS = ["käthe", "ключ", "鍵 7", "a", "Käthe", "ka\u0308the", "\u00c3\u00a4", "o'brien; drop", "x" * 512]


def test_a_key_is_one_key_in_a_header_and_in_a_body(served: Served) -> None:
    """Whatever writing it is in, as UTF-8 or as latin-1 that is no UTF-8, with blanks around it."""
    for number, key in enumerate(KEYS):
        raw = {key.encode(), b"  " + key.encode() + b" \t"}
        with suppress(UnicodeEncodeError):
            latin = key.encode("latin-1")
            if not is_utf8(latin):
                raw.add(latin)
        arms = set()
        for header in raw:
            answer = served.post("/predict", {"inputs": PAIR}, x_experiment_key=header)
            assert answer.status == 200
            arms.add(answer.headers["x-prunetime-arm"])
        for again, written in enumerate((key, f" {key}\t")):
            before = outcomes_by_arm(served)
            posted = [{"key": written, "id": f"{number} {again}", "defect": False}]
            assert served.post("/experiments/ads/outcomes", {"outcomes": posted}).status == 200
            after = outcomes_by_arm(served)
            arms |= {f"ads/{name}" for name in after if after[name] > before[name]}
        assert len(arms) == 1
    assert sum(arm["keys"] for arm in served.get("/experiments/ads").json["arms"]) == len(KEYS)


def outcomes_by_arm(served: Served) -> dict[str, int]:
    return {arm["name"]: arm["outcomes"] for arm in served.get("/experiments/ads").json["arms"]}


def is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_what_is_no_key_is_refused_by_name(served: Served) -> None:
    for key, says in (("", "is empty"), (" ", "is empty"), ("x" * 513, "513 bytes"), ("ä" * 257, "514 bytes")):
        answer = served.post("/predict", {"inputs": PAIR}, x_experiment_key=key.encode())
        assert (answer.status, answer.json["error_type"]) == (422, "unusable")
        assert answer.json["error"].startswith("x-experiment-key ")
        assert says in answer.json["error"]
    good = {"key": "a", "id": "1", "defect": False}
    for name in ("key", "id"):
        for bad, says in (
            ("", "is empty"),
            ("a\nb", "control character"),
            ("a\0", "control character"),
            ("x" * 513, "513"),
        ):
            answer = served.post("/experiments/ads/outcomes", {"outcomes": [good, good | {name: bad}]})
            assert (answer.status, answer.json["error_type"]) == (422, "unusable")
            assert answer.json["error"].startswith(f"outcomes[1].{name} ")
            assert says in answer.json["error"]
        answer = served.post("/experiments/ads/outcomes", {"outcomes": [good | {"arm": "dense"}]})
        assert answer.status == 422
        assert "unknown field `arm`" in answer.json["error"]
        lone = b'{"outcomes": [{"key": "a", "id": "1", "defect": false, "' + name.encode() + b'": "\\ud800"}]}'
        assert served.post("/experiments/ads/outcomes", lone).status in (400, 422)
    assert sum(outcomes_by_arm(served).values()) == 0


def test_the_clients_send_keys_and_outcomes(served: Served, artifacts: Path) -> None:
    models = {name: load(artifacts / name) for name in ("pairs", "other")}
    keys = ["käthe", "鍵 7", "user 1", "user 2"]
    url = f"http://127.0.0.1:{served.port}"

    async def again() -> tuple[list[object], int, dict[str, object]]:
        async with AsyncClient(url, timeout=PATIENCE) as client:
            scores = [await client.score([tuple(PAIR)], "pairs", experiment_key=key) for key in keys]
            return scores, await client.add_outcomes("ads", outcomes), await client.experiment("ads")

    outcomes = [Outcome(key, f"{key} {n}", n == 0) for key in keys for n in range(3)]
    with Client(url, timeout=PATIENCE) as client:
        scores = []
        for key in keys:
            model = models[ADS.arm_of(key).model]
            scores.append(client.score([tuple(PAIR)], "pairs", experiment_key=key))
            assert scores[-1] == [pytest.approx(float(model.score([tuple(PAIR)])[0]))]
            ranked = client.rank(PAIR[0], PAIR[1:], model="pairs", experiment_key=key)
            assert ranked[0]["score"] == pytest.approx(scores[-1][0])
        assert client.add_outcomes("ads", outcomes) == 12
        report = client.experiment("ads")
        with pytest.raises(ServerError, match="no experiment 'käthe'"):
            client.experiment("käthe")
    assert asyncio.run(again()) == (scores, 12, report)
    of_arms = {arm["name"]: (arm["keys"], arm["outcomes"], arm["defects"]) for arm in report["arms"]}
    for arm in ADS.arms:
        mine = sum(ADS.arm_of(key) is arm for key in keys)
        assert of_arms[arm.name] == (mine, 3 * mine, mine)


def test_the_arm_of_an_answer_is_named_in_utf8(serve: Serve, artifacts: Path, tmp_path: Path) -> None:
    config = tmp_path / "experiments.toml"
    config.write_text(CONFIG.replace('"dense"', '"плотный"').replace('"pruned"', '"é"').replace('"ads"', '"ü"'))
    served = serve(artifacts / "pairs", artifacts / "other", "--experiment", config, "--outcomes", tmp_path / "kept")
    found = set()
    for n in range(8):
        answer = served.post("/predict", {"inputs": PAIR}, x_experiment_key=str(n))
        found.add(answer.headers["x-prunetime-arm"].encode("latin-1").decode())
    assert found == {"ü/плотный", "ü/é"}
    assert served.get("/experiments/%C3%BC").json["name"] == "ü"
