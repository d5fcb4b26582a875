"""Routes of text-embeddings-inference, of OpenAI and of a server's plain URL, beside what the loaded model says."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served import TASKS, Reply, Served, made_tokenizer, make_artifact

from prunetime import load
from prunetime.inference.model import load_token_engine

TEXTS = ["red sofa", "a lamp for the bath", "sofa"]
QUESTION = {"question": "which legs", "context": "a sofa with red legs stands beside a lamp for the bath"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact of every kind of task."""
    root = tmp_path_factory.mktemp("kinds")
    for name in TASKS:
        make_artifact(root / name.replace(" ", "-"), name)
    return root


@pytest.fixture(scope="module")
def by_default(serve: Callable[..., Served], folder: Path) -> Callable[[str], Served]:
    """A server whose default model is of that name."""
    running: dict[str, Served] = {}

    def of(name: str) -> Served:
        running[name] = running.get(name) or serve(folder / name)
        return running[name]

    return of


def test_similarity(by_default: Callable[[str], Served], folder: Path) -> None:
    for name in ("twins", "prompted"):
        asked = {"inputs": {"source_sentence": "red sofa", "sentences": TEXTS}}
        model = load(folder / name)
        expected = model.score([("red sofa", text) for text in TEXTS])
        for path in ("/similarity", "/"):
            np.testing.assert_allclose(by_default(name).post(path, asked).json, expected, atol=1e-6)
    with_prompt = by_default("prompted").post("/similarity", asked | {"parameters": {"prompt_name": "b"}}).json
    rows = model.embed(["red sofa", *TEXTS], "b")
    np.testing.assert_allclose(
        with_prompt, model.manifest.task.embedding.similarities(rows[[0] * 3], rows[1:]), atol=1e-6
    )


def test_tokens_and_back(by_default: Callable[[str], Served]) -> None:
    server, text = by_default("prompted"), "Red sofas, \u00fcber all"
    (found,) = server.post("/tokenize", {"inputs": text}).json
    encoding = made_tokenizer().encode(text)
    assert [each["id"] for each in found] == encoding.ids
    assert [each["special"] for each in found] == [bool(each) for each in encoding.special_tokens_mask]
    assert (found[0]["text"], found[0]["start"], found[0]["stop"]) == ("[CLS]", None, None)
    inner = found[1:-1]
    assert [(each["start"], each["stop"]) for each in inner] == encoding.offsets[1:-1]
    assert all(each["text"] == text[each["start"] : each["stop"]] for each in inner)
    bare = server.post("/tokenize", {"inputs": [text], "add_special_tokens": False, "prompt_name": "a"}).json
    assert [each["id"] for each in bare[0]] == made_tokenizer().encode("red " + text, add_special_tokens=False).ids
    for skip in (None, True, False):
        decoded = server.post("/decode", {"ids": [encoding.ids, encoding.ids[1:3]], "skip_special_tokens": skip}).json
        rows = [encoding.ids, encoding.ids[1:3]]
        assert decoded == [made_tokenizer().decode(ids, skip_special_tokens=skip is not False) for ids in rows]
    assert server.post("/decode", {"ids": encoding.ids}).json == [made_tokenizer().decode(encoding.ids)]


@pytest.mark.parametrize(
    ("path", "content", "status", "says"),
    [
        ("/tokenize", {"inputs": "a" * 70_000}, 413, "70000 characters are more than the 65536"),
        ("/tokenize", {"inputs": "a", "prompt_name": "none"}, 422, "prompt_name"),
        ("/decode", {"ids": [1, [2]]}, 422, "ids are token ids, or lists of them"),
        ("/decode", {"ids": [10**7]}, 422, "token id 10000000"),
        ("/decode", {"ids": [-1]}, 422, "token id -1"),
        (
            "/embed_all",
            {"inputs": ["sofa " * 22] * 700},
            413,
            "16800 tokens with 128 numbers each are more than the 1048576",
        ),
        ("/embed_all", {"inputs": "a", "truncation_direction": "Left"}, 422, "prompted cuts texts on the right"),
        ("/embed_sparse", {"inputs": "a"}, 422, "no sparse embeddings"),
        ("/embed", {"inputs": [[2, 10, 3]]}, 422, "the prompt 'red ' goes before texts, not before token ids"),
        ("/", {"inputs": "a", "unknown": 1}, 422, "unknown"),
        ("/", {"inputs": "a", "encoding_format": "base64"}, 422, "encoding_format"),
    ],
)
def test_what_cannot_be_is_refused(
    by_default: Callable[[str], Served], path: str, content: dict[str, Any], status: int, says: str
) -> None:
    answer = by_default("prompted").post(path, content)
    assert answer.status == status
    assert says in answer.json["error"]


def test_embeddings_of_every_token(by_default: Callable[[str], Served], folder: Path) -> None:
    model, server = load(folder / "prompted"), by_default("prompted")
    engine = load_token_engine(folder / "prompted", model)
    for name, chosen in ((None, {}), ("b", {"prompt_name": "b"})):
        tokens = model.read_single(TEXTS, name).tokens
        expected = np.split(engine.logits(replace(tokens, skipped=None)), tokens.offsets[1:-1])
        found = server.post("/embed_all", {"inputs": TEXTS, **chosen}).json
        assert [len(rows) for rows in found] == tokens.lengths.tolist()
        for rows, right in zip(found, expected, strict=True):
            np.testing.assert_allclose(rows, right, atol=1e-6)
    ids = made_tokenizer().encode("red sofa").ids
    twins = by_default("twins")
    assert twins.post("/embed_all", {"inputs": "red sofa"}).json == twins.post("/embed_all", {"inputs": ids}).json
    refused = by_default("pairs").post("/embed_all", {"inputs": "a"})
    assert (refused.status, "has no embeddings" in refused.json["error"]) == (422, True)


def test_embeddings_of_tokens_of_an_artifact_that_was_replaced_are_refused(
    serve: Callable[..., Served], tmp_path: Path
) -> None:
    folder = make_artifact(tmp_path / "twins", "twins")
    server = serve(folder)
    shutil.rmtree(folder)
    make_artifact(folder, "prompted")
    answer = server.post("/embed_all", {"inputs": "a"})
    assert answer.status == 422
    assert "twins holds another artifact than the one that was loaded" in answer.json["error"]
    assert str(tmp_path) not in answer.json["error"]
    assert server.post("/embed", {"inputs": "a"}).status == 200


def test_embeddings_of_tokens_that_are_dropped_are_refused(serve: Callable[..., Served], tmp_path: Path) -> None:
    server = serve(make_artifact(tmp_path / "twins", "twins", kept=[0.5]))
    answer = server.post("/embed_all", {"inputs": "a red sofa"})
    assert answer.status == 422
    assert (
        "twins gives no embeddings of tokens: layer 0 drops tokens, but the head reads the rows of all"
        in (answer.json["error"])
    )
    assert server.post("/embed", {"inputs": "a red sofa"}).status == 200


def test_info_says_the_default_model(by_default: Callable[[str], Served]) -> None:
    told = by_default("twins").get("/info").json
    assert (told["model_id"], told["task"], told["max_input_length"]) == ("twins", "similarity", 24)
    assert told["model_type"] == {"embedding": {"pooling": "first"}}
    told = by_default("topics").get("/info").json
    labels = {"shoes": 0, "sofas": 1, "lamps": 2}
    assert told["model_type"]["classifier"]["label2id"] == labels
    assert list(by_default("pairs").get("/info").json["model_type"]) == ["reranker"]


def test_the_plain_url_embeds(by_default: Callable[[str], Served], folder: Path) -> None:
    model, server = load(folder / "prompted"), by_default("prompted")
    asked = {"inputs": TEXTS, "normalize": False, "prompt_name": "b", "truncate": None}
    np.testing.assert_allclose(server.post("/", asked).json, model.embed(TEXTS, "b"), atol=1e-6)


def test_the_plain_url_gives_labels(by_default: Callable[[str], Served], folder: Path) -> None:
    server, model = by_default("topics"), load(folder / "topics")
    logits = model.engine.logits(model.tokenize(["red sofa"]))[0]
    for function, expected in (
        (None, model.score(["red sofa"])[0]),
        ("softmax", model.score(["red sofa"])[0]),
        ("sigmoid", 1 / (1 + np.exp(-logits))),
        ("none", logits),
    ):
        parameters = {"function_to_apply": function, "top_k": 2}
        (found,) = server.post("/", {"inputs": "red sofa", "parameters": parameters}).json
        best = np.argsort(-expected)[:2]
        assert [each["label"] for each in found] == [model.manifest.task.labels[i] for i in best]
        np.testing.assert_allclose([each["score"] for each in found], expected[best], atol=1e-6)
    assert len(server.post("/", {"inputs": TEXTS, "parameters": {}}).json) == 3
    pair = {"inputs": {"text": "red sofa", "text_pair": "lamp"}}
    (found,) = by_default("pairs").post("/", pair).json
    (expected,) = load(folder / "pairs").score([("red sofa", "lamp")])
    assert {each["label"]: each["score"] for each in found}["good"] == pytest.approx(expected, abs=1e-6)
    assert server.post("/", {"inputs": "a", "parameters": {"top_k": 0}}).status == 422


def test_the_plain_url_finds_answers_and_entities(by_default: Callable[[str], Served], folder: Path) -> None:
    model, server = load(folder / "answers"), by_default("answers")
    asked = (QUESTION["question"], QUESTION["context"])
    (best,) = model.answers([asked], 3)
    found = server.post("/", {"inputs": QUESTION, "parameters": {"top_k": 3}}).json
    assert [(each["answer"], each["start"], each["end"]) for each in found] == [
        (each.text, each.start, each.start + len(each.text)) for each in best
    ]
    np.testing.assert_allclose([each["score"] for each in found], [each.score for each in best], rtol=1e-6)
    assert server.post("/", {"inputs": QUESTION}).json == found[0]
    for parameters in ({"handle_impossible_answer": True}, {"max_seq_len": 10}, {"top_k": 0}):
        refused = server.post("/", {"inputs": QUESTION, "parameters": parameters})
        assert (refused.status, next(iter(parameters)) in refused.json["error"]) == (422, True)
    text = "a sofa with red legs"
    (tagged,) = load(folder / "words").score([text])
    entities = by_default("words").post("/", {"inputs": text, "parameters": {}}).json
    assert [(each["entity_group"], each["word"], each["start"]) for each in entities] == [
        (span.label, span.text, span.start) for span in tagged.spans
    ]
    refused = by_default("words").post("/", {"inputs": text, "parameters": {"aggregation_strategy": "simple"}})
    assert (refused.status, "aggregation_strategy" in refused.json["error"]) == (422, True)


def error_of(reply: Reply) -> dict[str, Any]:
    return dict(reply.json["error"])


def test_openai_lists_models_and_says_what_is_wrong_in_its_own_shape(server: Served) -> None:
    listed = server.get("/v1/models").json
    assert listed["object"] == "list"
    assert [each["id"] for each in listed["data"]] == ["pairs", "topics", "answers", "either"]
    assert server.get("/v1/models/topics").json == listed["data"][1]
    missing = server.get("/v1/models/none")
    assert missing.status == 404
    assert error_of(missing)["code"] == "not_found"
    wrong = error_of(server.post("/v1/embeddings", {"input": "a", "dimensions": "many"}))
    assert (wrong["type"], wrong["param"]) == ("invalid_request_error", "dimensions")
    unknown = error_of(server.post("/v1/embeddings", {"input": "a", "truncate": True}))
    assert (unknown["code"], unknown["param"]) == ("unusable", "truncate")


def test_cohere_says_what_is_wrong_in_its_own_shape(server: Served) -> None:
    for path in ("/v1/rerank", "/v2/rerank"):
        refused = server.post(path, {"query": "a", "documents": ["b"], "top_n": 0}, x_request_id="mine")
        assert refused.status == 422
        assert refused.json == {
            "message": "top_n is 0: it must be at least 1",
            "error_type": "unusable",
            "id": "mine",
        }
        answer = server.post(path, {"query": "a sofa", "documents": ["sofa"]}).json
        assert answer["meta"]["api_version"] == {"version": path[2]}
        tokens = len(made_tokenizer().encode("a sofa", "sofa").ids)
        assert answer["meta"]["tokens"]["input_tokens"] == answer["usage"]["total_tokens"] == tokens
