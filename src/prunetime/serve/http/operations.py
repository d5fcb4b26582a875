"""Routes for operators: loading and unloading models, metrics, experiments, pages and the API's description."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from importlib import resources

from prunetime.serve.core import metrics
from prunetime.serve.core.service import Service
from prunetime.serve.errors import Code
from prunetime.serve.experiments.experiment import Accepted, ExperimentReport, OutcomesRequest
from prunetime.serve.http.openapi import described
from prunetime.serve.http.protocols.oip import answers
from prunetime.serve.http.protocols.oip.messages import LoadRequest, ModelState, UnloadRequest
from prunetime.serve.http.protocols.oip.parameters import check_parameters
from prunetime.serve.http.routing import Request, Response, Route, Router, get, post
from prunetime.serve.workers.control import Flush, MessageHandler

LOAD = "Load a new version of a model; the one there was answers until then."
UNLOAD = "Unload a version of a model, or all."
ADD = "Tell what came of answers; done once it is on the disk."
REPORT = "The arms of an experiment so far, and whether to go on."


class Operations:
    """The handlers of operations over one service and the pool of workers."""

    def __init__(self, service: Service, pool: MessageHandler) -> None:
        self._service, self._pool = service, pool

    def routes(self) -> list[Route]:
        path, experiment = "/v2/repository/models/{model}", "/experiments/{experiment}"
        outcomes = f"{experiment}/outcomes"
        codes: tuple[Code, ...] = ("bad_request", "not_found", "unusable")
        return [
            post(f"{path}/load", self.load, LoadRequest, ModelState, LOAD, *codes, changes=True),
            post(f"{path}/unload", self.unload, UnloadRequest, list[ModelState], UNLOAD, *codes, changes=True),
            post(outcomes, self.add_outcomes, OutcomesRequest, Accepted, ADD, "not_found", changes=True),
            get(experiment, self.experiment, ExperimentReport, REPORT, "not_found"),
            Route("GET", "/metrics", self.metrics, self._service.settings.open_metrics, "Counters, for Prometheus."),
        ]

    async def load(self, request: Request) -> Response:
        asked, name = await request.json(LoadRequest), request.path["model"]
        check_parameters("load", (), asked.parameters)
        return Response.of(await answers.load(self._service.models, self._pool, name, asked))

    async def unload(self, request: Request) -> Response:
        asked = await request.json(UnloadRequest)
        check_parameters("unload", ("unload_dependents",), asked.parameters)
        return Response.of(await answers.unload(self._pool, request.path["model"], asked))

    async def add_outcomes(self, request: Request) -> Response:
        asked = await request.json(OutcomesRequest)
        return Response.of(Accepted(await self._service.experiments.add(request.path["experiment"], asked.outcomes)))

    async def experiment(self, request: Request) -> Response:
        return Response.of(await self._service.experiments.report(request.path["experiment"]))

    async def metrics(self, _: Request) -> Response:
        await self._pool.ask(Flush())
        return Response(self._service.metrics.text(), kind=metrics.KIND)


def router_of(routes: list[Route]) -> Router:
    """Makes the router of `routes`, of their description, and of the pages."""
    pages = {"/": _page("index.html"), "/docs": _page("docs.html")}

    async def document(_: Request) -> Response:
        return Response.of(described([*routes, *of_pages]))

    async def page(request: Request) -> Response:
        return pages[request.scope["path"]]

    of_pages = [Route("GET", path, page, True, "A page for a browser.") for path in pages]
    described_by = Route("GET", "/openapi.json", document, True, "All this, for programs.")
    return Router([*routes, described_by, *of_pages])


def _page(name: str) -> Response:
    """Makes the route of a page with its style and script inline: nothing is loaded from elsewhere, and no page may
    frame it."""
    files = resources.files("prunetime.serve.http") / "page"
    text = (files / name).read_text(encoding="utf-8")
    style, script = ((files / each).read_text(encoding="utf-8") for each in ("page.css", name.replace("html", "js")))
    policy = {
        "default-src": "'none'",
        "style-src": _source(style),
        "script-src": _source(script),
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    csp = "; ".join(f"{name} {value}" for name, value in policy.items())
    body = text.replace("/* style */", style).replace("/* script */", script).encode()
    headers = {"content-security-policy": csp, "referrer-policy": "no-referrer"}
    return Response(body, kind="text/html; charset=utf-8", headers=headers)


def _source(content: str) -> str:
    """The source of an inline style or script in a content security policy: its digest."""
    return f"'sha256-{b64encode(sha256(content.encode()).digest()).decode()}'"
