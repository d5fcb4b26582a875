"""Loading, swapping, stopping, and clients that mean harm or leave."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from served import Served, make_artifact, meanwhile, stopped_while_asked, together
from waiting import PATIENCE, eventually

from prunetime import load
from prunetime.serve.app import App
from prunetime.serve.core.models import Entry
from prunetime.serve.errors import RefusedError
from prunetime.serve.keys import Keys
from prunetime.serve.settings import ServeSettings
from prunetime.serve.workers.control import Load, Message, Reload
from prunetime.serve.workers.pool import LocalPool

Serve = Callable[..., Served]
PAGES = [("get", "/"), ("get", "/docs")]
PAIR = ["red sofa", "a sofa with red legs"]


def score(served: Served) -> float:
    return next(each["score"] for each in served.post("/predict", {"inputs": PAIR}).json if each["label"] == "good")


def labels(served: Served) -> list[str]:
    return [f"{each['name']}/{each['version']}" for each in served.post("/v2/repository/index", {"ready": True}).json]


def test_models_are_loaded_swapped_and_unloaded_by_request(serve: Serve, root: Path) -> None:
    served = serve(root / "pairs", "--model-root", root)
    first, second = (load(root / name).score([tuple(PAIR)])[0] for name in ("pairs", "other"))
    assert score(served) == pytest.approx(first)
    path = "/v2/repository/models"
    assert served.post(f"{path}/pairs/load", {"artifact": "other"}).json["version"] == "2"
    assert labels(served) == ["pairs/2"]
    assert score(served) == pytest.approx(second)
    assert served.post(f"{path}/pairs/load", {"artifact": "pairs", "keep": True}).json["version"] == "3"
    assert labels(served) == ["pairs/2", "pairs/3"]
    assert served.post(f"{path}/pairs/unload", {"version": "3"}).status == 200
    assert score(served) == pytest.approx(second)
    assert served.post(f"{path}/topics/load", {"artifact": "topics"}).status == 200
    assert served.post(f"{path}/pairs/unload", {}).status == 200
    assert labels(served) == ["topics/1"]
    assert served.get("/v2/health/ready").status == 200
    served.post(f"{path}/topics/unload", {})
    for path in ("/v2/health/ready", "/health"):
        answer = served.get(path)
        assert (answer.status, answer.json["error_type"]) == (503, "not_ready")


def test_the_first_model_stays_the_one_for_requests_without_a_name(serve: Serve, root: Path) -> None:
    served = serve(root / "pairs", root / "other", "--model-root", root)
    served.post("/v2/repository/models/pairs/load", {"artifact": "pairs", "keep": True})
    served.post("/v2/repository/models/pairs/unload", {"version": "1"})
    assert served.post("/predict", {"inputs": PAIR}).headers["x-prunetime-model"] == "pairs/2"


def test_the_default_model_is_what_the_operator_said_first(serve: Serve, root: Path) -> None:
    served, path = serve(root / "pairs", root / "other", "--model-root", root), "/v2/repository/models"

    def answers() -> tuple[int, str]:
        reply = served.post("/predict", {"inputs": PAIR})
        return reply.status, reply.headers.get("x-prunetime-model") or reply.json["error"]

    assert answers() == (200, "pairs/1")
    served.post(f"{path}/new/load", {"artifact": "topics"})
    served.post(f"{path}/pairs/unload", {})
    status, error = answers()
    assert status == 404
    assert "are for pairs, which is not loaded; there is other, new" in error
    for health in ("/health", "/v2/health/ready"):
        assert served.get(health).status == 200  # there are others
    assert served.post(f"{path}/pairs/load", {}).json["version"] == "1"  # from where it was
    assert labels(served) == ["other/1", "new/1", "pairs/1"]
    assert answers() == (200, "pairs/1")
    assert served.post(f"{path}/never/load", {}).status == 404


def test_loads_and_unloads_at_once_have_one_answer_each(serve: Serve, root: Path) -> None:
    served, path = serve(root / "topics", "--model-root", root), "/v2/repository/models/new"
    turns = iter([("load", {"artifact": "pairs", "keep": True}), ("unload", {})] * 4)
    found: list[tuple[str, int, list[str]]] = []

    def ask() -> None:
        what, content = next(turns)
        reply = served.post(f"{path}/{what}", content)
        states = reply.json if isinstance(reply.json, list) else [reply.json]
        found.append((what, reply.status, [each.get("version") for each in states]))

    together(8, ask)
    assert {status for what, status, _ in found if what == "load"} == {200}
    assert {status for what, status, _ in found if what == "unload"} <= {200, 404}
    gone = [version for what, status, versions in found if (what, status) == ("unload", 200) for version in versions]
    left = [label for label in labels(served) if label.startswith("new/")]
    assert len(gone) + len(left) == 4  # no version was unloaded twice, none was lost
    assert "Traceback" not in served.said


def test_swaps_at_the_same_time_come_one_after_the_other(serve: Serve, root: Path) -> None:
    served = serve(root / "pairs", "--model-root", root)
    statuses: list[int] = []

    def swap() -> None:
        statuses.append(served.post("/v2/repository/models/pairs/load", {"artifact": "other"}).status)

    together(5, swap)
    assert statuses == [200] * 5
    assert labels(served) == ["pairs/6"]


def test_a_bad_artifact_is_refused_and_the_old_one_answers(serve: Serve, root: Path) -> None:
    served = serve(root / "pairs", "--model-root", root)
    before = score(served)
    weights = root / "other" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    answer = served.post("/v2/repository/models/pairs/load", {"artifact": "other"})
    assert (answer.status, answer.json["error_type"]) == (422, "unusable")
    assert answer.json["error"].startswith("other: ")
    assert labels(served) == ["pairs/1"]
    assert score(served) == before


@pytest.mark.parametrize("artifact", ["../outside", "/etc", "link", "pairs/../../outside"])
def test_artifacts_from_outside_the_root_are_refused(serve: Serve, root: Path, artifact: str) -> None:
    make_artifact(root.parent / "outside")
    (root / "link").symlink_to(root.parent / "outside")
    served = serve(root / "pairs", "--model-root", root)
    answer = served.post("/v2/repository/models/new/load", {"artifact": artifact})
    assert (answer.status, answer.json["error_type"]) == (403, "forbidden")
    assert labels(served) == ["pairs/1"]


@pytest.mark.parametrize("name", ["..", "%2e%2e", "a%20b", "x" * 65, ".hidden"])
def test_names_that_are_paths_are_refused(serve: Serve, root: Path, name: str) -> None:
    served = serve(root / "pairs", "--model-root", root)
    answer = served.post(f"/v2/repository/models/{name}/load", {"artifact": "pairs"})
    assert answer.status in (400, 404)
    assert labels(served) == ["pairs/1"]


def test_hangup_reads_models_and_keys_again(serve: Serve, root: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("old\n")
    served = serve(root / "pairs", "--key-file", keys)
    second = load(root / "other").score([tuple(PAIR)])[0]
    shutil.rmtree(root / "pairs")
    (root / "other").rename(root / "pairs")
    keys.write_text("new\n")
    served.signal(signal.SIGHUP)

    def predicted(key: str) -> int:
        return served.post("/predict", {"inputs": PAIR}, authorization=f"Bearer {key}").status

    eventually(lambda: predicted("new") == 200)
    eventually(lambda: served.post("/v2/repository/index", {}, authorization="Bearer new").json[0]["version"] == "2")
    assert predicted("old") == 401
    answer = served.post("/predict", {"inputs": PAIR}, authorization="Bearer new").json
    assert any(each["score"] == pytest.approx(second) for each in answer)


def test_hangup_keeps_versions_that_were_kept(serve: Serve, root: Path) -> None:
    served, path = serve(root / "pairs", root / "topics", "--model-root", root), "/v2/repository/models/pairs/load"
    first, second = (load(root / name).score([tuple(PAIR)])[0] for name in ("pairs", "other"))
    served.post(path, {"artifact": "other", "keep": True})
    served.post(path, {"artifact": "pairs", "keep": True})
    make_artifact(root / "new", seed=2)
    third = load(root / "new").score([tuple(PAIR)])[0]
    shutil.rmtree(root / "pairs")
    (root / "new").rename(root / "pairs")
    served.signal(signal.SIGHUP)
    eventually(lambda: "reloaded; serving" in served.said)
    assert labels(served) == ["pairs/1", "pairs/2", "pairs/4", "topics/2"]
    inputs = [
        {"name": name, "shape": [1], "datatype": "BYTES", "data": [text]}
        for name, text in zip(("query", "title"), PAIR, strict=True)
    ]
    for version, expected in (("1", first), ("2", second), ("4", third)):
        reply = served.post(f"/v2/models/pairs/versions/{version}/infer", {"inputs": inputs})
        assert reply.json["outputs"][0]["data"] == [pytest.approx(expected)]


def test_keys_are_read_again_before_models(artifacts: Path, tmp_path: Path) -> None:
    keys, seen = tmp_path / "keys", []
    keys.write_text("old\n")
    app = App(ServeSettings((("pairs", artifacts / "pairs"),), key_file=keys))

    class Seen:
        async def ask(self, message: Message) -> Sequence[Entry]:
            if isinstance(message, Load):
                seen.append([is_let_in(app.keys, key) for key in ("old", "new")])
            return await app.local_worker.ask(message)

    keys.write_text("new\n")
    pool = LocalPool([Seen()], [loaded.entry for loaded in app.models])
    asyncio.run(pool.ask(Reload()))
    app.service.stop()
    assert seen == [[False, True]]
    assert [loaded.label for loaded in app.models] == ["pairs/2"]


def is_let_in(keys: Keys, key: str) -> bool:
    try:
        keys.check(f"Bearer {key}")
    except RefusedError:
        return False
    return True


def test_what_was_counted_of_a_version_goes_with_it(serve: Serve, root: Path) -> None:
    served = serve(root / "pairs", "--model-root", root)
    score(served)
    assert 'model="pairs/1"' in served.get("/metrics").body.decode()
    served.post("/v2/repository/models/pairs/load", {"artifact": "other"})
    score(served)
    found = served.get("/metrics").body.decode()
    assert 'prunetime_rows_total{model="pairs/2"} 1.0' in found
    assert 'model="pairs/1"' not in found
    assert 'prunetime_requests_total{route="/predict",status="200"} 2.0' in found


def test_with_keys_only_health_answers_without_one(serve: Serve, root: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("sesame\n")
    served = serve(root / "pairs", "--key-file", keys, "--model-root", root)
    described = served.get("/openapi.json").json["paths"]
    for path, methods in described.items():
        at = path.replace("{model}", "pairs").replace("{version}", "1")
        for method in methods:
            expected = path in ("/health", "/v2/health/live", "/v2/health/ready") or (method, path) in PAGES
            assert (served.ask(method.upper(), at).status == 401) is not expected, (method, path)
    assert served.get("/metrics", authorization="Bearer sesame").status == 200
    refused = served.get("/v2")
    assert refused.headers["www-authenticate"] == "Bearer"
    assert serve(root / "pairs", "--key-file", keys, "--open-metrics").get("/metrics").status == 200


def test_a_swap_under_traffic_loses_nothing(serve: Serve, root: Path) -> None:
    served = serve(root / "pairs", "--model-root", root)
    known = [load(root / name).score([tuple(PAIR)])[0] for name in ("pairs", "other")]
    found: list[float] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            found.append(score(served))

    with meanwhile(4, ask):
        for artifact in ("other", "pairs", "other"):
            assert served.post("/v2/repository/models/pairs/load", {"artifact": artifact}).status == 200
            before = len(found)
            eventually(lambda: len(found) >= before + 10)  # noqa: B023 (called here only)
        over.set()
    assert all(any(abs(one - each) < 1e-6 for each in known) for one in found)
    assert score(served) == pytest.approx(known[1])


def test_a_stop_answers_what_was_taken_on(serve: Serve, root: Path) -> None:
    served = serve(root / "pairs")
    code, said, answers = stopped_while_asked(served, 4, 500)
    assert code == 0
    assert set(answers) == {(200, 500)}
    logged = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert [line["status"] for line in logged if line["route"] == "/predict"] == [200] * len(answers)
    assert all(line["id"] and line["ms"] > 0 for line in logged)


def test_under_pressure_the_smaller_one_of_a_family_answers(serve: Serve, root: Path) -> None:
    words = ("--cascade", "fast=pairs,other", "--queue-tokens", "4000", "--batch-tokens", "200")
    served = serve(root / "pairs", root / "other", *words)
    models = {name: load(root / name) for name in ("pairs", "other")}
    inputs = [{"name": n, "shape": [100], "datatype": "BYTES", "data": ["red sofa"] * 100} for n in ("query", "title")]
    expected = {name: model.score([("red sofa", "red sofa")])[0] for name, model in models.items()}
    answers: list[tuple[str, float]] = []

    def ask() -> None:
        until = time.monotonic() + PATIENCE
        while len({name for name, _ in answers}) < 2 and time.monotonic() < until:
            reply = served.post("/v2/models/fast/infer", {"inputs": inputs})
            if reply.status == 200:
                answers.append((reply.json["model_name"], reply.json["outputs"][0]["data"][-1]))

    together(30, ask)
    assert {name for name, _ in answers} == {"pairs", "other"}
    assert all(score == pytest.approx(expected[name], rel=1e-5) for name, score in answers)


def test_a_client_that_leaves_is_not_computed_for(serve: Serve, root: Path) -> None:
    served = serve(root / "pairs", "--batch-tokens", "64")
    body = json.dumps({"inputs": [["red sofa", "lamp " * 20]] * 1000}).encode()
    head = b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body)

    def counted() -> str:
        return served.get("/metrics").body.decode()

    def left_in_time() -> bool:
        with socket.create_connection(("127.0.0.1", served.port)) as leaving:
            leaving.sendall(head + body)
            time.sleep(0.05)
        eventually(lambda: served.queued_tokens() == 0.0)
        return 'prunetime_requests_total{route="/predict",status="499"}' in counted()

    eventually(left_in_time)


def test_what_cannot_be_served_is_said_at_once(serve: Serve, root: Path, tmp_path: Path) -> None:
    for words, says in (
        ((root / "missing",), "missing"),
        ((root / "pairs", root / "pairs"), "same name"),
        ((root / "pairs", "--host", "0.0.0.0"), "for this machine only"),
        ((root / "pairs", "--cascade", "f=pairs,none"), "none is no model"),
        ((root / "pairs", root / "topics", "--cascade", "f=pairs,topics"), "another task or tokenizer"),
        ((root / "pairs", "--key-file", tmp_path / "none"), "cannot read the keys"),
    ):
        served = serve(*words)
        code, said = served.stop()
        assert code == 2
        assert says in said


def test_a_unix_socket(serve: Serve, root: Path, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    serve(root / "pairs", "--uds", path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 200")


def test_many_at_once_get_their_own_answers(serve: Serve, root: Path) -> None:
    served, model = serve(root / "pairs", "--batch-tokens", "128"), load(root / "pairs")
    wrong: list[str] = []

    def ask(number: int) -> None:
        for turn in range(10):
            texts = [["red sofa", f"lamp {number} of {turn} and {row}"] for row in range(1 + number % 5)]
            found = served.post("/predict", {"inputs": texts}).json
            good = [next(each["score"] for each in row if each["label"] == "good") for row in found]
            if not np.allclose(good, model.score([tuple(pair) for pair in texts]), rtol=1e-6):
                wrong.append(f"{number} {turn}")

    askers = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert not wrong
