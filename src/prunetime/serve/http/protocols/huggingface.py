"""The route of huggingface_hub's InferenceClient at a server's plain URL; the task of the default model decides the
answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from prunetime.core.task import sigmoid
from prunetime.inference.windows import Windows
from prunetime.serve.core.service import Scored, Service, TextInput
from prunetime.serve.errors import RefusedError
from prunetime.serve.http.protocols.common import SCORING_REFUSALS, check_count, labelled
from prunetime.serve.http.protocols.tei.messages import EmbedRequest, Prediction, SimilarityRequest
from prunetime.serve.http.protocols.tei.routes import compare, embed
from prunetime.serve.http.routing import Request, Response, Route, post


class TextPair(Struct, forbid_unknown_fields=True):
    text: str
    text_pair: str


class Question(Struct, forbid_unknown_fields=True):
    question: str
    context: str


class FeatureExtraction(EmbedRequest, forbid_unknown_fields=True):
    """A request to embed, as EmbedRequest; embeddings are lists of numbers only."""

    encoding_format: Literal["float"] | None = None


class SentenceSimilarity(SimilarityRequest, forbid_unknown_fields=True):
    """A request to compare, as SimilarityRequest."""


class ClassificationParameters(Struct, forbid_unknown_fields=True):
    """Parameters of a classification; `function_to_apply` makes scores of logits (by default the function of the
    model)."""

    top_k: int | None = None
    function_to_apply: Literal["sigmoid", "softmax", "none"] | None = None


class TextClassification(Struct, forbid_unknown_fields=True):
    inputs: str | TextPair | list[str]
    parameters: ClassificationParameters | None = None


class EntityParameters(Struct, forbid_unknown_fields=True):
    """Parameters of token classification, of which none is known: a word is labelled by its first token, and the words
    of a span are joined."""


class TokenClassification(Struct, forbid_unknown_fields=True):
    inputs: str
    parameters: EntityParameters | None = None


class QuestionParameters(Struct, forbid_unknown_fields=True):
    """Parameters of a question; `handle_impossible_answer` can only be what the model was made for."""

    top_k: int | None = None
    handle_impossible_answer: bool | None = None


class QuestionAnswering(Struct, forbid_unknown_fields=True):
    inputs: Question
    parameters: QuestionParameters | None = None


class Entity(Struct):
    """A span of a text with its label; `score` is the least probability of its words."""

    entity_group: str
    score: float
    word: str
    start: int
    end: int


class FoundAnswer(Struct):
    answer: str
    score: float
    start: int
    end: int


class PlainRequest(Struct):
    """A request, whose `inputs` suit the default model's task: a text; a pair as `text` and `text_pair`; `question` and
    `context`; `source_sentence` and `sentences`; or texts to embed. Other fields, and `parameters`, are the task's."""

    inputs: str | list[str | int | list[int]] | dict[str, str | list[str]]
    parameters: dict[str, Any] | None = None


class InferenceClientRoute:
    """The handler of a server's plain URL, over one service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[Route]:
        summary = "What the default model is for, as huggingface_hub's InferenceClient asks it."
        return [post("/", self.infer, PlainRequest, Any, summary, *SCORING_REFUSALS)]

    async def infer(self, request: Request) -> Response:
        task = self._service.named(None).model.manifest.task
        by_head = {
            "pooled": self._labels,
            "answers": self._answers,
            "tags": self._entities,
            "embedding": self._embeddings,
        }
        return await by_head[task.traits.head](request)

    async def _embeddings(self, request: Request) -> Response:
        body = await request.body()
        if isinstance((await request.bodies.decode(body, PlainRequest)).inputs, dict):
            return await compare(self._service, request, await request.bodies.decode(body, SentenceSimilarity))
        return await embed(self._service, request, await request.bodies.decode(body, FeatureExtraction))

    async def _labels(self, request: Request) -> Response:
        asked = await request.json(TextClassification)
        parameters = asked.parameters or ClassificationParameters()
        check_count("top_k", parameters.top_k)
        rows: list[TextInput]
        match asked.inputs:
            case TextPair(text, text_pair):
                rows = [(text, text_pair)]
            case str() as text:
                rows = [text]
            case texts:
                rows = [*texts]
        scored = await self._service.score(request, rows)
        labels, table = _applied(scored, parameters.function_to_apply)
        best = np.argsort(-table, axis=1, kind="stable")[:, : parameters.top_k]
        found = [
            [Prediction(labels[index], float(scores[index])) for index in indices]
            for scores, indices in zip(table, best, strict=True)
        ]
        return Response.of(found, headers=scored.headers)

    async def _entities(self, request: Request) -> Response:
        asked = await request.json(TokenClassification)
        scored = await self._service.score(request, [asked.inputs])
        (tagged,) = scored.scores
        entities = [
            Entity(span.label, span.score, span.text, span.start, span.start + len(span.text)) for span in tagged.spans
        ]
        return Response.of(entities, headers=scored.headers)

    async def _answers(self, request: Request) -> Response:
        asked = await request.json(QuestionAnswering)
        parameters = asked.parameters or QuestionParameters()
        count = 1 if parameters.top_k is None else parameters.top_k
        check_count("top_k", count)
        may_be_empty = self._service.named(None).model.manifest.task.unanswerable
        if parameters.handle_impossible_answer not in (None, may_be_empty):
            raise RefusedError(
                "unusable", f"handle_impossible_answer can only be {str(may_be_empty).lower()} with this model"
            )
        scored = await self._service.score(request, [(asked.inputs.question, asked.inputs.context)])
        windows = scored.inputs
        assert isinstance(windows, Windows)
        (answers,) = windows.best(scored.logits, count)
        found = [FoundAnswer(each.text, each.score, each.start, each.start + len(each.text)) for each in answers]
        return Response.of(found[0] if count == 1 else found, headers=scored.headers)


def _applied(scored: Scored, function: str | None) -> tuple[Sequence[str], NDArray[np.float32]]:
    """The labels of a model, and the score of each for every row [rows, labels], made of logits by `function`."""
    labels, table = labelled(scored, raw=function is not None)
    if function == "sigmoid":
        table = sigmoid(table)
    elif function == "softmax":
        exponentials = np.exp(table - table.max(axis=1, keepdims=True))
        table = exponentials / exponentials.sum(axis=1, keepdims=True)
    return labels, table
