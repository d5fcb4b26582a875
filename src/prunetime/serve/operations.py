"""Loading and unloading models, metrics, and the description of all this."""

from __future__ import annotations

from importlib import resources

from prunetime.serve import metrics
from prunetime.serve.experiments import Accepted, ExperimentReport, OutcomesRequest
from prunetime.serve.fleet import Fleet
from prunetime.serve.http import Answer, Request, Route, Router
from prunetime.serve.openapi import described
from prunetime.serve.protocols.oip.messages import LoadRequest, ModelState, UnloadRequest
from prunetime.serve.service import Service

CSP = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
"""Of pages: nothing is read from anywhere else."""


class Operations:
    """Handlers over one service, and the fleet of which it is one."""

    def __init__(self, service: Service, fleet: Fleet) -> None:
        self._service, self._fleet = service, fleet

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
        asked, name = await request.json(LoadRequest), request.path["model"]
        folder = str(self._service.models.get(name).folder) if asked.artifact is None else asked.artifact
        loaded = await self._fleet.load(name, folder, asked.keep)
        return Answer.of(ModelState(loaded.name, loaded.version, "READY"))

    async def unload(self, request: Request) -> Answer:
        asked = await request.json(UnloadRequest)
        gone = await self._fleet.unload(request.path["model"], asked.version)
        return Answer.of([ModelState(each.name, each.version, "UNAVAILABLE") for each in gone])

    async def add_outcomes(self, request: Request) -> Answer:
        asked = await request.json(OutcomesRequest)
        return Answer.of(Accepted(await self._service.experiments.add(request.path["experiment"], asked.outcomes)))

    async def experiment(self, request: Request) -> Answer:
        return Answer.of(await self._service.experiments.report(request.path["experiment"]))

    async def metrics(self, _: Request) -> Answer:
        await self._fleet.note()
        return Answer(self._service.metrics.text(), kind=metrics.KIND)


def router_of(routes: list[Route]) -> Router:
    """The routes, those that describe them, and the pages."""
    pages = {"/": _page("index.html"), "/docs": _page("docs.html")}

    async def document(_: Request) -> Answer:
        return Answer.of(described(routes))

    async def page(request: Request) -> Answer:
        return Answer(
            pages[request.scope["path"]], kind="text/html; charset=utf-8", headers={"content-security-policy": CSP}
        )

    described_by = Route("GET", "/openapi.json", document, True, "All this, for programs.")
    return Router([*routes, described_by, *(Route("GET", path, page, True) for path in pages)])


def _page(name: str) -> bytes:
    files = resources.files("prunetime.serve") / "page"
    style = (files / "page.css").read_text(encoding="utf-8")
    return (files / name).read_text(encoding="utf-8").replace("/* page.css */", style).encode()
