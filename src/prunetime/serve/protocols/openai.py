"""The routes of OpenAI: embeddings."""

from __future__ import annotations

from base64 import b64encode
from functools import partial
from typing import Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from prunetime.embedding import unit
from prunetime.serve.http import Answer, Request, Route
from prunetime.serve.models import Hosted
from prunetime.serve.protocols.common import SCORING_REFUSALS, embed_texts, first_numbers
from prunetime.serve.service import Service


class EmbeddingsRequest(Struct, forbid_unknown_fields=True):
    """`base64` is of the bytes of float32 numbers, little-endian. `dimensions` and `prompt_name` as in EmbedRequest;
    `user` changes nothing."""

    input: str | list[str]
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
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


class OpenAI:
    """The handlers of OpenAI's routes over one service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[Route]:
        return [
            Route(
                "POST",
                "/v1/embeddings",
                self.embeddings,
                takes=EmbeddingsRequest,
                gives=EmbeddingsAnswer,
                refuses=SCORING_REFUSALS,
                summary="Embeddings of texts, as OpenAI has it.",
            ),
        ]

    async def embeddings(self, request: Request) -> Answer:
        asked = await request.json(EmbeddingsRequest)
        read = partial(Hosted.read_single, prompt_name=asked.prompt_name)
        scored = await embed_texts(self._service, request, asked.input, asked.model, read)
        rows = unit(first_numbers(scored, asked.dimensions))
        written = list(map(_in_base64, rows)) if asked.encoding_format == "base64" else rows.tolist()
        data = [Embedding(*each) for each in enumerate(written)]
        tokens = len(scored.inputs.tokens.ids)
        return Answer.of(EmbeddingsAnswer(scored.hosted.label, data, Usage(tokens, tokens)), headers=scored.headers)


def _in_base64(row: NDArray[np.float32]) -> str:
    return b64encode(row.astype("<f4").tobytes()).decode()
