"""The routes of the Open Inference Protocol v2."""

from __future__ import annotations

from msgspec import UNSET

from prunetime import __version__
from prunetime.serve.http import Answer, Request, Route
from prunetime.serve.models import Hosted
from prunetime.serve.protocols.common import SCORING_REFUSALS
from prunetime.serve.protocols.oip.messages import (
    InferAnswer,
    InferRequest,
    Live,
    ModelMetadata,
    ModelState,
    Ready,
    ServerMetadata,
    ServerReady,
)
from prunetime.serve.protocols.oip.tensors import check_parameters, metadata_of, output_tensors, rows_of, wanted_tensors
from prunetime.serve.service import Service


class OpenInference:
    """The handlers of the Open Inference Protocol over one service."""

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
                        refuses=SCORING_REFUSALS,
                        summary="Score texts.",
                    ),
                )
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
        return Answer.of(metadata_of(hosted, self._models.versions(hosted.name)))

    async def model_ready(self, request: Request) -> Answer:
        return Answer.of(Ready(self._asked(request).name, True))

    async def infer(self, request: Request) -> Answer:
        asked = await request.json(InferRequest)
        check_parameters(asked)
        name, version = request.path["model"], request.path.get("version")
        task = self._service.named(name, version).model.manifest.task
        scored = await self._service.score(request, rows_of(asked.inputs, task), name, version)
        outputs = wanted_tensors(output_tensors(scored), asked.outputs)
        hosted = scored.hosted
        answer = InferAnswer(hosted.name, hosted.version, outputs, UNSET if asked.id is None else asked.id)
        return Answer.of(answer, headers=scored.headers)

    async def index(self, _: Request) -> Answer:
        return Answer.of([ModelState(each.name, each.version, "READY") for each in self._models])

    def _asked(self, request: Request) -> Hosted:
        return self._service.named(request.path["model"], request.path.get("version"))
