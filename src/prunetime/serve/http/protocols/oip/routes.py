"""The routes of the Open Inference Protocol v2."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

import msgspec
from msgspec import UNSET

from prunetime.serve.core.service import Scored, Service
from prunetime.serve.http.compression import accepted_encoding, compressed
from prunetime.serve.http.protocols.common import SCORING_REFUSALS
from prunetime.serve.http.protocols.oip import answers
from prunetime.serve.http.protocols.oip import messages as oip
from prunetime.serve.http.protocols.oip.binary import HEADER, split, text_tensors, wants_binary, write_tensors
from prunetime.serve.http.protocols.oip.description import metadata_of
from prunetime.serve.http.protocols.oip.parameters import REQUEST, check_parameters
from prunetime.serve.http.protocols.oip.tensors import TextTensor, output_tensors
from prunetime.serve.http.routing import Request, Response, Route, get, post

COMPRESSED_FROM = 1_024
"""The least bytes of a response that is compressed: a smaller one is one packet anyway."""


class OpenInference:
    """The handlers of the Open Inference Protocol over one service."""

    def __init__(self, service: Service) -> None:
        self._service, self._models = service, service.models

    def routes(self) -> list[Route]:
        takes, states = oip.InferRequest, list[oip.ModelState]
        index, model, version = "/v2/repository/index", "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
        return [
            get("/v2", self.server, oip.ServerMetadata, "What this server is."),
            get("/v2/health/live", self.live, oip.Live, "Whether it runs.", open=True),
            get("/v2/health/ready", self.ready, oip.ServerReady, "Whether it can answer.", "not_ready", open=True),
            get("/health", self.health, None, "Whether it can answer.", "not_ready", open=True),
            *(
                route
                for path in (model, version)
                for route in (
                    get(path, self.model, oip.ModelMetadata, "A model.", "not_found"),
                    get(f"{path}/ready", self.model_ready, oip.Ready, "Whether a model can answer.", "not_found"),
                    post(f"{path}/infer", self.infer, takes, oip.InferAnswer, "Score texts.", *SCORING_REFUSALS),
                )
            ),
            post(index, self.index, oip.IndexRequest, states, "All models and versions.", body_may_be_empty=True),
        ]

    async def server(self, _: Request) -> Response:
        return Response.of(answers.server_metadata())

    async def live(self, _: Request) -> Response:
        return Response.of(oip.Live(True))

    async def ready(self, _: Request) -> Response:
        self._service.check_ready()
        return Response.of(oip.ServerReady(True))

    async def health(self, _: Request) -> Response:
        self._service.check_ready()
        return Response(b"")

    async def model(self, request: Request) -> Response:
        loaded = answers.model_at(self._service, request.path)
        return Response.of(metadata_of(loaded, self._models.versions(loaded.name)))

    async def model_ready(self, request: Request) -> Response:
        return Response.of(oip.Ready(answers.model_at(self._service, request.path).name, True))

    async def infer(self, request: Request) -> Response:
        asked, texts = await self._read(request)
        given = check_parameters("the request", REQUEST, asked.parameters)
        model = request.path["model"], request.path.get("version")
        scored = await answers.infer(self._service, request, model, texts, asked.outputs, given)
        answer = await self._service.beside(scored, partial(_answer, asked, scored))
        return await _compressed(request, answer)

    async def _read(self, request: Request) -> tuple[oip.InferRequest, list[TextTensor]]:
        """Reads a request and its inputs; inputs without data follow the JSON in binary."""
        body, binary = await request.body(), memoryview(b"")
        if HEADER in request.headers:
            body, binary = split(body, request.headers[HEADER])
        asked = await request.bodies.decode(body, oip.InferRequest)
        return asked, text_tensors(asked.inputs, binary, self._service.settings.max_client_batch_size)

    async def index(self, request: Request) -> Response:
        body = await request.body()  # which Triton's clients leave empty
        asked = await request.bodies.decode(body, oip.IndexRequest) if body else oip.IndexRequest()
        return Response.of(answers.index(self._models, bool(asked.ready)))


def _answer(asked: oip.InferRequest, scored: Scored) -> Response:
    """Makes the response with the requested outputs, each as JSON or in binary."""
    outputs, in_binary = output_tensors(scored, asked.outputs), wants_binary(asked)
    binary = [in_binary.get(output.name, in_binary[None]) for output in outputs]
    described, content = write_tensors(outputs, binary)
    loaded, headers = scored.loaded, dict(scored.headers)
    body = msgspec.json.encode(
        oip.InferAnswer(loaded.name, loaded.version, described, UNSET if asked.id is None else asked.id)
    )
    if not any(binary):
        return Response(body, headers=headers)
    return Response(body + content, kind="application/octet-stream", headers=headers | {HEADER: str(len(body))})


async def _compressed(request: Request, answer: Response) -> Response:
    """Compresses a response where the client accepts it and it is worth it."""
    encoding = accepted_encoding(request.headers.get("accept-encoding", ""))
    if not encoding or len(answer.body) < COMPRESSED_FROM:
        return answer
    body = await asyncio.to_thread(compressed, answer.body, encoding)
    return replace(answer, body=body, headers={**answer.headers, "content-encoding": encoding})
