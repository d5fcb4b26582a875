"""The routes of Cohere: rerank, of versions 1 and 2."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from msgspec import UNSET, Struct, UnsetType

from prunetime.runtime.inputs import Inputs
from prunetime.runtime.tokenize import Texts
from prunetime.serve.errors import RefusedError
from prunetime.serve.http import Answer, Request, Route
from prunetime.serve.models import Hosted
from prunetime.serve.protocols.common import SCORING_REFUSALS, score_pairs
from prunetime.serve.service import Service


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


class Cohere:
    """The handlers of Cohere's routes over one service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[Route]:
        return [
            *(
                Route(
                    "POST",
                    path,
                    self.rerank_documents,
                    takes=DocumentRerankRequest,
                    gives=DocumentRerankAnswer,
                    refuses=SCORING_REFUSALS,
                    summary="Documents by how well they go with a query, as Cohere has it.",
                )
                for path in ("/v1/rerank", "/v2/rerank")
            ),
        ]

    async def rerank_documents(self, request: Request) -> Answer:
        asked = await request.json(DocumentRerankRequest)
        texts = [each if isinstance(each, str) else each.text for each in asked.documents]
        check_documents(asked)
        read = partial(read_documents, asked=asked)
        scored, scores = await score_pairs(self._service, request, asked.query, texts, asked.model, read)
        order = np.argsort(-scores, kind="stable")[: asked.top_n]
        documents = [Document(text) if asked.return_documents else UNSET for text in texts]
        results = [DocumentRank(int(i), float(scores[i]), documents[i]) for i in order]
        label = scored.hosted.label if scored else asked.model or ""
        return Answer.of(DocumentRerankAnswer(request.id, label, results), headers=scored.headers if scored else None)


def read_documents(hosted: Hosted, pairs: Sequence[Texts], asked: DocumentRerankRequest) -> Inputs:
    """The rows that the model reads of pairs of a query and a document.

    Raises RefusedError where it cannot, and for a document of more tokens than it may have: a document is cut by what
    the model reads, with the query, and not before.
    """
    if asked.max_tokens_per_doc is not None:
        for number, (_, document) in enumerate(pairs):
            tokens = hosted.model.tokenizer.count(document)
            if tokens > asked.max_tokens_per_doc:
                raise RefusedError(
                    "unusable",
                    f"max_tokens_per_doc is {asked.max_tokens_per_doc}, and document {number} has {tokens} tokens: "
                    "documents are not cut before they are read; send a shorter one, or leave max_tokens_per_doc out",
                )
    return hosted.read(pairs)


def check_documents(asked: DocumentRerankRequest) -> None:
    """Raises RefusedError for what no model does with documents."""
    for name in ("top_n", "max_tokens_per_doc"):
        given = getattr(asked, name)
        if given is not None and given < 1:
            raise RefusedError("unusable", f"{name} is {given}: it must be at least 1")
    if asked.rank_fields not in (None, ["text"]):
        raise RefusedError(
            "unusable", f"rank_fields is {asked.rank_fields[:8]}: documents are ranked by their text; leave it out"
        )
    if asked.max_chunks_per_doc not in (None, 1):
        raise RefusedError(
            "unusable",
            f"max_chunks_per_doc is {asked.max_chunks_per_doc}: a document is read as one chunk; leave it out",
        )
