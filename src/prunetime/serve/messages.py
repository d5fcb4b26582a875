"""What requests and answers are made of, by protocol.

Every field that a protocol has for requests is here, and each that would change a number is honoured or refused. Of
unknown fields each protocol says itself what becomes of them: OpenAI and Cohere refuse them, text-embeddings-inference
passes over them, and the Open Inference Protocol has `parameters` for what is not its own, of which those that are not
known are refused.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType


class Failure(Struct):
    """Of every refusal. `error` is a sentence, `error_type` a word of `serve.errors.STATUS`."""

    error: str
    error_type: str
    request_id: str


# Open Inference Protocol v2


class TensorMetadata(Struct):
    name: str
    datatype: str
    shape: list[int]


class ServerMetadata(Struct):
    name: str
    version: str
    extensions: list[str]


class ModelMetadata(Struct):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: dict[str, Any]


class Ready(Struct):
    name: str
    ready: bool


class Live(Struct):
    live: bool


class ServerReady(Struct):
    ready: bool


class InputTensor(Struct):
    """`data` are strings, in the order of the rows; nested lists are flattened."""

    name: str
    shape: list[int]
    datatype: Literal["BYTES"]
    data: list[str | list[str]]
    parameters: dict[str, Any] | None = None


class WantedTensor(Struct):
    name: str
    parameters: dict[str, Any] | None = None


class InferRequest(Struct):
    inputs: list[InputTensor]
    id: str | None = None
    outputs: list[WantedTensor] | None = None
    parameters: dict[str, Any] | None = None


class OutputTensor(Struct):
    name: str
    shape: list[int]
    datatype: Literal["FP32", "INT64", "BYTES"]
    data: list[float | int | str]


class InferAnswer(Struct):
    model_name: str
    model_version: str
    outputs: list[OutputTensor]
    id: str | UnsetType = UNSET


class ModelState(Struct):
    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]


class LoadRequest(Struct):
    """`artifact` is a folder under the model root; without it, the newest version is read again."""

    artifact: str | None = None
    keep: bool = False
    """Whether older versions stay."""


class UnloadRequest(Struct):
    version: str | None = None


# text-embeddings-inference

Side = Literal["Left", "Right", "left", "right"]


class PredictRequest(Struct):
    """`inputs`: a text; a pair; or a list of lists of one or two texts. `truncate`: whether a text (or pair) of more
    tokens than the model reads is cut (as it is by default) or refused; `truncation_direction`: the side on which the
    model cuts texts."""

    inputs: str | list[str | list[str]]
    raw_scores: bool = False
    truncate: bool | None = None
    truncation_direction: Side | None = None


class Prediction(Struct):
    label: str
    score: float


class RerankRequest(Struct):
    """`truncate` and `truncation_direction` as in PredictRequest."""

    query: str
    texts: list[str]
    raw_scores: bool = False
    return_text: bool = False
    truncate: bool | None = None
    truncation_direction: Side | None = None


class Rank(Struct):
    index: int
    score: float
    text: str | UnsetType = UNSET


class EmbedRequest(Struct):
    """`normalize`: to a length of 1. `prompt_name`: the model's prompt that goes before each text; by default its
    default one. `truncate`: whether a text of more tokens than the model reads is cut (as it is by default) or refused;
    `truncation_direction`: the side on which the model cuts texts. `dimensions`: how many of an embedding's first
    numbers are given."""

    inputs: str | list[str]
    normalize: bool = True
    prompt_name: str | None = None
    truncate: bool | None = None
    truncation_direction: Side | None = None
    dimensions: int | None = None


# OpenAI's embeddings


class EmbeddingsRequest(Struct, forbid_unknown_fields=True):
    """`base64` is of the bytes of float32 numbers, little-endian. `dimensions` and `prompt_name` as in EmbedRequest;
    `user` changes nothing."""

    input: str | list[str]
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    prompt_name: str | None = None
    user: str | None = None


class Embedding(Struct):
    index: int
    embedding: list[float] | str
    object: Literal["embedding"] = "embedding"


class Usage(Struct):
    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(Struct):
    model: str
    data: list[Embedding]
    usage: Usage
    object: Literal["list"] = "list"


# Cohere's rerank


class Document(Struct):
    text: str


class DocumentRerankRequest(Struct, forbid_unknown_fields=True):
    """Of version 1 (`rank_fields`, `max_chunks_per_doc`, `return_documents`) and 2 (`max_tokens_per_doc`, `priority`,
    which changes nothing here). `max_tokens_per_doc`: no document may have more; none is cut to it."""

    query: str
    documents: list[str | Document]
    model: str | None = None
    top_n: int | None = None
    return_documents: bool = False
    rank_fields: list[str] | None = None
    max_chunks_per_doc: int | None = None
    max_tokens_per_doc: int | None = None
    priority: int | None = None


class DocumentRank(Struct):
    index: int
    relevance_score: float
    document: Document | UnsetType = UNSET


class DocumentRerankAnswer(Struct):
    id: str
    model: str
    results: list[DocumentRank]
