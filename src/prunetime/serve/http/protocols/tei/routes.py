"""The routes of text-embeddings-inference."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from msgspec import UNSET

from prunetime._version import __version__
from prunetime.core.embedding import unit
from prunetime.core.task import Task
from prunetime.errors import InputError
from prunetime.inference.pairs import TokenInputs
from prunetime.inference.tokenize import Texts, Tokenizer
from prunetime.serve.core.models import LoadedModel
from prunetime.serve.core.service import Scored, Service
from prunetime.serve.errors import Code, RefusedError
from prunetime.serve.http.bodies import converted
from prunetime.serve.http.protocols.cohere import DocumentRerankAnswer, DocumentRerankRequest, rerank_documents
from prunetime.serve.http.protocols.common import (
    SCORING_REFUSALS,
    EmbeddableRows,
    Truncation,
    check_count,
    first_numbers,
    labelled,
    read_rows,
    read_to_embed,
    rows_to_embed,
    score_pairs,
)
from prunetime.serve.http.protocols.tei import messages as tei
from prunetime.serve.http.routing import Endpoint, Request, Response, Route, encoded_list, get, not_here, post

EMBEDDED_NUMBERS = 1 << 20
"""The most numbers in an answer with token embeddings: it takes some 20 bytes a number."""

TOKENIZED_CHARACTERS = 1 << 16
"""The most characters of a request to tokenize: its answer takes some 20 bytes a character."""

NO_SPARSE_EMBEDDINGS = "the model has no sparse embeddings, which SPLADE makes; ask /embed"


class TextEmbeddingsInference:
    """The handlers of text-embeddings-inference over one service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[Route]:
        summary = "The default model and the limits of requests, as text-embeddings-inference has it."
        labels, tokens = list[tei.Prediction | list[tei.Prediction]], list[list[tei.Token]]
        of_all = list[list[list[float]]]
        ranks = list[tei.Rank] | DocumentRerankAnswer
        of_tokens: tuple[Code, ...] = ("not_found", "too_large", "unusable")
        return [
            _post("/predict", self.predict, tei.PredictRequest, labels, "Labels of texts"),
            _post("/rerank", self.rerank, tei.RerankRequest, ranks, "Texts by how well they go with a query"),
            _post("/embed", self.embed, tei.EmbedRequest, list[list[float]], "Embeddings of texts"),
            _post("/embed_all", self.embed_all, tei.EmbedAllRequest, of_all, "Embeddings of every token of texts"),
            not_here("POST", "/embed_sparse", "unusable", NO_SPARSE_EMBEDDINGS),
            _post("/similarity", self.similarity, tei.SimilarityRequest, list[float], "How alike a text is to others"),
            _post("/tokenize", self.tokenize, tei.TokenizeRequest, tokens, "The tokens of texts", *of_tokens),
            _post("/decode", self.decode, tei.DecodeRequest, list[str], "The texts of tokens", "not_found", "unusable"),
            get("/info", self.info, tei.Info, summary, "not_found", "not_ready"),
        ]

    async def predict(self, request: Request) -> Response:
        asked = await request.json(tei.PredictRequest)
        texts, single = _rows_of(asked.inputs)
        read = partial(read_rows, cut=asked)
        scored = await self._service.score(request, texts, read=read)
        found = await self._service.beside(scored, partial(_predictions, scored, asked.raw_scores is True))
        return Response.of(found[0] if single else found, headers=scored.headers)

    async def rerank(self, request: Request) -> Response:
        body = await request.body()
        asked = await request.bodies.decode(body, tei.RerankRequest)
        if asked.documents is not None and asked.texts is None:
            content = await request.bodies.decode(body, dict[str, Any])
            given = {name: value for name, value in content.items() if value is not None}
            return await rerank_documents(self._service, request, converted(given, DocumentRerankRequest))
        if asked.texts is None or asked.documents is not None:
            raise RefusedError("unusable", "give the texts to rank as texts, or as documents")
        check_count("top_n", asked.top_n)
        read = partial(read_rows, cut=asked)
        scored, scores = await score_pairs(self._service, request, asked.query, asked.texts, asked.model, read)
        if scored and asked.raw_scores:
            scores = _raw(scored)
        texts = asked.texts if asked.return_text else [UNSET] * len(asked.texts)
        order = np.argsort(-scores, kind="stable")[: asked.top_n]
        ranks = [tei.Rank(int(i), float(scores[i]), texts[i]) for i in order]
        return Response.of(ranks, headers=scored.headers if scored else None)

    async def embed(self, request: Request) -> Response:
        return await embed(self._service, request, await request.json(tei.EmbedRequest))

    async def embed_all(self, request: Request) -> Response:
        asked = await request.json(tei.EmbedAllRequest)
        read = partial(_read_every_token, prompt_name=asked.prompt_name, cut=asked)
        scored = await self._service.score(request, rows_to_embed(asked.inputs), read=read, of_tokens=True)
        texts = (text.tolist() for text in scored.scores)
        return Response.of(await self._service.beside(scored, partial(encoded_list, texts)), headers=scored.headers)

    async def similarity(self, request: Request) -> Response:
        return await compare(self._service, request, await request.json(tei.SimilarityRequest))

    async def tokenize(self, request: Request) -> Response:
        asked = await request.json(tei.TokenizeRequest)
        texts = [asked.inputs] if isinstance(asked.inputs, str) else asked.inputs
        model = self._service.named(None).model
        try:
            prompt = "" if asked.prompt_name is None else model.manifest.task.prompts.resolve(asked.prompt_name)
        except InputError as error:
            raise RefusedError("unusable", str(error)) from None
        texts = [prompt + text for text in texts]
        characters = sum(map(len, texts))
        if characters > TOKENIZED_CHARACTERS:
            raise RefusedError(
                "too_large", f"{characters} characters are more than the {TOKENIZED_CHARACTERS} of a request"
            )
        found = await asyncio.to_thread(_tokens, model.tokenizer, texts, asked.add_special_tokens is not False)
        return Response.of(found)

    async def decode(self, request: Request) -> Response:
        asked = await request.json(tei.DecodeRequest)
        lists = [each for each in asked.ids if isinstance(each, list)]
        numbers = [each for each in asked.ids if isinstance(each, int)]
        if lists and numbers:
            raise RefusedError("unusable", "ids are token ids, or lists of them, and not both")
        rows = lists or [numbers]
        tokenizer, skip = self._service.named(None).model.tokenizer, asked.skip_special_tokens is not False
        try:
            return Response.of(await asyncio.to_thread(lambda: [tokenizer.decode(row, skip) for row in rows]))
        except InputError as error:
            raise RefusedError("unusable", f"ids: {error}") from None

    async def info(self, _: Request) -> Response:
        loaded, settings = self._service.named(None), self._service.settings
        manifest = loaded.model.manifest
        return Response.of(
            tei.Info(
                model_id=loaded.name,
                model_sha=None,
                model_dtype=manifest.plan.default.precision,
                model_type=_model_type(manifest.task, manifest.config.pooling),
                task=manifest.task.kind,
                measured=manifest.provenance.get("measured"),
                budget=manifest.provenance.get("budget"),
                max_input_length=manifest.task.max_length,
                max_batch_tokens=settings.batch_tokens,
                max_client_batch_size=settings.max_client_batch_size,
                auto_truncate=True,
                version=__version__,
            )
        )


def _post(path: str, endpoint: Endpoint, takes: Any, gives: Any, what: str, *refuses: Code) -> Route:
    summary = f"{what}, as text-embeddings-inference has it."
    return post(path, endpoint, takes, gives, summary, *(refuses or SCORING_REFUSALS))


async def embed(service: Service, request: Request, asked: tei.EmbedRequest) -> Response:
    """Embeds the texts of a request with the default model."""
    read = partial(read_to_embed, prompt_name=asked.prompt_name, cut=asked)
    scored = await service.score(request, rows_to_embed(asked.inputs), read=read)
    embeddings = first_numbers(scored, asked.dimensions)
    rows = (row.tolist() for row in (embeddings if asked.normalize is False else unit(embeddings)))
    return Response.of(await service.beside(scored, partial(encoded_list, rows)), headers=scored.headers)


async def compare(service: Service, request: Request, asked: tei.SimilarityRequest) -> Response:
    """Compares a text with others, by the default model's similarity function."""
    parameters = asked.parameters or tei.SimilarityParameters()
    texts = [asked.inputs.source_sentence, *asked.inputs.sentences]
    read = partial(read_to_embed, prompt_name=parameters.prompt_name, cut=parameters)
    scored = await service.score(request, texts, read=read)
    source, others = scored.scores[:1], scored.scores[1:]
    alike = scored.inputs.task.embedding.similarities(np.broadcast_to(source, others.shape), others)
    return Response.of(alike.tolist(), headers=scored.headers)


def _read_every_token(
    loaded: LoadedModel, rows: EmbeddableRows, prompt_name: str | None, cut: Truncation
) -> TokenInputs:
    """Reads texts whose tokens are to be embedded. Raises RefusedError where the answer would be too large."""
    inputs = TokenInputs.of(read_to_embed(loaded, rows, prompt_name, cut))
    tokens, width = len(inputs.tokens.ids), loaded.model.manifest.config.dims.hidden
    if tokens * width > EMBEDDED_NUMBERS:
        raise RefusedError(
            "too_large",
            f"{tokens} tokens with {width} numbers each are more than the {EMBEDDED_NUMBERS} numbers of a request",
        )
    return inputs


def _rows_of(inputs: str | list[str | list[str]]) -> tuple[list[str | Texts], bool]:
    """Returns the texts or pairs of a request to predict, and whether it has just one."""
    if isinstance(inputs, str):
        return [inputs], True
    texts = [row for row in inputs if isinstance(row, str)]
    if texts and len(texts) < len(inputs):
        raise RefusedError("unusable", "inputs are a text, a pair of texts, or a list of lists of one or two texts")
    return ([tuple(texts)], True) if texts else ([tuple(row) for row in inputs], False)


def _predictions(scored: Scored, raw: bool) -> list[list[tei.Prediction]]:
    """The labels of each text, the likeliest first."""
    task, scores = scored.inputs.task, scored.scores
    if task.traits.reads_windows:
        return [[tei.Prediction(answer.text, answer.score)] for answer in scores]
    if task.traits.labels_words:
        raise RefusedError("unusable", "the model labels words: ask /v2/models/{model}/infer for the spans of a text")
    labels, table = labelled(scored, raw)
    rows = ([tei.Prediction(*each) for each in zip(labels, row, strict=True)] for row in table.tolist())
    return [sorted(row, key=lambda each: -each.score) for row in rows]


def _raw(scored: Scored) -> Any:
    """The logits that `scores` are the sigmoid of; for similarity, the cosines themselves."""
    if scored.inputs.task.traits.reads_apart:
        return scored.scores
    logits = scored.logits
    return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits[:, 0]


def _tokens(tokenizer: Tokenizer, texts: Sequence[str], special_tokens: bool) -> list[list[tei.Token]]:
    """The tokens of every text; all but special ones have their part of the text."""
    found = []
    for text in texts:
        encoding = tokenizer.encoding(text, special_tokens)
        parts = zip(encoding.ids, encoding.tokens, encoding.special_tokens_mask, encoding.offsets, strict=True)
        found.append(
            [
                tei.Token(number, name, True, None, None) if special else tei.Token(number, text[i:j], False, i, j)
                for number, name, special, (i, j) in parts
            ]
        )
    return found


def _model_type(task: Task, pooling: str) -> dict[str, dict[str, Any]]:
    """The kind of a model in the words of text-embeddings-inference; ours where it has none."""
    if task.traits.reads_apart:
        return {"embedding": {"pooling": pooling}}
    labels = task.labels or (task.kind,)
    names = {
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
    }
    if task.rows == "tokens":
        return {task.kind: names}
    return {"reranker" if task.is_ranking else "classifier": names}
