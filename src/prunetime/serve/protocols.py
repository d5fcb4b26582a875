"""The protocols: what each makes of a request's texts, and of scores."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from prunetime import __version__
from prunetime.embedding import unit
from prunetime.runtime.tokenize import Texts
from prunetime.serve.errors import Code, RefusedError
from prunetime.serve.http import Answer, Request, Route
from prunetime.serve.messages import (
    Document,
    DocumentRank,
    DocumentRerankAnswer,
    DocumentRerankRequest,
    Embedding,
    EmbeddingsAnswer,
    EmbeddingsRequest,
    EmbedRequest,
    InferAnswer,
    InferRequest,
    InputTensor,
    Live,
    ModelMetadata,
    ModelState,
    OutputTensor,
    Prediction,
    PredictRequest,
    Rank,
    Ready,
    RerankRequest,
    ServerMetadata,
    ServerReady,
    TensorMetadata,
    Usage,
)
from prunetime.serve.models import Hosted
from prunetime.serve.reading import check_documents, check_parameters, read_documents, read_pairs, read_single
from prunetime.serve.service import Read, Scored, Service
from prunetime.task import Answer as SpanAnswer
from prunetime.task import Task

BUSY: tuple[Code, ...] = ("bad_request", "too_large", "unusable", "overloaded", "deadline", "not_found")


class Protocols:
    """Handlers over one service."""

    def __init__(self, service: Service) -> None:
        self._service, self._models = service, service.models

    def routes(self) -> list[Route]:
        model, version = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
        return [
            Route("GET", "/v2", self.server, gives=ServerMetadata, summary="What this server is."),
            Route("GET", "/v2/health/live", self.live, True, gives=Live, summary="Whether it runs."),
            Route(
                "GET",
                "/v2/health/ready",
                self.ready,
                True,
                gives=ServerReady,
                refuses=("not_ready",),
                summary="Whether it can answer.",
            ),
            Route("GET", "/health", self.health, True, refuses=("not_ready",), summary="Whether it can answer."),
            *(
                route
                for path in (model, version)
                for route in (
                    Route("GET", path, self.model, gives=ModelMetadata, refuses=("not_found",), summary="A model."),
                    Route(
                        "GET",
                        f"{path}/ready",
                        self.model_ready,
                        gives=Ready,
                        refuses=("not_found",),
                        summary="Whether a model can answer.",
                    ),
                    Route(
                        "POST",
                        f"{path}/infer",
                        self.infer,
                        takes=InferRequest,
                        gives=InferAnswer,
                        refuses=BUSY,
                        summary="Score texts.",
                    ),
                )
            ),
            Route(
                "POST",
                "/predict",
                self.predict,
                takes=PredictRequest,
                gives=list[Prediction | list[Prediction]],
                refuses=BUSY,
                summary="Labels of texts, as text-embeddings-inference has it.",
            ),
            Route(
                "POST",
                "/rerank",
                self.rerank,
                takes=RerankRequest,
                gives=list[Rank],
                refuses=BUSY,
                summary="Texts by how well they go with a query, as text-embeddings-inference has it.",
            ),
            *(
                Route(
                    "POST",
                    path,
                    self.rerank_documents,
                    takes=DocumentRerankRequest,
                    gives=DocumentRerankAnswer,
                    refuses=BUSY,
                    summary="Documents by how well they go with a query, as Cohere has it.",
                )
                for path in ("/v1/rerank", "/v2/rerank")
            ),
            Route(
                "POST",
                "/embed",
                self.embed,
                takes=EmbedRequest,
                gives=list[list[float]],
                refuses=BUSY,
                summary="Embeddings of texts, as text-embeddings-inference has it.",
            ),
            Route(
                "POST",
                "/v1/embeddings",
                self.embeddings,
                takes=EmbeddingsRequest,
                gives=EmbeddingsAnswer,
                refuses=BUSY,
                summary="Embeddings of texts, as OpenAI has it.",
            ),
            Route(
                "POST", "/v2/repository/index", self.index, gives=list[ModelState], summary="All models and versions."
            ),
        ]

    async def server(self, _: Request) -> Answer:
        return Answer.of(ServerMetadata("prunetime", __version__, ["model_repository"]))

    async def live(self, _: Request) -> Answer:
        return Answer.of(Live(True))

    async def ready(self, _: Request) -> Answer:
        self._service.check_ready()
        return Answer.of(ServerReady(True))

    async def health(self, _: Request) -> Answer:
        self._service.check_ready()
        return Answer(b"")

    async def model(self, request: Request) -> Answer:
        hosted = self._asked(request)
        manifest, versions = hosted.model.manifest, list(self._models.versions(hosted.name))
        parameters = {
            "kind": manifest.task.kind,
            "labels": list(manifest.task.labels),
            "max_length": manifest.task.max_length,
            "measured": manifest.provenance.get("measured"),
        }
        inputs = [TensorMetadata(name, "BYTES", [-1]) for name in manifest.task.text]
        outputs = _outputs_of(manifest.task)
        return Answer.of(ModelMetadata(hosted.name, versions, "prunetime", inputs, outputs, parameters))

    async def model_ready(self, request: Request) -> Answer:
        return Answer.of(Ready(self._asked(request).name, True))

    async def infer(self, request: Request) -> Answer:
        asked = await request.json(InferRequest)
        check_parameters(asked)
        name, version = request.path["model"], request.path.get("version")
        task = self._service.named(name, version).model.manifest.task
        scored = await self._service.score(request, _rows_of(asked.inputs, task), name, version)
        outputs = _tensors(scored)
        if asked.outputs is not None:
            wanted = {each.name for each in asked.outputs}
            if unknown := wanted - {each.name for each in outputs}:
                raise RefusedError("unusable", f"outputs: there is no {', '.join(sorted(unknown))[:80]}")
            outputs = [each for each in outputs if each.name in wanted]
        hosted = scored.hosted
        answer = InferAnswer(hosted.name, hosted.version, outputs, UNSET if asked.id is None else asked.id)
        return Answer.of(answer, headers=scored.headers)

    async def predict(self, request: Request) -> Answer:
        asked = await request.json(PredictRequest)
        texts, single = _texts_of(asked.inputs)
        scored = await self._service.score(request, texts, read=partial(read_pairs, asked=asked))
        found = _predictions(scored, asked.raw_scores)
        return Answer.of(found[0] if single else found, headers=scored.headers)

    async def rerank(self, request: Request) -> Answer:
        asked = await request.json(RerankRequest)
        read = partial(read_pairs, asked=asked)
        scored, scores = await self._pairs(request, asked.query, asked.texts, None, read)
        if scored and asked.raw_scores:
            scores = _raw(scored)
        texts = asked.texts if asked.return_text else [UNSET] * len(asked.texts)
        ranks = [Rank(int(i), float(scores[i]), texts[i]) for i in np.argsort(-scores, kind="stable")]
        return Answer.of(ranks, headers=scored.headers if scored else None)

    async def rerank_documents(self, request: Request) -> Answer:
        asked = await request.json(DocumentRerankRequest)
        texts = [each if isinstance(each, str) else each.text for each in asked.documents]
        check_documents(asked)
        read = partial(read_documents, asked=asked)
        scored, scores = await self._pairs(request, asked.query, texts, asked.model, read)
        order = np.argsort(-scores, kind="stable")[: asked.top_n]
        documents = [Document(text) if asked.return_documents else UNSET for text in texts]
        results = [DocumentRank(int(i), float(scores[i]), documents[i]) for i in order]
        label = scored.hosted.label if scored else asked.model or ""
        return Answer.of(DocumentRerankAnswer(request.id, label, results), headers=scored.headers if scored else None)

    async def embed(self, request: Request) -> Answer:
        asked = await request.json(EmbedRequest)
        scored = await self._embedded(request, asked.inputs, None, partial(read_single, asked=asked))
        embeddings = _first_numbers(scored, asked.dimensions)
        return Answer.of((unit(embeddings) if asked.normalize else embeddings).tolist(), headers=scored.headers)

    async def embeddings(self, request: Request) -> Answer:
        asked = await request.json(EmbeddingsRequest)
        read = partial(Hosted.read_single, prompt_name=asked.prompt_name)
        scored = await self._embedded(request, asked.input, asked.model, read)
        rows = unit(_first_numbers(scored, asked.dimensions))
        written = list(map(_in_base64, rows)) if asked.encoding_format == "base64" else rows.tolist()
        data = [Embedding(*each) for each in enumerate(written)]
        tokens = len(scored.inputs.tokens.ids)
        return Answer.of(EmbeddingsAnswer(scored.hosted.label, data, Usage(tokens, tokens)), headers=scored.headers)

    async def _embedded(self, request: Request, texts: str | list[str], name: str | None, read: Read) -> Scored:
        rows = [texts] if isinstance(texts, str) else texts
        return await self._service.score(request, rows, name, read=read)

    async def index(self, _: Request) -> Answer:
        return Answer.of([ModelState(each.name, each.version, "READY") for each in self._models])

    def _asked(self, request: Request) -> Hosted:
        return self._service.named(request.path["model"], request.path.get("version"))

    async def _pairs(
        self, request: Request, query: str, texts: Sequence[str], name: str | None, read: Read
    ) -> tuple[Scored | None, Any]:
        """Scores of the query with each text."""
        hosted = self._service.named(name)
        if not hosted.model.manifest.task.ranks:
            raise RefusedError(
                "unusable", f"{hosted.name} ranks nothing: a model that ranks scores pairs by one number"
            )
        if not texts:
            return None, np.zeros(0, np.float32)
        scored = await self._service.score(request, [(query, text) for text in texts], name, read=read)
        return scored, scored.scores


def _rows_of(inputs: Sequence[InputTensor], task: Task) -> list[Texts]:
    """The texts of a request by the names of the task's columns, or in their order where a name is not one of them."""
    if len(inputs) != len(task.text):
        raise RefusedError(
            "unusable", f"{len(inputs)} inputs; this model takes {len(task.text)}: {', '.join(task.text)}"
        )
    named = {each.name: each for each in inputs}
    ordered = [named[name] for name in task.text] if set(named) == set(task.text) else list(inputs)
    columns = []
    for each in ordered:
        data = [text for row in each.data for text in ([row] if isinstance(row, str) else row)]
        if int(np.prod(each.shape, dtype=object)) != len(data):
            raise RefusedError(
                "unusable", f"input {each.name[:80]}: {len(data)} texts, and its shape is {each.shape[:8]}"
            )
        columns.append(data)
    if len({len(column) for column in columns}) > 1:
        raise RefusedError("unusable", f"inputs of {' and '.join(str(len(column)) for column in columns)} rows")
    return list(zip(*columns, strict=True))


def _texts_of(inputs: str | list[str | list[str]]) -> tuple[list[str | Texts], bool]:
    """The rows of a request to predict, and whether it is one: a text, or a pair of two."""
    if isinstance(inputs, str):
        return [inputs], True
    texts = [row for row in inputs if isinstance(row, str)]
    if texts and len(texts) < len(inputs):
        raise RefusedError("unusable", "inputs are a text, a pair of texts, or a list of lists of one or two texts")
    return ([tuple(texts)], True) if texts else ([tuple(row) for row in inputs], False)


def _outputs_of(task: Task) -> list[TensorMetadata]:
    if task.kind == "question-answering":
        return [TensorMetadata(*each, [-1]) for each in (("answer", "BYTES"), ("start", "INT64"), ("score", "FP32"))]
    if task.kind == "token-classification":
        return [TensorMetadata("spans", "BYTES", [-1])]
    return [TensorMetadata("score", "FP32", [-1, len(task.labels)] if len(task.labels) > 2 else [-1])]


def _tensors(scored: Scored) -> list[OutputTensor]:
    scores, task = scored.scores, scored.inputs.task
    if task.kind == "question-answering":
        answers: list[SpanAnswer] = list(scores)
        shape = [len(answers)]
        return [
            OutputTensor("answer", shape, "BYTES", [each.text for each in answers]),
            OutputTensor("start", shape, "INT64", [each.start for each in answers]),
            OutputTensor("score", shape, "FP32", [each.score for each in answers]),
        ]
    if task.kind == "token-classification":
        spans: list[float | int | str] = [
            json.dumps([span._asdict() for span in tagged.spans], ensure_ascii=False) for tagged in scores
        ]
        return [OutputTensor("spans", [len(spans)], "BYTES", spans)]
    return [OutputTensor("score", list(scores.shape), "FP32", scores.ravel().tolist())]


def _predictions(scored: Scored, raw: bool) -> list[list[Prediction]]:
    """For every row its labels, the likeliest first."""
    task, scores = scored.inputs.task, scored.scores
    if task.kind == "question-answering":
        return [[Prediction(answer.text, answer.score)] for answer in scores]
    if task.kind == "token-classification":
        raise RefusedError("unusable", "the model labels words: ask /v2/models/{model}/infer for the spans of a text")
    labels = task.labels or (task.kind,)
    values = scored.logits if raw else scores.reshape(len(scores), -1)
    table: list[list[float]] = values.tolist()
    if len(labels) == 2 and not raw:  # what is scored is the second
        table = [[1.0 - second, second] for (second,) in table]
    rows = ([Prediction(*each) for each in zip(labels, row, strict=True)] for row in table)
    return [sorted(row, key=lambda each: -each.score) for row in rows]


def _first_numbers(scored: Scored, dimensions: int | None) -> NDArray[np.float32]:
    """The embeddings [rows, width], or the first `dimensions` numbers of each."""
    embeddings: NDArray[np.float32] = scored.scores
    width = embeddings.shape[1]
    if dimensions is not None and not 1 <= dimensions <= width:
        raise RefusedError("unusable", f"dimensions is {dimensions}: the model's embeddings have 1 to {width} numbers")
    return embeddings[:, :dimensions]


def _in_base64(row: NDArray[np.float32]) -> str:
    return b64encode(row.astype("<f4").tobytes()).decode()


def _raw(scored: Scored) -> Any:
    """What `scores` are the sigmoid of; of similarity, the cosines themselves."""
    if scored.inputs.task.kind == "similarity":
        return scored.scores
    logits = scored.logits
    return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits[:, 0]
