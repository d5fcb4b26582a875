"""The extensions of the Open Inference Protocol, as the protocol's own documents describe them."""

from __future__ import annotations

import gzip
import json
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served import Reply, Served

from prunetime import load
from prunetime.serve.errors import RefusedError
from prunetime.serve.http.compression import decompressed

PAIRS = [("red sofa", "a sofa with red legs"), ("red sofa", "lamp"), ("blaue Lampe \u00fc", "lamp for the bath, blue")]
INFER = "/v2/models/pairs/infer"
LENGTH = "inference-header-content-length"


def elements(texts: list[str] | list[bytes]) -> bytes:
    """A BYTES tensor: before each element its length, four bytes, little-endian."""
    raw = [text.encode() if isinstance(text, str) else text for text in texts]
    return b"".join(struct.pack("<I", len(each)) + each for each in raw)


def columns(pairs: list[tuple[str, str]] = PAIRS, **more: Any) -> dict[str, Any]:
    inputs = [
        {"name": name, "shape": [len(pairs)], "datatype": "BYTES", "data": [pair[i] for pair in pairs]}
        for i, name in enumerate(("query", "title"))
    ]
    return {"inputs": inputs, **more}


def in_binary(*parts: bytes, rows: int = len(PAIRS), **more: Any) -> tuple[bytes, str]:
    """A body of the inputs query and title in binary, and the length of its JSON."""
    inputs = [
        {"name": name, "shape": [rows], "datatype": "BYTES", "parameters": {"binary_data_size": len(part)}}
        for name, part in zip(("query", "title"), parts, strict=True)
    ]
    described = json.dumps({"inputs": inputs, **more}).encode()
    return described + b"".join(parts), str(len(described))


def binary_outputs(reply: Reply) -> dict[str, tuple[list[int], Any]]:
    """Shape and values of the outputs of an answer in binary, by name."""
    assert reply.headers["content-type"] == "application/octet-stream"
    length = int(reply.headers[LENGTH])
    found, rest = {}, reply.body[length:]
    for each in json.loads(reply.body[:length])["outputs"]:
        size = each["parameters"]["binary_data_size"]
        part, rest = rest[:size], rest[size:]
        if each["datatype"] == "BYTES":
            values: Any = []
            while part:
                (length,) = struct.unpack_from("<I", part)
                values.append(part[4 : 4 + length].decode())
                part = part[4 + length :]
        else:
            values = np.frombuffer(part, {"FP32": "<f4", "INT64": "<i8"}[each["datatype"]]).tolist()
        found[each["name"]] = each["shape"], values
    assert not rest
    return found


def test_tensors_in_binary_both_ways(server: Served, artifacts: Path) -> None:
    expected = load(artifacts / "pairs").score(PAIRS)
    parts = [elements([pair[i] for pair in PAIRS]) for i in range(2)]
    body, length = in_binary(*parts, parameters={"binary_data_output": True})
    shape, scores = binary_outputs(server.post(INFER, body, **{LENGTH: length}))["score"]
    assert shape == [3]
    np.testing.assert_array_equal(np.float32(scores), expected)
    body, length = in_binary(*parts)  # in binary there, as JSON back
    answer = server.post(INFER, body, **{LENGTH: length})
    assert LENGTH not in answer.headers
    np.testing.assert_array_equal(np.float32(answer.json["outputs"][0]["data"]), expected)
    wanted = [{"name": "score", "parameters": {"binary_data": False}}]
    own = server.post(INFER, columns(outputs=wanted, parameters={"binary_data_output": True}))
    np.testing.assert_array_equal(np.float32(own.json["outputs"][0]["data"]), expected)


def test_texts_and_whole_numbers_in_binary(server: Served, artifacts: Path) -> None:
    question = ("which legs", "a sofa with red legs stands beside a l\u00e4mp for the bath")
    inputs = [
        {"name": name, "shape": [1], "datatype": "BYTES", "data": [text]}
        for name, text in zip(("question", "context"), question, strict=True)
    ]
    asked = {"inputs": inputs, "parameters": {"binary_data_output": True}}
    found = binary_outputs(server.post("/v2/models/answers/infer", asked))
    (answer,) = load(artifacts / "answers").score([question])
    assert found["answer"] == ([1], [answer.text])
    assert found["start"] == ([1], [answer.start])
    np.testing.assert_allclose(found["score"][1], [answer.score], rtol=1e-6)


QUERIES, TITLES = elements(["a", "b"]), elements(["c", "d"])


@pytest.mark.parametrize(
    ("parts", "status", "says"),
    [
        ((QUERIES[:-1], TITLES), 422, "input query: its 9 bytes end before the end of element 1"),
        ((QUERIES, TITLES + b"x"), 422, "input title: its shape has 2 elements, and more bytes follow"),
        ((QUERIES, elements([b"c", b"\xff"])), 422, "input title: element 1 is not UTF-8"),
        ((QUERIES, b"\xff\xff\xff\x7fcd"), 422, "input title: its 6 bytes end before the end of element 0"),
    ],
)
def test_bytes_that_are_no_texts_are_refused(
    server: Served, parts: tuple[bytes, bytes], status: int, says: str
) -> None:
    body, length = in_binary(*parts, rows=2)
    answer = server.post(INFER, body, **{LENGTH: length})
    assert answer.status == status
    assert says in answer.json["error"]


def test_sizes_that_are_not_those_of_the_body_are_refused(server: Served) -> None:
    body, length = in_binary(QUERIES, TITLES, rows=2)
    for content, said, status, says in (
        (body + b"left", length, 422, "4 bytes after the JSON are of no input"),
        (body[:-1], length, 422, "input title: binary_data_size is 10, and 9 bytes are left"),
        (body, str(len(body) + 1), 400, f"{LENGTH} is '{len(body) + 1}'"),
        (body, "-1", 400, f"{LENGTH} is '-1'"),
    ):
        answer = server.post(INFER, content, **{LENGTH: said})
        assert answer.status == status
        assert says in answer.json["error"]
    many, length = in_binary(QUERIES, TITLES, rows=10**9)
    assert server.post(INFER, many, **{LENGTH: length}).status == 413


def test_bodies_in_gzip_and_deflate(server: Served, artifacts: Path) -> None:
    many = PAIRS * 100
    expected, content = load(artifacts / "pairs").score(many), json.dumps(columns(many)).encode()
    for encoding, write, read in (
        ("gzip", gzip.compress, gzip.decompress),
        ("deflate", zlib.compress, zlib.decompress),
    ):
        answer = server.post(INFER, write(content), content_encoding=encoding, accept_encoding=f"br, {encoding};q=0.5")
        assert answer.headers["content-encoding"] == encoding
        found = json.loads(read(answer.body))["outputs"][0]["data"]
        np.testing.assert_array_equal(np.float32(found), expected)
        assert "content-encoding" not in server.post(INFER, content, accept_encoding=f"{encoding};q=0").headers
        assert server.post("/predict", write(b'{"inputs": ["a", "b"]}'), content_encoding=encoding).status == 200
        for damaged, says in (
            (write(content)[:-5], "breaks off"),
            (write(content) + b"x", "goes on after its end"),
            (content, f"the body is not in {encoding}"),
        ):
            refused = server.post(INFER, damaged, content_encoding=encoding)
            assert (refused.status, refused.json["error_type"]) == (400, "bad_request")
            assert says in refused.json["error"]
        bomb = server.post(INFER, write(b" " * (64 << 20)), content_encoding=encoding)
        assert (bomb.status, bomb.json["error_type"]) == (413, "too_large")


def test_of_a_body_no_more_is_decompressed_than_it_may_hold() -> None:
    limit, bomb = 1 << 20, gzip.compress(b" " * (64 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(RefusedError, match="holds more than the limit of 1048576 bytes"):
            decompressed(bomb, "gzip", limit)
        assert tracemalloc.get_traced_memory()[1] < 4 * limit
    finally:
        tracemalloc.stop()


def test_classification_is_of_the_best_classes(server: Served, artifacts: Path) -> None:
    wanted = [{"name": "score", "parameters": {"classification": 2}}]
    (output,) = server.post(INFER, columns(outputs=wanted)).json["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [3, 2])
    good = load(artifacts / "pairs").score(PAIRS)
    rows = [sorted(((1 - p, 0, "bad"), (p, 1, "good")), reverse=True) for p in good]
    assert output["data"] == [f"{value:f}:{index}:{label}" for row in rows for value, index, label in row]
    asked = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["red sofa"]}
    answer = server.post("/v2/models/topics/infer", {"inputs": [asked], "outputs": wanted}).json
    (scores,) = load(artifacts / "topics").score(["red sofa"])
    best = np.argsort(-scores)[:2]
    labels = ("shoes", "sofas", "lamps")
    assert answer["outputs"][0]["data"] == [f"{scores[i]:f}:{i}:{labels[i]}" for i in best]


def test_a_timeout_is_microseconds_and_null_is_not_given(server: Served) -> None:
    late = server.post(INFER, columns(parameters={"timeout": 1}))
    assert (late.status, late.json["error_type"]) == (503, "deadline")
    nothing = {"timeout": 0, "priority": 0, "sequence_id": None, "sequence_start": False, "binary_data_output": None}
    assert server.post(INFER, columns(parameters=nothing, id=None, outputs=None)).status == 200


def stages(reply: Reply) -> dict[str, float]:
    """The milliseconds of an answer's stages, as it says them itself."""
    parts = (part.split(";dur=") for part in reply.headers["server-timing"].split(", "))
    return {stage: float(spent) for stage, spent in parts}


def test_configurations_and_statistics(serve: Callable[..., Served], artifacts: Path) -> None:
    server = serve(artifacts / "pairs", artifacts / "topics")
    config = server.get("/v2/models/pairs/config").json
    assert config["input"] == [{"name": n, "data_type": "TYPE_STRING", "dims": [-1]} for n in ("query", "title")]
    assert config["output"] == [{"name": "score", "data_type": "TYPE_FP32", "dims": [-1]}]
    spent = [stages(server.post(INFER, columns())) for _ in range(2)]
    (counted,) = server.get("/v2/models/pairs/versions/1/stats").json["model_stats"]
    assert (counted["name"], counted["version"], counted["inference_count"]) == ("pairs", "1", 2 * len(PAIRS))
    times = counted["inference_stats"]
    assert times["success"]["count"] == times["compute_infer"]["count"] == 2
    parts = [times[part]["ns"] for part in ("queue", "compute_input", "compute_infer")]
    assert times["success"]["ns"] == sum(parts)
    for part, stage in (("queue", "queue"), ("compute_input", "tokenize"), ("compute_infer", "compute")):
        said = sum(each[stage] for each in spent)
        assert times[part]["ns"] == pytest.approx(1e6 * said, abs=2_000)  # which the answers say in whole microseconds
    every = server.get("/v2/models/stats").json["model_stats"]
    assert [each["inference_count"] for each in every] == [2 * len(PAIRS), 0]
    assert server.get("/v2/models/none/stats").status == server.get("/v2/models/none/config").status == 404


def test_what_only_triton_has_is_refused_with_the_reason(server: Served) -> None:
    for path in ("/v2/logging", "/v2/trace/setting", "/v2/models/pairs/trace/setting"):
        for answer in (server.get(path), server.post(path, {"log_info": False})):
            assert answer.status == 404
            assert "there are no settings" in answer.json["error"] or "have no settings" in answer.json["error"]
    for kind in ("system", "cuda"):
        assert server.get(f"/v2/{kind}sharedmemory/status").json == []
        assert server.post(f"/v2/{kind}sharedmemory/unregister", {}).status == 200
        refused = server.post(f"/v2/{kind}sharedmemory/region/mine/register", {"key": "/mine"})
        assert (refused.status, "'mine' is not registered" in refused.json["error"]) == (422, True)


def test_models_are_loaded_again_after_they_were_unloaded(serve: Callable[..., Served], root: Path) -> None:
    server, path = serve(root / "pairs", root / "topics"), "/v2/repository/models/topics"
    dependents = {"parameters": {"unload_dependents": False}}
    (gone,) = server.post(f"{path}/unload", dependents).json
    assert (gone["state"], gone["reason"]) == ("UNAVAILABLE", "unloaded")
    states = {each["name"]: each for each in server.post("/v2/repository/index", b"").json}
    assert states["topics"] == {"name": "topics", "version": "", "state": "UNAVAILABLE", "reason": "unloaded"}
    assert states["pairs"]["state"] == "READY"
    assert [each["name"] for each in server.post("/v2/repository/index", {"ready": True}).json] == ["pairs"]
    for content in ({"parameters": {"config": "{}"}}, {"parameters": {"file:1/model.onnx": ""}}, {"config": "{}"}):
        refused = server.post(f"{path}/load", content)
        assert (refused.status, "known" in refused.json["error"] or "config" in refused.json["error"]) == (422, True)
    assert server.get("/v2/models/topics/ready").status == 404
    assert server.post(f"{path}/load", {"parameters": {}}).json["state"] == "READY"
    assert server.get("/v2/models/topics/ready").status == 200
