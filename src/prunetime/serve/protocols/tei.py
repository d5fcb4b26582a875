"""The routes of text-embeddings-inference."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from msgspec import UNSET, Struct, UnsetType

from prunetime.embedding import unit
from prunetime.runtime.inputs import Inputs
from prunetime.runtime.tokenize import Texts
from prunetime.serve.errors import RefusedError
from prunetime.serve.http import Answer, Request, Route
from prunetime.serve.models import Hosted
from prunetime.serve.protocols.common import SCORING_REFUSALS, embed_texts, first_numbers, labelled, score_pairs
from prunetime.serve.service import Scored, Service

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


class TextEmbeddingsInference:
    """The handlers of text-embeddings-inference over one service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[Route]:
        return [
            Route(
                "POST",
                "/predict",
                self.predict,
                takes=PredictRequest,
                gives=list[Prediction | list[Prediction]],
                refuses=SCORING_REFUSALS,
                summary="Labels of texts, as text-embeddings-inference has it.",
            ),
            Route(
                "POST",
                "/rerank",
                self.rerank,
                takes=RerankRequest,
                gives=list[Rank],
                refuses=SCORING_REFUSALS,
                summary="Texts by how well they go with a query, as text-embeddings-inference has it.",
            ),
            Route(
                "POST",
                "/embed",
                self.embed,
                takes=EmbedRequest,
                gives=list[list[float]],
                refuses=SCORING_REFUSALS,
                summary="Embeddings of texts, as text-embeddings-inference has it.",
            ),
        ]

    async def predict(self, request: Request) -> Answer:
        asked = await request.json(PredictRequest)
        texts, single = _rows_of(asked.inputs)
        scored = await self._service.score(request, texts, read=partial(read_pairs, asked=asked))
        found = _predictions(scored, asked.raw_scores)
        return Answer.of(found[0] if single else found, headers=scored.headers)

    async def rerank(self, request: Request) -> Answer:
        asked = await request.json(RerankRequest)
        read = partial(read_pairs, asked=asked)
        scored, scores = await score_pairs(self._service, request, asked.query, asked.texts, None, read)
        if scored and asked.raw_scores:
            scores = _raw(scored)
        texts = asked.texts if asked.return_text else [UNSET] * len(asked.texts)
        ranks = [Rank(int(i), float(scores[i]), texts[i]) for i in np.argsort(-scores, kind="stable")]
        return Answer.of(ranks, headers=scored.headers if scored else None)

    async def embed(self, request: Request) -> Answer:
        asked = await request.json(EmbedRequest)
        scored = await embed_texts(self._service, request, asked.inputs, None, partial(read_single, asked=asked))
        embeddings = first_numbers(scored, asked.dimensions)
        return Answer.of((unit(embeddings) if asked.normalize else embeddings).tolist(), headers=scored.headers)


def _rows_of(inputs: str | list[str | list[str]]) -> tuple[list[str | Texts], bool]:
    """The rows of a request to predict, and whether it is one: a text, or a pair of two."""
    if isinstance(inputs, str):
        return [inputs], True
    texts = [row for row in inputs if isinstance(row, str)]
    if texts and len(texts) < len(inputs):
        raise RefusedError("unusable", "inputs are a text, a pair of texts, or a list of lists of one or two texts")
    return ([tuple(texts)], True) if texts else ([tuple(row) for row in inputs], False)


def _predictions(scored: Scored, raw: bool) -> list[list[Prediction]]:
    """For every row its labels, the likeliest first."""
    task, scores = scored.inputs.task, scored.scores
    if task.kind == "question-answering":
        return [[Prediction(answer.text, answer.score)] for answer in scores]
    if task.kind == "token-classification":
        raise RefusedError("unusable", "the model labels words: ask /v2/models/{model}/infer for the spans of a text")
    labels, table = labelled(scored, raw)
    rows = ([Prediction(*each) for each in zip(labels, row, strict=True)] for row in table.tolist())
    return [sorted(row, key=lambda each: -each.score) for row in rows]


def _raw(scored: Scored) -> Any:
    """What `scores` are the sigmoid of; of similarity, the cosines themselves."""
    if scored.inputs.task.kind == "similarity":
        return scored.scores
    logits = scored.logits
    return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits[:, 0]


def read_pairs(hosted: Hosted, rows: Sequence[str | Texts], asked: PredictRequest | RerankRequest) -> Inputs:
    """The rows that the model reads of texts or pairs to be scored. Raises RefusedError where it cannot."""
    _check_side(hosted, asked)
    return hosted.read(rows, cut=asked.truncate is not False)


def read_single(hosted: Hosted, texts: Sequence[str], asked: EmbedRequest) -> Inputs:
    """The rows that the model reads of texts to be embedded. Raises RefusedError where it cannot."""
    _check_side(hosted, asked)
    return hosted.read_single(texts, asked.prompt_name, cut=asked.truncate is not False)


def _check_side(hosted: Hosted, asked: EmbedRequest | PredictRequest | RerankRequest) -> None:
    side = "left" if hosted.model.tokenizer.cuts_left else "right"
    if asked.truncation_direction is not None and asked.truncation_direction.lower() != side:
        raise RefusedError(
            "unusable", f"truncation_direction {asked.truncation_direction!r}: {hosted.name} cuts texts on the {side}"
        )
