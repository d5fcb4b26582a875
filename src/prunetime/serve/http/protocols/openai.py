"""OpenAI's routes: embeddings, and the list of models."""

from __future__ import annotations

from base64 import b64encode
from functools import partial
from typing import Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from prunetime.core.embedding import unit
from prunetime.serve.core.models import LoadedModel
from prunetime.serve.core.service import Service
from prunetime.serve.errors import RefusedError
from prunetime.serve.http.protocols.common import (
    SCORING_REFUSALS,
    Embeddable,
    first_numbers,
    read_to_embed,
    rows_to_embed,
)
from prunetime.serve.http.routing import Request, Response, Route, encoded_list, get, post

TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
"""OpenAI's error types by status; other statuses below 500 are invalid_request_error."""


class ErrorDetails(Struct):
    """The details of an error: `code` is ours, `param` the field at fault, where one is known."""

    message: str
    type: str
    code: str
    param: str | None


class OpenAIFailure(Struct):
    """The body of a refusal, as OpenAI's clients read it."""

    error: ErrorDetails

    @classmethod
    def of(cls, error: RefusedError, _: str) -> OpenAIFailure:
        usual = "invalid_request_error" if error.status < 500 else "server_error"
        return cls(ErrorDetails(str(error), TYPES.get(error.status, usual), error.code, error.field))


class EmbeddingsRequest(Struct, forbid_unknown_fields=True):
    """A request for embeddings. `input` is a text, the token ids of one (with special tokens), or a list of either.
    `base64` is the bytes of float32 numbers, little-endian. `dimensions` and `prompt_name` are as in EmbedRequest;
    `user` changes nothing."""

    input: Embeddable
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
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


class ModelCard(Struct):
    """A model by its name; `created` is when it was loaded, in seconds since 1970."""

    id: str
    created: int
    object: Literal["model"] = "model"
    owned_by: str = "prunetime"


class ModelList(Struct):
    data: list[ModelCard]
    object: Literal["list"] = "list"


class OpenAI:
    """The handlers of OpenAI's routes over one service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[Route]:
        takes, gives, failure = EmbeddingsRequest, EmbeddingsAnswer, OpenAIFailure
        embeddings, summary = "/v1/embeddings", "Embeddings of texts, as OpenAI has it."
        return [
            post(embeddings, self.embeddings, takes, gives, summary, *SCORING_REFUSALS, failure=failure),
            get("/v1/models", self.models, ModelList, "The names of models.", failure=failure),
            get("/v1/models/{model}", self.model, ModelCard, "A model by its name.", "not_found", failure=failure),
        ]

    async def embeddings(self, request: Request) -> Response:
        asked = await request.json(EmbeddingsRequest)
        read = partial(read_to_embed, prompt_name=asked.prompt_name)
        scored = await self._service.score(request, rows_to_embed(asked.input), asked.model, read=read)
        embeddings = unit(first_numbers(scored, asked.dimensions))
        base64 = asked.encoding_format == "base64"
        rows = (_in_base64(row) if base64 else row.tolist() for row in embeddings)
        written = (Embedding(index, row) for index, row in enumerate(rows))
        data = await self._service.beside(scored, partial(encoded_list, written))
        tokens = len(scored.inputs.tokens.ids)
        return Response.of(EmbeddingsAnswer(scored.loaded.label, data, Usage(tokens, tokens)), headers=scored.headers)

    async def models(self, _: Request) -> Response:
        names = [*self._service.models.names, *self._service.cascades]
        return Response.of(ModelList([_card(name, self._service.named(name)) for name in names]))

    async def model(self, request: Request) -> Response:
        name = request.path["model"]
        return Response.of(_card(name, self._service.named(name)))


def _card(name: str, loaded: LoadedModel) -> ModelCard:
    return ModelCard(name, int(loaded.loaded_at))


def _in_base64(row: NDArray[np.float32]) -> str:
    return b64encode(row.astype("<f4").tobytes()).decode()
