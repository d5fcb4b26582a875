"""Loading and unloading models, metrics, and the description of all this."""

from __future__ import annotations

import asyncio
from pathlib import Path

from prunetime.serve import metrics
from prunetime.serve.experiments import Accepted, ExperimentReport, OutcomesRequest
from prunetime.serve.http import Answer, Request, Route, Router
from prunetime.serve.messages import LoadRequest, ModelState, UnloadRequest
from prunetime.serve.openapi import described
from prunetime.serve.service import Service


class Operations:
    """Handlers over one service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[Route]:
        path = "/v2/repository/models/{model}"
        return [
            Route(
                "POST",
                f"{path}/load",
                self.load,
                takes=LoadRequest,
                gives=ModelState,
                refuses=("bad_request", "forbidden", "not_found", "unusable"),
                summary="Load a new version of a model; the one there was answers until then.",
            ),
            Route(
                "POST",
                f"{path}/unload",
                self.unload,
                takes=UnloadRequest,
                gives=list[ModelState],
                refuses=("bad_request", "not_found", "unusable"),
                summary="Unload a version of a model, or all.",
            ),
            Route(
                "POST",
                "/experiments/{experiment}/outcomes",
                self.add_outcomes,
                takes=OutcomesRequest,
                gives=Accepted,
                refuses=("not_found",),
                summary="Tell what came of answers; done once it is on the disk.",
            ),
            Route(
                "GET",
                "/experiments/{experiment}",
                self.experiment,
                gives=ExperimentReport,
                refuses=("not_found",),
                summary="The arms of an experiment so far, and whether to go on.",
            ),
            Route("GET", "/metrics", self.metrics, self._service.settings.open_metrics, "Counters, for Prometheus."),
        ]

    async def load(self, request: Request) -> Answer:
        asked, name, models = await request.json(LoadRequest), request.path["model"], self._service.models
        folder = Path(asked.artifact) if asked.artifact is not None else models.get(name).folder
        work = models.load if asked.keep or name not in models else models.swap
        hosted = await asyncio.get_running_loop().run_in_executor(None, work, name, folder)
        return Answer.of(ModelState(hosted.name, hosted.version, "READY"))

    async def unload(self, request: Request) -> Answer:
        asked = await request.json(UnloadRequest)
        gone = self._service.models.unload(request.path["model"], asked.version)
        return Answer.of([ModelState(each.name, each.version, "UNAVAILABLE") for each in gone])

    async def add_outcomes(self, request: Request) -> Answer:
        asked = await request.json(OutcomesRequest)
        return Answer.of(Accepted(await self._service.experiments.add(request.path["experiment"], asked.outcomes)))

    async def experiment(self, request: Request) -> Answer:
        return Answer.of(await self._service.experiments.report(request.path["experiment"]))

    async def metrics(self, _: Request) -> Answer:
        service = self._service
        text = service.metrics.text(service.models, service.scheduler.queued)
        return Answer(text, kind=metrics.KIND)


def describing(routes: list[Route]) -> list[Route]:
    """The routes, and those that describe them."""

    async def document(_: Request) -> Answer:
        return Answer.of(described(routes))

    return [*routes, Route("GET", "/openapi.json", document, True, "All this, for programs.")]


def router_of(routes: list[Route]) -> Router:
    return Router(describing(routes))
