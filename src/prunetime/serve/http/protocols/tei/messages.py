"""The JSON bodies of text-embeddings-inference. Null is as if a field were not given."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Struct, UnsetType

from prunetime.serve.http.protocols.cohere import Document
from prunetime.serve.http.protocols.common import Embeddable, Truncation


class PredictRequest(Truncation):
    """A request to classify. `inputs` is a text, a pair, or a list of lists of one or two texts. `truncate` says
    whether a text (or pair) of more tokens than the model reads is cut, as by default, or refused;
    `truncation_direction` is the side on which the model cuts. `raw_scores` asks for logits."""

    inputs: str | list[str | list[str]]
    raw_scores: bool | None = None


class Prediction(Struct):
    label: str
    score: float


class RerankRequest(Truncation):
    """A request to rerank. `truncate` and `truncation_direction` are as in PredictRequest; `top_n` is how many of the
    best are returned.

    With `documents` instead of `texts` it is Cohere's request, and gets Cohere's answer.
    """

    query: str
    texts: list[str] | None = None
    documents: list[str | Document] | None = None
    model: str | None = None
    top_n: int | None = None
    raw_scores: bool | None = None
    return_text: bool | None = None


class Rank(Struct):
    index: int
    score: float
    text: str | UnsetType = UNSET


class EmbedRequest(Truncation):
    """A request to embed. `inputs` is a text, the token ids of one (with special tokens), or a list of either.
    `normalize` scales to length 1, as by default. `prompt_name` is the model's prompt to put before each text, by
    default its default one. `truncate` and `truncation_direction` are as in PredictRequest. `dimensions` is how many of
    an embedding's first numbers are returned."""

    inputs: Embeddable
    normalize: bool | None = None
    prompt_name: str | None = None
    dimensions: int | None = None


class EmbedAllRequest(Truncation):
    """A request for token embeddings, as EmbedRequest; they are never scaled."""

    inputs: Embeddable
    prompt_name: str | None = None


class Sentences(Struct):
    source_sentence: str
    sentences: list[str]


class SimilarityParameters(Truncation):
    """Parameters of a comparison, as in EmbedRequest."""

    prompt_name: str | None = None


class SimilarityRequest(Struct):
    inputs: Sentences
    parameters: SimilarityParameters | None = None


class TokenizeRequest(Struct):
    """A request to tokenize, by default with special tokens. `prompt_name` is the model's prompt to put before each
    text, by default none."""

    inputs: str | list[str]
    add_special_tokens: bool | None = None
    prompt_name: str | None = None


class Token(Struct):
    """A token: its `id`, its part of the text, and the characters where it starts and stops (none for a special
    one)."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class DecodeRequest(Struct):
    """A request to decode the token ids of one or several texts, by default without special tokens."""

    ids: list[int | list[int]]
    skip_special_tokens: bool | None = None


class Info(Struct):
    """The model that routes without a model's name ask, and the limits of requests.

    `measured` and `budget` are what was measured of its latency, and asked for, when it was made.
    """

    model_id: str
    model_sha: str | None
    model_dtype: str
    model_type: dict[str, dict[str, Any]]
    task: str
    measured: Any
    budget: Any
    max_input_length: int
    max_batch_tokens: int
    max_client_batch_size: int
    auto_truncate: bool
    version: str
