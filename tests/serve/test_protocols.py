"""What clients of each protocol get, from a real server, beside what the loaded model says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from openai import OpenAI
from served import Served, make_artifact

from prunetime import Client, load
from prunetime.client import ServerError
from prunetime.core.embedding import unit

PAIRS = [("red sofa", "a sofa with red legs"), ("red sofa", "lamp"), ("blue lamp", "lamp for the bath, blue")]


def test_scores_of_the_open_inference_protocol(server: Served, artifacts: Path) -> None:
    expected = load(artifacts / "pairs").score(PAIRS)
    query, title = ([pair[i] for pair in PAIRS] for i in range(2))
    inputs = [
        {"name": "title", "shape": [3, 1], "datatype": "BYTES", "data": [[text] for text in title]},
        {"name": "query", "shape": [3], "datatype": "BYTES", "data": query},
    ]
    for path in ("/v2/models/pairs/infer", "/v2/models/pairs/versions/1/infer"):
        answer = server.post(path, {"id": "seven", "inputs": inputs})
        assert answer.status == 200
        found = answer.json
        assert (found["id"], found["model_name"], found["model_version"]) == ("seven", "pairs", "1")
        (score,) = found["outputs"]
        assert (score["name"], score["datatype"], score["shape"]) == ("score", "FP32", [3])
        np.testing.assert_array_equal(np.float32(score["data"]), expected)
    assert answer.headers["x-prunetime-model"] == "pairs/1"
    assert answer.headers["server-timing"].startswith("tokenize;dur=")


def test_more_classes_and_answers_as_tensors(server: Served, artifacts: Path) -> None:
    text = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["red sofa"]}
    (score,) = server.post("/v2/models/topics/infer", {"inputs": [text]}).json["outputs"]
    assert score["shape"] == [1, 3]
    np.testing.assert_array_equal(np.float32(score["data"]), load(artifacts / "topics").score(["red sofa"])[0])
    question, context = "which legs", "a sofa with red legs stands beside a lamp for the bath and a blue chair"
    inputs = [
        {"name": name, "shape": [1], "datatype": "BYTES", "data": [text]}
        for name, text in (("question", question), ("context", context))
    ]
    asked = {"inputs": inputs, "outputs": [{"name": "answer"}, {"name": "score"}]}
    found = {each["name"]: each["data"] for each in server.post("/v2/models/answers/infer", asked).json["outputs"]}
    (answer,) = load(artifacts / "answers").score([(question, context)])
    assert found == {"answer": [answer.text], "score": [pytest.approx(answer.score)]}


def test_labels_of_words_and_similarities(serve: Callable[..., Served], tmp_path: Path) -> None:
    words, twins = (make_artifact(tmp_path / name, name) for name in ("words", "twins"))
    server, text = serve(f"words={words}", f"twins={twins}"), "a sofa with red legs"
    inputs = [{"name": "tokens", "shape": [1], "datatype": "BYTES", "data": [text]}]
    (found,) = server.post("/v2/models/words/infer", {"inputs": inputs}).json["outputs"]
    (tagged,) = load(words).score([text])
    assert (found["name"], found["datatype"], found["shape"]) == ("spans", "BYTES", [1])
    assert json.loads(found["data"][0]) == [span._asdict() for span in tagged.spans]
    refused = server.post("/predict", {"inputs": text})
    assert refused.status == 422
    assert "infer" in refused.body.decode()
    with Client(f"http://127.0.0.1:{server.port}/") as client:
        assert client.score([text], "words")[0] == tagged.spans
        np.testing.assert_allclose(client.score(PAIRS, "twins"), load(twins).score(PAIRS), rtol=1e-6)
        ranked = client.rank("red sofa", [title for _, title in PAIRS], model="twins")
    expected = load(twins).rank("red sofa", [title for _, title in PAIRS])
    assert [each["corpus_id"] for each in ranked] == [each["corpus_id"] for each in expected]
    np.testing.assert_allclose([each["score"] for each in ranked], [each["score"] for each in expected], rtol=1e-6)


def test_embeddings(serve: Callable[..., Served], tmp_path: Path) -> None:
    twins, pairs = (make_artifact(tmp_path / name, name) for name in ("twins", "pairs"))
    server, texts, model = serve(f"twins={twins}", f"pairs={pairs}"), ["red sofa", "a lamp for the bath"], load(twins)
    expected = unit(model.embed(texts))
    np.testing.assert_array_equal(np.float32(server.post("/embed", {"inputs": texts}).json), expected)
    (raw,) = server.post("/embed", {"inputs": texts[0], "normalize": False}).json
    np.testing.assert_array_equal(np.float32(raw), model.engine.logits(model.tokenizer.encode([(texts[0],)]))[0])
    with Client(f"http://127.0.0.1:{server.port}/") as client:
        np.testing.assert_array_equal(np.float32(client.embed(texts)), expected)
        with pytest.raises(ServerError, match="a model of classification has no embeddings"):
            client.embed(texts, "pairs")
        with pytest.raises(ServerError, match="text 1 is empty"):
            client.embed(["a", " "])
    with OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none") as client:
        for form in ({"encoding_format": "float"}, {}):  # without, it asks for base64
            found = client.embeddings.create(input=texts, model="twins", **form)
            np.testing.assert_array_equal(np.float32([each.embedding for each in found.data]), expected)
            assert found.usage.prompt_tokens == len(model.tokenizer.encode([(text,) for text in texts]).ids)


def test_embeddings_after_prompts(serve: Callable[..., Served], tmp_path: Path) -> None:
    prompted, pairs = (
        make_artifact(tmp_path / name.replace(" ", "-"), name) for name in ("prompted", "prompted pairs")
    )
    server, texts, model = serve(f"prompted={prompted}", f"pairs={pairs}"), ["red sofa", "hose"], load(prompted)
    for asked, expected in (
        ({}, unit(model.embed(texts))),
        ({"prompt_name": "b"}, unit(model.embed(texts, "b"))),
        ({"normalize": False}, model.embed(texts)),
        ({"normalize": False, "dimensions": 5}, model.embed(texts)[:, :5]),
        ({"dimensions": 5}, unit(model.embed(texts)[:, :5])),
        ({"truncate": False, "truncation_direction": "Right"}, unit(model.embed(texts))),
    ):
        found = server.post("/embed", {"inputs": texts, **asked})
        np.testing.assert_array_equal(np.float32(found.json), expected)
    long = {"inputs": ["hose", "garden hose " * 20]}
    assert server.post("/embed", long).status == 200
    for asked, said in (
        ({"truncate": False}, "text 1 has more tokens than the 24 that the model reads"),
        ({"prompt_name": "c"}, "no prompt 'c'; it has a, b"),
        ({"dimensions": 10**6}, "dimensions is 1000000"),
        ({"truncation_direction": "Left"}, "truncation_direction 'Left': prompted cuts texts on the right"),
    ):
        refused = server.post("/embed", {**long, **asked})
        assert refused.status == 422
        assert re.search(said, refused.json["error"])
    with OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none") as client:
        found = client.embeddings.create(input=texts, model="prompted", dimensions=5, extra_body={"prompt_name": "b"})
    expected = unit(model.embed(texts, "b")[:, :5])
    np.testing.assert_array_equal(np.float32([each.embedding for each in found.data]), expected)
    with Client(f"http://127.0.0.1:{server.port}/") as client:
        np.testing.assert_array_equal(np.float32(client.embed(texts, prompt_name="b")), unit(model.embed(texts, "b")))
        np.testing.assert_allclose(client.score(PAIRS, "pairs"), load(pairs).score(PAIRS), rtol=1e-6)


def test_what_models_and_the_server_say_of_themselves(server: Served) -> None:
    assert server.get("/v2").json["name"] == "prunetime"
    assert server.get("/v2/health/live").json == {"live": True}
    assert server.get("/v2/health/ready").json == {"ready": True}
    assert server.get("/health").status == 200
    told = server.get("/v2/models/pairs").json
    assert told["versions"] == ["1"]
    assert [each["name"] for each in told["inputs"]] == ["query", "title"]
    assert told["parameters"]["labels"] == ["bad", "good"]
    assert server.get("/v2/models/pairs/versions/1/ready").json == {"name": "pairs", "ready": True}
    assert {each["name"] for each in server.post("/v2/repository/index", {}).json} == {"pairs", "topics", "answers"}


def test_predictions_are_labels_the_likeliest_first(server: Served, artifacts: Path) -> None:
    expected = load(artifacts / "pairs").score(PAIRS)
    single = server.post("/predict", {"inputs": list(PAIRS[0])}).json
    assert {each["label"]: each["score"] for each in single}["good"] == pytest.approx(expected[0])
    assert single[0]["score"] >= single[1]["score"]
    many = server.post("/predict", {"inputs": [list(pair) for pair in PAIRS]}).json
    good = [next(each["score"] for each in row if each["label"] == "good") for row in many]
    np.testing.assert_allclose(good, expected, rtol=1e-6)
    raw = server.post("/predict", {"inputs": list(PAIRS[0]), "raw_scores": True}).json
    of = {each["label"]: each["score"] for each in raw}
    assert 1 / (1 + np.exp(of["bad"] - of["good"])) == pytest.approx(expected[0], rel=1e-5)


def test_rerank_orders_texts(server: Served, artifacts: Path) -> None:
    texts = ["lamp", "a sofa with red legs", "sofa"]
    ranked = load(artifacts / "pairs").rank("red sofa", texts)
    found = server.post("/rerank", {"query": "red sofa", "texts": texts, "return_text": True}).json
    assert [(each["index"], each["text"]) for each in found] == [
        (each["corpus_id"], texts[each["corpus_id"]]) for each in ranked
    ]
    np.testing.assert_allclose([each["score"] for each in found], [each["score"] for each in ranked], rtol=1e-6)
    raw = server.post("/rerank", {"query": "red sofa", "texts": texts, "raw_scores": True}).json
    np.testing.assert_allclose(
        1 / (1 + np.exp([-each["score"] for each in raw])), [r["score"] for r in ranked], rtol=1e-5
    )
    assert server.post("/rerank", {"query": "red sofa", "texts": []}).json == []


def test_rerank_of_documents(server: Served, artifacts: Path) -> None:
    documents = ["lamp", {"text": "a sofa with red legs"}, "sofa"]
    asked = {"query": "red sofa", "documents": documents, "top_n": 2, "return_documents": True, "model": "pairs"}
    found = server.post("/v1/rerank", asked, x_request_id="mine").json
    ranked = load(artifacts / "pairs").rank("red sofa", ["lamp", "a sofa with red legs", "sofa"], 2)
    assert found["id"] == "mine"
    assert [each["index"] for each in found["results"]] == [each["corpus_id"] for each in ranked]
    assert found["results"][0]["document"]["text"] in ("lamp", "a sofa with red legs", "sofa")
    assert server.post("/v1/rerank", asked | {"model": "topics"}).status == 422


@pytest.mark.parametrize(
    ("path", "content", "status", "kind", "says"),
    [
        ("/predict", b"{", 400, "bad_request", "the body is no JSON"),
        ("/predict", b"\xff", 400, "bad_request", "the body is no JSON"),
        ("/predict", {}, 422, "unusable", "missing required field `inputs`"),
        ("/predict", {"inputs": 7}, 422, "unusable", r"\$\.inputs"),
        ("/predict", {"inputs": ["a", ["b", "c"]]}, 422, "unusable", "a pair of texts"),
        ("/predict", {"inputs": "alone"}, 422, "unusable", "text 0 has 1 part; this model scores 2"),
        ("/predict", {"inputs": ["a", " "]}, 422, "unusable", "text 0 is empty"),
        ("/predict", {"inputs": []}, 422, "unusable", "no text to score"),
        ("/predict", {"inputs": [["a", "b"]] * 2000}, 413, "too_large", "2000 rows are more than the 1024"),
        ("/predict", {"inputs": ["a", "b" * (5 << 20)]}, 413, "too_large", "larger than the limit"),
        ("/rerank", {"query": "a", "texts": ["b"], "top_n": 0}, 422, "unusable", "top_n is 0"),
        ("/rerank", {"query": "a", "documents": ["b"], "model": "none"}, 404, "not_found", "no model 'none'"),
        ("/v2/models/none/infer", {"inputs": []}, 404, "not_found", "no model 'none' is loaded"),
        ("/v2/models/pairs/versions/9/infer", {"inputs": []}, 404, "not_found", "no version '9'"),
        ("/v2/models/pairs/infer", {"inputs": []}, 422, "unusable", "0 inputs; this model takes 2: query, title"),
        ("/nowhere", {}, 404, "not_found", "nothing at /nowhere"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_the_reason(
    server: Served, path: str, content: object, status: int, kind: str, says: str
) -> None:
    answer = server.post(path, content)
    assert (answer.status, answer.json["error_type"]) == (status, kind)
    assert re.search(says, answer.json["error"])
    assert answer.json["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"shape": [2]}, "input title: 1 texts, and its shape is [2]"),
        ({"shape": [1, 2]}, "input title: its shape is [1, 2]; it must be [rows] or [rows, 1]"),
        ({"shape": [-1]}, "input title: its shape is [-1]"),
        ({"shape": [1] * 1000}, "input title: its shape is [1, 1, 1, 1] and on"),
        ({"shape": []}, "input title: its shape is []"),
        ({"shape": [2], "data": ["a", "b"]}, "inputs of 1 and 2 rows"),
        ({"name": "titel"}, "no input is named 'titel'; the model's inputs are query, title"),
        ({"name": "query"}, "two inputs have the name query"),
        ({"data": None}, "input title has its texts in data, or after the JSON"),
        ({"shape": [1], "data": ["a", "b"]}, "2 texts, and its shape is [1]"),
        ({"datatype": "FP32"}, "datatype"),
        ({"data": [1.5]}, "data[0]"),
    ],
)
def test_a_tensor_that_is_none_is_refused(server: Served, change: dict[str, object], says: str) -> None:
    good = {"shape": [1], "datatype": "BYTES", "data": ["a"]}
    inputs = [{"name": "query", **good}, {"name": "title", **good, **change}]
    answer = server.post("/v2/models/pairs/infer", {"inputs": inputs})
    assert answer.status == 422
    assert says in answer.json["error"]


def test_methods_and_heads(server: Served) -> None:
    answer = server.get("/predict")
    assert (answer.status, answer.json["error"]) == (405, "/predict takes POST, not GET")
    head = server.ask("HEAD", "/v2")
    assert (head.status, head.body) == (200, b"")


def test_a_deadline_that_cannot_be_kept_is_refused_at_once(server: Served) -> None:
    for inputs, most in (([["red sofa", "lamp " * 50]] * 1000, "1"), (list(PAIRS[0]), "0.0001")):
        answer = server.post("/predict", {"inputs": inputs}, x_request_timeout_ms=most)
        assert (answer.status, answer.json["error_type"]) == (503, "deadline")
        assert int(answer.headers["retry-after"]) >= 1
    for wrong in ("0", "-1", "soon", "nan", "inf"):
        assert server.post("/predict", {"inputs": list(PAIRS[0])}, x_request_timeout_ms=wrong).status == 400


def test_a_family_answers_by_the_largest_that_is_in_time(server: Served) -> None:
    inputs = [{"name": name, "shape": [1], "datatype": "BYTES", "data": ["sofa"]} for name in ("query", "title")]
    answer = server.post("/v2/models/either/infer", {"inputs": inputs})
    assert answer.json["model_name"] == "pairs"


def test_an_encoding_that_is_not_read_is_refused(server: Served) -> None:
    answer = server.post("/predict", b"\x1f\x8b", content_encoding="br")
    assert (answer.status, answer.json["error_type"]) == (415, "unsupported_encoding")


def test_metrics_count_requests_rows_and_the_cache(server: Served) -> None:
    for _ in range(3):
        server.post("/predict", {"inputs": ["hot query of metrics", "hot ad of metrics"]})
    text = server.get("/metrics").body.decode()
    assert 'prunetime_requests_total{route="/predict",status="200"}' in text
    assert 'prunetime_rows_total{model="pairs/1"}' in text
    assert 'prunetime_seconds_count{model="pairs/1",stage="compute"}' in text
    hits = next(line for line in text.splitlines() if line.startswith('prunetime_cache_total{found="hit"'))
    assert float(hits.split()[-1]) >= 4


def test_openapi_describes_every_route(server: Served) -> None:
    described = server.get("/openapi.json").json
    assert {"/predict", "/rerank", "/v1/rerank", "/v2/models/{model}/infer", "/metrics"} <= set(described["paths"])
    predict = described["paths"]["/predict"]["post"]
    assert predict["requestBody"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/PredictRequest"
    }
    assert {"200", "400", "413", "422", "429", "503"} <= set(predict["responses"])
