"""Several processes behind one port: what is done is done in all of them, and what is counted adds up."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

from served import CONFIG, Served, stopped_while_asked, together
from waiting import eventually

from prunetime import load

Serve = Callable[..., Served]
PAIR = ["red sofa", "a sofa with red legs"]
MANY = ("--processes", "3")


def scores(served: Served, times: int = 40) -> set[float]:
    """Of one pair, asked over so many connections."""
    found = set()
    for _ in range(times):
        answer = served.post("/predict", {"inputs": PAIR}).json
        found.add(next(round(each["score"], 5) for each in answer if each["label"] == "good"))
    return found


def expected(folder: Path) -> float:
    return round(float(load(folder).score([tuple(PAIR)])[0]), 5)


def workers(served: Served) -> list[int]:
    children = Path(f"/proc/{served.process.pid}/task/{served.process.pid}/children").read_text()
    return [int(pid) for pid in children.split()]


def answering(served: Served) -> set[int]:
    """Processes that have answered by now."""
    return {json.loads(line)["process"] for line in served.said.splitlines() if line.startswith("{")}


def counted(served: Served, name: str) -> float:
    lines = served.get("/metrics").body.decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def test_a_load_is_acknowledged_when_all_have_swapped(serve: Serve, root: Path) -> None:
    served = serve(root / "pairs", "--model-root", root, *MANY)
    assert "with 3 processes" in served.said
    assert scores(served) == {expected(root / "pairs")}
    for artifact in ("other", "pairs", "other"):
        answer = served.post("/v2/repository/models/pairs/load", {"artifact": artifact})
        assert answer.status == 200
        assert scores(served, 20) == {expected(root / artifact)}
    assert answer.json["version"] == "4"
    assert answering(served) == set(workers(served))
    kept = served.post("/v2/repository/models/pairs/load", {"artifact": "pairs", "keep": True}).json
    assert kept["version"] == "5"
    assert served.post("/v2/repository/models/pairs/unload", {"version": "5"}).status == 200
    assert scores(served, 20) == {expected(root / "other")}
    assert served.post("/v2/repository/models/none/unload", {}).status == 404


def test_what_one_cannot_load_none_does(serve: Serve, root: Path) -> None:
    served = serve(root / "pairs", "--model-root", root, *MANY)
    weights = root / "other" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    answer = served.post("/v2/repository/models/pairs/load", {"artifact": "other"})
    assert (answer.status, answer.json["error_type"]) == (422, "unusable")
    assert answer.json["error"].startswith("other: ")
    assert served.post("/v2/repository/models/pairs/load", {"artifact": "/etc"}).status == 403
    assert scores(served) == {expected(root / "pairs")}
    answer = served.post("/v2/repository/models/pairs/load", {"artifact": "pairs"})
    assert answer.json["version"] == "2"


def test_swaps_at_the_same_time_come_one_after_the_other(serve: Serve, root: Path) -> None:
    served = serve(root / "pairs", "--model-root", root, *MANY)
    versions: list[str] = []

    def swap() -> None:
        versions.append(served.post("/v2/repository/models/pairs/load", {"artifact": "other"}).json["version"])

    together(5, swap)
    assert sorted(versions) == ["2", "3", "4", "5", "6"]


def test_counters_are_of_all_and_stay_when_one_is_killed(serve: Serve, root: Path) -> None:
    served = serve(root / "pairs", "--model-root", root, *MANY)
    scores(served, 30)
    for _ in range(5):
        assert counted(served, 'prunetime_requests_total{route="/predict"') == 30.0
    assert "\nprunetime_queued_tokens 0.0\n" in served.get("/metrics").body.decode()
    served.post("/v2/repository/models/pairs/load", {"artifact": "other"})
    before = workers(served)
    os.kill(before[0], signal.SIGKILL)
    eventually(lambda: len(workers(served)) == 3 and before[0] not in workers(served))
    assert f"process {before[0]} has ended with -9" in served.said
    assert counted(served, 'prunetime_requests_total{route="/predict"') == 30.0
    (new,) = set(workers(served)) - set(before)

    def used() -> bool:
        assert scores(served, 10) == {expected(root / "other")}  # not what it was started with first
        return new in answering(served)

    eventually(used)
    assert served.post("/v2/repository/models/pairs/load", {"artifact": "pairs"}).json["version"] == "3"
    assert scores(served) == {expected(root / "pairs")}


def test_a_process_that_cannot_come_again_is_tried_again(serve: Serve, root: Path) -> None:
    served = serve(root / "pairs", "--processes", "2")
    (root / "pairs").rename(root / "away")
    os.kill(workers(served)[0], signal.SIGKILL)
    eventually(lambda: "it cannot start; the next try is in" in served.said)
    assert scores(served) == {expected(root / "away")}
    (root / "away").rename(root / "pairs")
    eventually(lambda: len(workers(served)) == 2)


def test_one_that_takes_the_place_of_another_has_its_default_model_and_folders(serve: Serve, root: Path) -> None:
    served, path = serve(root / "pairs", root / "topics", "--processes", "2"), "/v2/repository/models/pairs"
    assert served.post("/predict", {"inputs": PAIR}).headers["x-prunetime-model"] == "pairs/1"
    served.post(f"{path}/load", {"keep": True})
    assert 'model="pairs/2"' in served.get("/metrics").body.decode()
    served.post(f"{path}/unload", {})
    before = workers(served)
    os.kill(before[0], signal.SIGKILL)
    eventually(lambda: len(workers(served)) == 2 and before[0] not in workers(served))
    eventually(lambda: served.get("/v2/health/ready").status == 200)
    for _ in range(10):
        answer = served.post("/predict", {"inputs": PAIR})
        assert (answer.status, "are for pairs, which is not loaded" in answer.json["error"]) == (404, True)
    assert 'model="pairs/' not in served.get("/metrics").body.decode()
    assert served.post(f"{path}/load", {}).status == 200
    for _ in range(10):
        assert served.post("/predict", {"inputs": PAIR}).headers["x-prunetime-model"] == "pairs/1"


def test_hangup_reads_models_and_keys_again_in_all(serve: Serve, root: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("old\n")
    served = serve(root / "pairs", "--key-file", keys, *MANY)
    keys.write_text("new\n")
    served.signal(signal.SIGHUP)
    eventually(lambda: "reloaded; serving pairs/2" in served.said)
    for _ in range(30):
        assert served.post("/predict", {"inputs": PAIR}, authorization="Bearer old").status == 401
        assert served.post("/predict", {"inputs": PAIR}, authorization="Bearer new").status == 200
    keys.write_text("")
    os.kill(workers(served)[0], signal.SIGHUP)  # asked of one, it is done in all
    eventually(lambda: "reloaded; serving pairs/3" in served.said)
    assert "has no key" in served.said
    assert served.post("/predict", {"inputs": PAIR}, authorization="Bearer new").status == 200


def test_a_stop_answers_what_was_taken_on(serve: Serve, root: Path) -> None:
    served = serve(root / "pairs", "--queue-tokens", "300000", *MANY)
    pids = workers(served)
    code, _, answers = stopped_while_asked(served, 6, 500)
    assert code == 0
    assert set(answers) == {(200, 500)}
    assert not any(alive(pid) for pid in pids)


def test_without_a_supervisor_processes_end(serve: Serve, root: Path) -> None:
    served = serve(root / "pairs", *MANY)
    pids = workers(served)
    served.signal(signal.SIGKILL)
    eventually(lambda: not any(alive(pid) for pid in pids))


def test_what_cannot_be_served_is_said_at_once(serve: Serve, root: Path) -> None:
    for words, says in (
        ((root / "missing",), "missing"),
        ((root / "pairs", "--host", "256.0.0.1"), "for this machine"),
    ):
        code, said = serve(*words, *MANY).stop()
        assert code == 2
        assert says in said
        assert "Traceback" not in said


def test_limits_are_of_all_together(serve: Serve, root: Path) -> None:
    served = serve(root / "pairs", "--queue-tokens", "3000", "--batch-tokens", "64", *MANY)
    refused: list[int] = []

    def ask() -> None:
        answer = served.post("/predict", {"inputs": [["red sofa", "lamp " * 20]] * 40})
        if answer.status == 429:
            found = re.search(r"limit of (\d+)", answer.json["error"])
            assert found
            refused.append(int(found.group(1)))

    def some_are_refused() -> bool:
        together(30, ask)
        return bool(refused)

    eventually(some_are_refused)
    assert set(refused) == {1000}


def test_outcomes_are_of_all(serve: Serve, root: Path, tmp_path: Path) -> None:
    config = tmp_path / "experiments.toml"
    config.write_text(CONFIG)
    store = tmp_path / "outcomes.sqlite"
    served = serve(root / "pairs", root / "other", "--experiment", config, "--outcomes", store, *MANY)
    for number in range(30):
        posted = [{"key": f"user {number}", "id": str(number), "defect": number % 3 == 0}]
        assert served.post("/experiments/ads/outcomes", {"outcomes": posted}).status == 200
    for _ in range(5):
        arms = served.get("/experiments/ads").json["arms"]
        assert sum(arm["outcomes"] for arm in arms) == 30
        assert sum(arm["defects"] for arm in arms) == 10
    assert len(answering(served)) > 1
