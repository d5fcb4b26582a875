"""The JSON bodies of text-embeddings-inference. Null is as if a field were not given."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Struct, UnsetType

from prunetime.serve.http.protocols.cohere import Document
from prunetime.serve.http.protocols.common import Embeddable, Side


class PredictRequest(Struct):
    """`inputs`: a text; a pair; or a list of lists of one or two texts. `truncate`: whether a text (or pair) of more
    tokens than the model reads is cut (as it is by default) or refused; `truncation_direction`: the side on which the
    model cuts texts. `raw_scores`: whether scores are logits."""

    inputs: str | list[str | list[str]]
    raw_scores: bool | None = None
    truncate: bool | None = None
    truncation_direction: Side | None = None


class Prediction(Struct):
    label: str
    score: float


class RerankRequest(Struct):
    """`truncate` and `truncation_direction` as in PredictRequest; `top_n`: how many of the best are given.

    With `documents` instead of `texts` it is Cohere's request, and so is the answer.
    """

    query: str
    texts: list[str] | None = None
    documents: list[str | Document] | None = None
    model: str | None = None
    top_n: int | None = None
    raw_scores: bool | None = None
    return_text: bool | None = None
    truncate: bool | None = None
    truncation_direction: Side | None = None


class Rank(Struct):
    index: int
    score: float
    text: str | UnsetType = UNSET


class EmbedRequest(Struct):
    """`inputs`: a text, the token ids of one (special tokens included), or a list of either. `normalize`: to a length
    of 1, as by default. `prompt_name`: the model's prompt that goes before each text; by default its default one.
    `truncate`: whether a text of more tokens than the model reads is cut (as it is by default) or refused;
    `truncation_direction`: the side on which the model cuts texts. `dimensions`: how many of an embedding's first
    numbers are given."""

    inputs: Embeddable
    normalize: bool | None = None
    prompt_name: str | None = None
    truncate: bool | None = None
    truncation_direction: Side | None = None
    dimensions: int | None = None


class EmbedAllRequest(Struct):
    """As in EmbedRequest; embeddings of tokens are never scaled."""

    inputs: Embeddable
    prompt_name: str | None = None
    truncate: bool | None = None
    truncation_direction: Side | None = None


class Sentences(Struct):
    source_sentence: str
    sentences: list[str]


class SimilarityParameters(Struct):
    """As in EmbedRequest."""

    truncate: bool | None = None
    truncation_direction: Side | None = None
    prompt_name: str | None = None


class SimilarityRequest(Struct):
    inputs: Sentences
    parameters: SimilarityParameters | None = None


class TokenizeRequest(Struct):
    """`add_special_tokens`: as by default. `prompt_name`: the model's prompt that goes before each text; by default
    none."""

    inputs: str | list[str]
    add_special_tokens: bool | None = None
    prompt_name: str | None = None


class Token(Struct):
    """A token's `id`, its part of the text, and the characters where it starts and stops; a special one has none."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class DecodeRequest(Struct):
    """`ids` are of a text, or of several. `skip_special_tokens`: as by default."""

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
