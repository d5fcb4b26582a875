"""Every field of a request's body that its protocol defines is honoured or refused by name; numbers are the model's."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from inputs_page import Row, check_section, verdict
from numpy.typing import NDArray
from served import Reply, Served, made_tokenizer, make_artifact

from prunetime import load
from prunetime.errors import InputError
from prunetime.inference.model import load_token_engine
from prunetime.serve.http.protocols import cohere, openai
from prunetime.serve.http.protocols.oip import messages as oip
from prunetime.serve.http.protocols.tei import messages as tei

QUERY, TEXTS = "red sofa", ["lamp", "a sofa with red legs", "sofa"]
LONG = "red sofa with legs " * 20
INFER = {
    "inputs": [
        {"name": "query", "shape": [3], "datatype": "BYTES", "data": [QUERY] * 3},
        {"name": "title", "shape": [3], "datatype": "BYTES", "data": TEXTS},
    ]
}
"""What each route is asked without the field that is tried."""
BODIES: dict[str, dict[str, Any]] = {
    "/v1/embeddings": {"input": TEXTS, "model": "twins"},
    "/embed": {"inputs": TEXTS},
    "/embed_all": {"inputs": TEXTS},
    "/v1/rerank": {"query": QUERY, "documents": TEXTS, "model": "pairs"},
    "/v2/rerank": {"query": QUERY, "documents": TEXTS, "model": "pairs"},
    "/rerank": {"query": QUERY, "texts": TEXTS},
    "/similarity": {"inputs": {"source_sentence": QUERY, "sentences": TEXTS}},
    "/predict": {"inputs": [[QUERY, text] for text in TEXTS]},
    "/v2/models/pairs/infer": INFER,
}

Numbers = NDArray[np.float64]
Expected = Callable[["Directly"], Numbers]


class Directly:
    """What the models say without a server."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.pairs, self.twins = load(root / "pairs"), load(root / "twins")

    def scores(self, texts: list[str] = TEXTS, query: str = QUERY) -> Numbers:
        """Of the class `good`, [texts]."""
        return np.float64(self.pairs.score([(query, text) for text in texts]))

    def token_embeddings(self, texts: list[str] = TEXTS) -> Numbers:
        """Of the tokens of all texts, one after the other."""
        engine = load_token_engine(self.root / "twins", self.twins)
        return np.float64(engine.logits(self.twins.read_single(texts).tokens))

    def similarities(self, texts: list[str] = TEXTS, query: str = QUERY) -> Numbers:
        return np.float64(self.twins.score([(query, text) for text in texts]))

    def logits(self) -> Numbers:
        tokens = self.pairs.tokenize([(QUERY, text) for text in TEXTS])
        return np.float64(self.pairs.engine.logits(tokens))

    def embeddings(self, texts: list[str] = TEXTS, dimensions: int | None = None, unit: bool = True) -> Numbers:
        tokens = self.twins.read_single(texts).tokens
        found = np.float64(self.twins.engine.logits(tokens))[:, :dimensions]
        return found / np.linalg.norm(found, axis=1, keepdims=True) if unit else found


class Try(NamedTuple):
    """A value of a field, as the page shows it, in a body; `expected` of the model, None where it does not matter."""

    path: str
    field: str
    shown: str
    change: dict[str, Any]
    expected: Expected | None = None
    headers: dict[str, str] = {}  # noqa: RUF012 (nobody writes to it)
    query: str = ""


USUAL: dict[str, Expected] = {
    "/v1/embeddings": Directly.embeddings,
    "/embed": Directly.embeddings,
    "/embed_all": Directly.token_embeddings,
    "/v1/rerank": Directly.scores,
    "/v2/rerank": Directly.scores,
    "/rerank": Directly.scores,
    "/similarity": lambda direct: direct.similarities(),
    "/predict": Directly.scores,
    "/v2/models/pairs/infer": Directly.scores,
}


def with_part(tensor: str, **change: Any) -> dict[str, Any]:
    """The body of `infer` with another query or title."""
    return {"inputs": [each | change if each["name"] == tensor else each for each in INFER["inputs"]]}


def of_cut(path: str, field: str) -> list[Try]:
    """`truncate` and `truncation_direction` in a request of text-embeddings-inference; texts are of `field`."""
    too_long = {"texts": [LONG, *TEXTS[1:]]} if field == "texts" else {"inputs": _long(BODIES[path]["inputs"])}
    cut = {"texts": LONG, "inputs": LONG}[field]
    expected = USUAL[path] if "embed" in path else Directly.scores
    return [
        Try(path, "truncate", "true, a text too long", too_long | {"truncate": True},
            lambda direct: expected(direct, [cut, *TEXTS[1:]])),
        Try(path, "truncate", "false", {"truncate": False}),
        Try(path, "truncate", "false, a text too long", too_long | {"truncate": False}),
        Try(path, "truncation_direction", "Right", {"truncation_direction": "Right"}),
        Try(path, "truncation_direction", "Left", {"truncation_direction": "Left"}),
    ]  # fmt: skip


def _long(inputs: list[Any]) -> list[Any]:
    first = LONG if isinstance(inputs[0], str) else [QUERY, LONG]
    return [first, *inputs[1:]]


def ids_of(texts: list[str]) -> list[list[int]]:
    """The ids of texts, special tokens included, as the tokenizers library has them."""
    return [encoding.ids for encoding in made_tokenizer().encode_batch(texts)]


def first_tokens(text: str, count: int) -> str:
    """The part of a text that its first tokens stand for, as the tokenizers library has them."""
    offsets = made_tokenizer().encode(text, add_special_tokens=False).offsets
    return text[: offsets[:count][-1][1]]


def of_documents(path: str) -> list[Try]:
    documents: list[Any] = [TEXTS[0], {"text": TEXTS[1], "price": 3}, TEXTS[2]]
    return [
        Try(path, "documents", "an object with a text", {"documents": documents}),
        Try(path, "documents", "an object without one", {"documents": [{"title": "sofa"}]}),
        Try(path, "model", "one that is not served", {"model": "none"}),
        Try(path, "top_n", "2", {"top_n": 2}, lambda direct: _best(direct.scores(), 2)),
        Try(path, "top_n", "0", {"top_n": 0}),
        Try(path, "return_documents", "true", {"return_documents": True}),
        Try(path, "rank_fields", '["text"]', {"rank_fields": ["text"]}),
        Try(path, "rank_fields", '["title"]', {"rank_fields": ["title"]}),
        Try(path, "max_chunks_per_doc", "1", {"max_chunks_per_doc": 1}),
        Try(path, "max_chunks_per_doc", "10", {"max_chunks_per_doc": 10}),
        Try(path, "max_tokens_per_doc", "more than there are", {"max_tokens_per_doc": 4096}),
        Try(path, "max_tokens_per_doc", "2", {"max_tokens_per_doc": 2},
            lambda direct: direct.scores([first_tokens(text, 2) for text in TEXTS])),
        Try(path, "max_tokens_per_doc", "0", {"max_tokens_per_doc": 0}),
        Try(path, "priority", "0", {"priority": 0}),
        Try(path, "priority", "7", {"priority": 7}),
        Try(path, "truncation", "true (no field of Cohere's)", {"truncation": True}),
    ]  # fmt: skip


def of_documents_in_rerank() -> list[Try]:
    """`/rerank` with documents is Cohere's."""
    without_texts = {"texts": None, "documents": TEXTS}
    return [
        Try("/rerank", "documents", "in place of texts", without_texts),
        Try("/rerank", "documents", "beside texts", {"documents": TEXTS}),
        *(each._replace(path="/rerank", shown=f"{each.shown}, with documents", change=without_texts | each.change)
          for each in of_documents("/v1/rerank") if each.field != "documents"),
    ]  # fmt: skip


def _best(scores: Numbers, count: int) -> Numbers:
    """The scores without those of all but the best."""
    return np.where(scores >= np.sort(scores)[-count], scores, np.nan)


INFER_PATH = "/v2/models/pairs/infer"
TRIES = [
    Try("/v1/embeddings", "input", "one text", {"input": TEXTS[0]}, lambda direct: direct.embeddings(TEXTS[:1])),
    Try("/v1/embeddings", "input", "token ids of the texts", {"input": ids_of(TEXTS)}),
    Try("/v1/embeddings", "input", "token ids of one", {"input": ids_of(TEXTS)[0]},
        lambda direct: direct.embeddings(TEXTS[:1])),
    Try("/v1/embeddings", "input", "token ids without special tokens",
        {"input": [[10, 11, 12, 13], [12, 13, 14], [15, 16, 17]]}),
    Try("/v1/embeddings", "input", "ids that no token has", {"input": [[2, 10**6, 3]]}),
    Try("/v1/embeddings", "input", "texts and token ids", {"input": [[2, 10, 3], "sofa"]}),
    Try("/v1/embeddings", "model", "one that is not served", {"model": "none"}),
    Try("/v1/embeddings", "encoding_format", "base64", {"encoding_format": "base64"}),
    Try("/v1/embeddings", "encoding_format", "int8", {"encoding_format": "int8"}),
    Try("/v1/embeddings", "dimensions", "8", {"dimensions": 8}, lambda direct: direct.embeddings(dimensions=8)),
    Try("/v1/embeddings", "dimensions", "0, 100000", {"dimensions": 0}),
    Try("/v1/embeddings", "dimensions", "0, 100000", {"dimensions": 100_000}),
    Try("/v1/embeddings", "user", "a name", {"user": "me"}),
    Try("/v1/embeddings", "prompt_name", "one that the model has not", {"prompt_name": "missing"}),
    Try("/v1/embeddings", "truncate", "true (no field of OpenAI's)", {"truncate": True}),
    *of_documents("/v1/rerank"),
    *of_documents("/v2/rerank"),
    Try("/embed", "inputs", "one text", {"inputs": TEXTS[0]}, lambda direct: direct.embeddings(TEXTS[:1])),
    Try("/embed", "normalize", "false", {"normalize": False}, lambda direct: direct.embeddings(unit=False)),
    Try("/embed", "prompt_name", "one that the model has not", {"prompt_name": "missing"}),
    Try("/embed", "dimensions", "8", {"dimensions": 8}, lambda direct: direct.embeddings(dimensions=8)),
    Try("/embed", "dimensions", "0", {"dimensions": 0}),
    *of_cut("/embed", "inputs"),
    Try("/embed", "unknown", "any", {"unknown": 1}),
    Try("/embed_all", "inputs", "one text", {"inputs": TEXTS[0]}, lambda direct: direct.token_embeddings(TEXTS[:1])),
    Try("/embed_all", "inputs", "token ids of the texts", {"inputs": ids_of(TEXTS)}),
    Try("/embed_all", "prompt_name", "one that the model has not", {"prompt_name": "missing"}),
    *of_cut("/embed_all", "inputs"),
    Try("/embed_all", "unknown", "any", {"unknown": 1}),
    Try("/predict", "raw_scores", "true", {"raw_scores": True}, lambda direct: direct.logits()[:, 1]),
    *of_cut("/predict", "inputs"),
    Try("/predict", "unknown", "any", {"unknown": 1}),
    *of_documents_in_rerank(),
    Try("/rerank", "top_n", "2", {"top_n": 2}, lambda direct: _best(direct.scores(), 2)),
    Try("/rerank", "top_n", "0", {"top_n": 0}),
    Try("/rerank", "model", "one that is not served", {"model": "none"}),
    Try("/rerank", "raw_scores", "true", {"raw_scores": True}, lambda direct: -np.subtract(*direct.logits().T)),
    Try("/rerank", "return_text", "true", {"return_text": True}),
    *of_cut("/rerank", "texts"),
    Try("/rerank", "unknown", "any", {"unknown": 1}),
    Try("/similarity", "parameters.prompt_name", "one that the model has not", {"parameters": {"prompt_name": "none"}}),
    Try("/similarity", "parameters.truncate", "false", {"parameters": {"truncate": False}}),
    Try("/similarity", "parameters.truncate", "false, a text too long",
        {"inputs": {"source_sentence": LONG, "sentences": TEXTS}, "parameters": {"truncate": False}}),
    Try("/similarity", "parameters.truncation_direction", "Left", {"parameters": {"truncation_direction": "Left"}}),
    Try(INFER_PATH, "id", "a text", {"id": "7"}),
    Try(INFER_PATH, "inputs[].name", "one that the model has not", with_part("title", name="titel")),
    Try(INFER_PATH, "inputs[].name", "the same twice", with_part("title", name="query")),
    Try(INFER_PATH, "inputs[].shape", "another product", with_part("title", shape=[2])),
    Try(INFER_PATH, "inputs[].shape", "[1, 3]", with_part("title", shape=[1, 3])),
    Try(INFER_PATH, "inputs[].shape", "[3, 1]", with_part("title", shape=[3, 1])),
    Try(INFER_PATH, "inputs[].datatype", "FP32", with_part("title", datatype="FP32")),
    Try(INFER_PATH, "inputs[].data", "one text the longer",
        with_part("title", data=[LONG, *TEXTS[1:]]), lambda direct: direct.scores([LONG, *TEXTS[1:]])),
    Try(INFER_PATH, "inputs[].parameters.content_type", "str", with_part("title", parameters={"content_type": "str"})),
    Try(INFER_PATH, "inputs[].parameters.content_type", "np", with_part("title", parameters={"content_type": "np"})),
    Try(INFER_PATH, "inputs[].parameters.shared_memory_region", "a name",
        with_part("title", parameters={"shared_memory_region": "x"})),
    Try(INFER_PATH, "inputs[].parameters.binary_data_size", "8",
        with_part("title", parameters={"binary_data_size": 8})),
    Try(INFER_PATH, "outputs", "the score", {"outputs": [{"name": "score"}]}),
    Try(INFER_PATH, "outputs", "one that there is not", {"outputs": [{"name": "missing"}]}),
    Try(INFER_PATH, "outputs[].parameters.binary_data", "true",
        {"outputs": [{"name": "score", "parameters": {"binary_data": True}}]}),
    Try(INFER_PATH, "outputs[].parameters.binary_data", "1",
        {"outputs": [{"name": "score", "parameters": {"binary_data": 1}}]}),
    Try(INFER_PATH, "outputs[].parameters.classification", "1",
        {"outputs": [{"name": "score", "parameters": {"classification": 1}}]},
        lambda direct: np.maximum(direct.scores(), 1 - direct.scores())),
    Try(INFER_PATH, "outputs[].parameters.unknown", "any",
        {"outputs": [{"name": "score", "parameters": {"unknown": 1}}]}),
    Try(INFER_PATH, "parameters.binary_data_output", "true", {"parameters": {"binary_data_output": True}}),
    Try(INFER_PATH, "parameters.timeout", "a minute", {"parameters": {"timeout": 60_000_000}}),
    Try(INFER_PATH, "parameters.timeout", "-1", {"parameters": {"timeout": -1}}),
    *(Try(INFER_PATH, f"parameters.{name}", "1", {"parameters": {name: 1}})
      for name in ("priority", "sequence_id", "sequence_start", "sequence_end")),
    Try(INFER_PATH, "parameters.unknown", "any", {"parameters": {"unknown": 1}}),
    Try(INFER_PATH, "inference-header-content-length", "more than the body has", {},
        headers={"inference-header-content-length": "100000"}),
    *(Try(path, "any=", "in the query of the URL", {}, query="any=1") for path in BODIES),
]  # fmt: skip


@pytest.fixture(scope="module")
def direct(tmp_path_factory: pytest.TempPathFactory) -> Directly:
    root = tmp_path_factory.mktemp("models")
    for name in ("pairs", "twins"):
        make_artifact(root / name, name)
    return Directly(root)


@pytest.fixture(scope="module")
def servers(direct: Directly, serve: Callable[..., Served]) -> dict[str, Served]:
    """By route: those without a model's name ask the first one."""
    embedding, scoring = serve(direct.root / "twins"), serve(direct.root / "pairs")
    return {path: embedding if "embed" in path or path == "/similarity" else scoring for path in BODIES}


def numbers(path: str, content: Any) -> Numbers:
    """The numbers of an answer, in the order of the texts; those that a rerank leaves out are NaN."""
    if path == "/v1/embeddings":
        rows = [each["embedding"] for each in content["data"]]
        return np.float64([np.frombuffer(b64decode(row), "<f4") if isinstance(row, str) else row for row in rows])
    if path == "/embed_all":
        return np.float64(np.concatenate(content))
    if path in ("/embed", "/similarity"):
        return np.float64(content)
    if path == "/predict":
        return np.float64([next(each["score"] for each in row if each["label"] == "good") for row in content])
    if path.endswith("/infer"):
        return np.float64([str(each).split(":")[0] for each in content["outputs"][0]["data"]])
    ranked = content["results"] if path.endswith("rerank") and isinstance(content, dict) else content
    found = np.full(len(TEXTS), np.nan)
    for each in ranked:
        found[each["index"]] = each.get("relevance_score", each.get("score"))
    return found


def said_by(reply: Reply) -> str:
    """What a refusal says, where clients of OpenAI and Cohere look for it, and where all others do."""
    error = reply.json.get("error", reply.json.get("message"))
    return error["message"] if isinstance(error, dict) else error


def answered(server: Served, tried: Try) -> Numbers:
    """Raises InputError where the server refuses with a status from 400 to 499."""
    path = f"{tried.path}?{tried.query}" if tried.query else tried.path
    reply = server.post(path, BODIES[tried.path] | tried.change, **tried.headers)
    if 400 <= reply.status < 500:
        raise InputError(said_by(reply))
    assert reply.status == 200, reply.json
    if length := reply.headers.get("inference-header-content-length"):
        return np.float64(np.frombuffer(reply.body[int(length) :], "<f4"))
    return numbers(tried.path, reply.json)


def close(one: object, other: object) -> bool:
    a, b = np.asarray(one), np.asarray(other)
    return a.shape == b.shape and np.allclose(a, b, rtol=1e-5, atol=1e-6, equal_nan=True)


def row_of(tried: Try, servers: dict[str, Served], direct: Directly) -> Row:
    usual = USUAL[tried.path](direct)
    expected = tried.expected(direct) if tried.expected else usual
    found = verdict(
        tried.field.rstrip("="),
        lambda: answered(servers[tried.path], tried),
        not close(expected, usual),
        lambda said: close(said, expected),
    )
    shown = tried.path.replace("pairs", "{model}")
    return Row(f"POST {shown}", tried.field, tried.shown, found)


INTRODUCTION = """\
Fields of the protocols of `prunetime serve`: OpenAI's embeddings, Cohere's (and Jina's) rerank of versions 1 and 2,
text-embeddings-inference's predict, rerank, embed, embed_all and similarity, and infer of the Open Inference Protocol
v2 with its extensions. Numbers are those of the model called directly. Of fields that no protocol has, the routes of
OpenAI and Cohere refuse every one by name, as these do themselves; those of text-embeddings-inference pass over them,
as it does, but for `/rerank` with `documents`, which is Cohere's. Null is as if a field were not given, in every
protocol."""


def optional_fields() -> list[tuple[str, str]]:
    """The fields that requests of each route may leave out."""
    takes = {
        "/v1/embeddings": openai.EmbeddingsRequest,
        "/embed": tei.EmbedRequest,
        "/embed_all": tei.EmbedAllRequest,
        "/v1/rerank": cohere.DocumentRerankRequest,
        "/v2/rerank": cohere.DocumentRerankRequest,
        "/rerank": tei.RerankRequest,
        "/similarity": tei.SimilarityRequest,
        "/predict": tei.PredictRequest,
        INFER_PATH: oip.InferRequest,
    }
    return [
        (path, field.name)
        for path in BODIES
        for field in msgspec.structs.fields(takes[path])
        if not field.required and BODIES[path].get(field.name) is None
    ]


def test_null_is_not_given(servers: dict[str, Served]) -> None:
    for path, body in BODIES.items():
        nothing = {name: None for of, name in optional_fields() if of == path}
        assert nothing
        reply = servers[path].post(path, body | nothing)
        assert reply.status == 200, reply.json
        np.testing.assert_array_equal(numbers(path, reply.json), numbers(path, servers[path].post(path, body).json))


def test_fields_of_requests(servers: dict[str, Served], direct: Directly) -> None:
    rows = list(dict.fromkeys(row_of(tried, servers, direct) for tried in TRIES))
    check_section("Request bodies", INTRODUCTION, rows)
