"""What requests and answers are made of, by protocol; unknown fields are passed over, as these protocols grow."""

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


class WantedTensor(Struct):
    name: str


class InferRequest(Struct):
    inputs: list[InputTensor]
    id: str | None = None
    outputs: list[WantedTensor] | None = None


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


class PredictRequest(Struct):
    """`inputs`: a text; a pair; or a list of lists of one or two texts."""

    inputs: str | list[str | list[str]]
    raw_scores: bool = False


class Prediction(Struct):
    label: str
    score: float


class RerankRequest(Struct):
    query: str
    texts: list[str]
    raw_scores: bool = False
    return_text: bool = False


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
    truncation_direction: Literal["Left", "Right", "left", "right"] | None = None
    dimensions: int | None = None


# OpenAI's embeddings


class EmbeddingsRequest(Struct):
    """`base64` is of the bytes of float32 numbers, little-endian. `dimensions` and `prompt_name` as in EmbedRequest."""

    input: str | list[str]
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    prompt_name: str | None = None


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


class DocumentRerankRequest(Struct):
    query: str
    documents: list[str | Document]
    model: str | None = None
    top_n: int | None = None
    return_documents: bool = False


class DocumentRank(Struct):
    index: int
    relevance_score: float
    document: Document | UnsetType = UNSET


class DocumentRerankAnswer(Struct):
    id: str
    model: str
    results: list[DocumentRank]
