"""Whatever is sent, the server keeps to its description, and does not fail."""

from __future__ import annotations

import http.client
import json
import random
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from served import CONFIG, Served
from waiting import PATIENCE

Serve = Callable[..., Served]

# What is refused for what it says (422) is well formed; the others are answers to names that are not there.
SCHEMATHESIS = """
[parameters]
"path.model" = "pairs"
"path.version" = "1"
"path.experiment" = "ads"

[checks.positive_data_acceptance]
expected-statuses = ["2xx", 403, 404, 422]

[[operations]]
include-path-regex = "load$"
parameters = { "path.model" = "spare" }
"""


def test_schemathesis_finds_nothing(serve: Serve, artifacts: Path, tmp_path: Path) -> None:
    config, keys, experiments = (tmp_path / name for name in ("schemathesis.toml", "keys", "experiments.toml"))
    config.write_text(SCHEMATHESIS)
    keys.write_text("sesame\n")
    experiments.write_text(CONFIG)
    words = ("--key-file", keys, "--experiment", experiments, "--outcomes", tmp_path / "outcomes.sqlite")
    served = serve(artifacts / "pairs", artifacts / "other", "--model-root", artifacts, *words)
    command = Path(sys.executable).with_name("schemathesis"), "--config-file", config, "run"
    options = "--checks=all", "--phases=coverage,fuzzing", "--max-examples=20", "--seed=1", "--no-color"
    where = "--header=Authorization: Bearer sesame", f"http://127.0.0.1:{served.port}/openapi.json"
    run = subprocess.run([*map(str, command), *options, *where], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stdout
    assert "Tested: 50" in run.stdout
    assert "Traceback" not in served.said


NAMES = st.sampled_from(["query", "title", "inputs", "name", "shape", "datatype", "data", "parameters", "id", "x"])
NUMBERS = st.integers() | st.floats(allow_nan=False) | st.sampled_from([-1, 0, 1, 2, 2**31, 2**63, 10**30])
LEAVES = st.none() | st.booleans() | NUMBERS | st.text(max_size=20) | st.sampled_from(["BYTES", "FP32", "INT64"])
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=12
)
TENSORS = st.fixed_dictionaries(
    {"name": NAMES, "shape": st.lists(NUMBERS, max_size=3), "datatype": LEAVES, "data": JSON},
    optional={"parameters": JSON},
)
REQUESTS = st.fixed_dictionaries({"inputs": st.lists(TENSORS, max_size=3)}, optional={"id": JSON, "outputs": JSON})
VALID = json.dumps(
    {"inputs": [{"name": n, "shape": [2], "datatype": "BYTES", "data": ["a", "\u00e9 b"]} for n in ("query", "title")]}
).encode()


def damaged(seed: int) -> bytes:
    """A request of which some bytes are others, gone, or there twice."""
    rng, found = random.Random(seed), bytearray(VALID)
    for _ in range(rng.randint(1, 5)):
        at = rng.randrange(len(found))
        found[at : at + rng.randint(0, 4)] = rng.choice([b"", rng.randbytes(2), bytes(found[at : at + 30]), b"[", b'"'])
    return bytes(found)


BODIES = (
    st.binary(max_size=100)
    | st.integers(0, 2**32).map(damaged)
    | (JSON | REQUESTS).map(lambda content: json.dumps(content).encode())
    | st.integers(1, 5_000).map(lambda deep: b"[" * deep)
)


@pytest.fixture(scope="module")
def connection(server: Served) -> Iterator[http.client.HTTPConnection]:
    made = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    yield made
    made.close()


@given(st.sampled_from(["pairs", "topics", "answers"]), BODIES)
@settings(max_examples=1_500, deadline=None)
def test_no_body_is_too_much_for_infer(connection: http.client.HTTPConnection, model: str, body: bytes) -> None:
    connection.request("POST", f"/v2/models/{model}/infer", body)
    answer = connection.getresponse()
    said: Any = json.loads(answer.read())
    assert answer.status in (200, 400, 422), said
    if answer.status != 200:
        assert said["error"]
        assert said["error_type"] in ("bad_request", "unusable")


def test_a_whole_request_is_answered(connection: http.client.HTTPConnection) -> None:
    connection.request("POST", "/v2/models/pairs/infer", VALID)
    answer = connection.getresponse()
    assert answer.status == 200
    assert len(json.loads(answer.read())["outputs"][0]["data"]) >= 2


@given(st.binary(min_size=1, max_size=200), st.booleans())
@settings(max_examples=200, deadline=None)
def test_what_is_no_http_ends_its_connection_only(server: Served, sent: bytes, begins_well: bool) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as client:
        client.sendall(b"POST /predict HTTP/1.1\r\n" * begins_well + sent)
    assert server.get("/health").status == 200


def test_nothing_of_this_was_an_error_of_the_server(server: Served) -> None:
    assert "Traceback" not in server.said
    assert '"status": 500' not in server.said
