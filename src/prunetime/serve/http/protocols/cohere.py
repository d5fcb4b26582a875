"""Cohere's rerank routes, versions 1 and 2."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from msgspec import UNSET, Struct, UnsetType

from prunetime.inference.inputs import Inputs
from prunetime.inference.tokenize import Texts
from prunetime.serve.core.models import LoadedModel
from prunetime.serve.core.service import Service
from prunetime.serve.errors import RefusedError
from prunetime.serve.http.protocols.common import SCORING_REFUSALS, check_count, score_pairs
from prunetime.serve.http.routing import Request, Response, Route, post


class CohereFailure(Struct):
    """The body of a refusal, as Cohere's clients read it; `error_type` is a word of `serve.errors.STATUS`."""

    message: str
    error_type: str
    id: str

    @classmethod
    def of(cls, error: RefusedError, request_id: str) -> CohereFailure:
        return cls(str(error), error.code, request_id)


class Document(Struct):
    text: str


class DocumentRerankRequest(Struct, forbid_unknown_fields=True):
    """A request to rerank, with the fields of version 1 (`rank_fields`, `max_chunks_per_doc`, `return_documents`) and
    of version 2 (`max_tokens_per_doc`: how many of the first tokens of each document are read; `priority`)."""

    query: str
    documents: list[str | Document]
    model: str | None = None
    top_n: int | None = None
    return_documents: bool | None = None
    rank_fields: list[str] | None = None
    max_chunks_per_doc: int | None = None
    max_tokens_per_doc: int | None = None
    priority: int | None = None


class DocumentRank(Struct):
    index: int
    relevance_score: float
    document: Document | UnsetType = UNSET


class ApiVersion(Struct):
    version: str


class TokenCount(Struct):
    input_tokens: int


class Meta(Struct):
    """The end of Cohere's responses."""

    api_version: ApiVersion
    tokens: TokenCount


class RerankUsage(Struct):
    """The end of Jina's responses: tokens of queries and documents."""

    prompt_tokens: int
    total_tokens: int


class DocumentRerankAnswer(Struct):
    id: str
    model: str
    results: list[DocumentRank]
    meta: Meta
    usage: RerankUsage


def cohere_routes(service: Service) -> list[Route]:
    """The routes of Cohere over one service."""

    async def rerank(request: Request) -> Response:
        return await rerank_documents(service, request, await request.json(DocumentRerankRequest))

    summary, failure = "Documents by how well they go with a query, as Cohere has it.", CohereFailure
    takes, gives = DocumentRerankRequest, DocumentRerankAnswer
    return [
        post(path, rerank, takes, gives, summary, *SCORING_REFUSALS, failure=failure)
        for path in ("/v1/rerank", "/v2/rerank")
    ]


async def rerank_documents(service: Service, request: Request, asked: DocumentRerankRequest) -> Response:
    """Ranks the documents of a request, the best first."""
    texts = [each if isinstance(each, str) else each.text for each in asked.documents]
    check_documents(asked)
    read = partial(read_documents, max_tokens=asked.max_tokens_per_doc)
    scored, scores = await score_pairs(service, request, asked.query, texts, asked.model, read)
    order = np.argsort(-scores, kind="stable")[: asked.top_n]
    documents = [Document(text) if asked.return_documents else UNSET for text in texts]
    results = [DocumentRank(int(i), float(scores[i]), documents[i]) for i in order]
    label = scored.loaded.label if scored else asked.model or ""
    tokens = len(scored.inputs.tokens.ids) if scored else 0
    version = "2" if request.scope["path"].startswith("/v2/") else "1"
    meta, usage = Meta(ApiVersion(version), TokenCount(tokens)), RerankUsage(tokens, tokens)
    answer = DocumentRerankAnswer(request.id, label, results, meta, usage)
    return Response.of(answer, headers=scored.headers if scored else None)


def read_documents(loaded: LoadedModel, pairs: Sequence[Texts], max_tokens: int | None) -> Inputs:
    """Reads pairs of a query and the first `max_tokens` of a document. Raises InputError where the model cannot."""
    tokenizer = loaded.model.tokenizer
    if max_tokens is None or (max_tokens >= tokenizer.max_length and not tokenizer.cuts_left):
        return loaded.read(pairs)  # the model reads no more of them anyway
    return loaded.read([(query, tokenizer.start(document, max_tokens)) for query, document in pairs])


def check_documents(asked: DocumentRerankRequest) -> None:
    """Raises RefusedError for options that no model here supports."""
    for name in ("top_n", "max_tokens_per_doc"):
        check_count(name, getattr(asked, name))
    for name, only, why in (
        ("rank_fields", ["text"], "documents are ranked by their text"),
        ("max_chunks_per_doc", 1, "a document is read as one chunk"),
        ("priority", 0, "requests have no priorities"),
    ):
        given = getattr(asked, name)
        if given not in (None, only):
            raise RefusedError("unusable", f"{name} is {str(given)[:80]}: {why}; leave it out", field=name)
