"""The ASGI application: it finds the route of a request, checks its key, and records its answer."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prunetime.errors import InputError
from prunetime.serve.certificate import Certificate
from prunetime.serve.core.metrics import Metrics
from prunetime.serve.core.models import Entry, ModelRegistry
from prunetime.serve.core.records import Records
from prunetime.serve.core.service import Service
from prunetime.serve.core.tracing import RequestSpan
from prunetime.serve.errors import FailureBody, RefusedError, whole_seconds
from prunetime.serve.experiments.experiment import Experiment, Experiments, read_experiments
from prunetime.serve.experiments.outcomes import Outcomes
from prunetime.serve.http.bodies import Bodies, Receive
from prunetime.serve.http.operations import Operations, router_of
from prunetime.serve.http.origins import Origins, check_media_type
from prunetime.serve.http.protocols import routes_of
from prunetime.serve.http.routing import ARRIVED, AsgiScope, Request, Response, Route, Send
from prunetime.serve.keys import Keys
from prunetime.serve.settings import ServeSettings
from prunetime.serve.workers.control import MessageHandler
from prunetime.serve.workers.pool import LocalPool, LocalWorker

if TYPE_CHECKING:
    from prunetime.serve.grpc.server import GrpcServer

LOG = logging.getLogger(__name__)


class App:
    """The application that serves the models of `settings`, alone or as one worker of a `pool`.

    A worker that replaces another one loads the models of `catalogue` instead. `counts` is the file for a worker's
    counters.

    Raises InputError where a model, the keys or the certificate cannot be used.
    """

    def __init__(
        self,
        settings: ServeSettings,
        catalogue: Sequence[Entry] | None = None,
        pool: MessageHandler | None = None,
        counts: Path | None = None,
    ) -> None:
        self.settings = settings
        self.keys, self.origins = Keys(settings.key_file), Origins(settings)
        self.certificate = Certificate.of(settings)
        default = settings.models[0][0] if settings.models else None
        self.models = ModelRegistry(settings.threads, settings.cache_bytes, settings.model_root, default)
        for name, folder in settings.models:
            self.models.allow(name, folder)
        if catalogue is None:
            self._first_models()
        else:
            for entry in catalogue:
                self.models.register(entry.name, Path(entry.folder), entry.version)
        self.metrics = Metrics(counts)
        self.records = Records(self.metrics)
        self.bodies = Bodies(settings)
        self.outcomes: Outcomes | None = None
        known: dict[str, Experiment] = {}
        if settings.experiments:
            known = {each.name: each for each in read_experiments(settings.experiments)}
            for experiment in known.values():
                experiment.check([*dict(settings.models), *dict(settings.cascades)])
            self.outcomes = Outcomes(settings.outcomes)
        self.service = Service(settings, self.models, self.metrics, Experiments(known, self.outcomes))
        self.local_worker = LocalWorker(self.models, self.keys, self.certificate, self.service.flush)
        self.pool = pool or LocalPool([self.local_worker], [loaded.entry for loaded in self.models])
        self.grpc = self._grpc()
        self.router = router_of([*routes_of(self.service, self.pool), *Operations(self.service, self.pool).routes()])

    def _grpc(self) -> GrpcServer | None:
        if self.settings.grpc_port is None:
            return None
        from prunetime.serve.grpc.methods import InferenceServicer  # an extra
        from prunetime.serve.grpc.server import GrpcServer

        methods = InferenceServicer(self.service, self.pool)
        return GrpcServer(methods, self.bodies, self.keys, self.records, self.certificate)

    def _first_models(self) -> None:
        for name, folder in self.settings.models:
            self.models.register(name, folder)
        for cascade, (largest, *others) in self.settings.cascades:
            for name in others:
                if not self.models.get(name).reads_as(self.models.get(largest)):
                    raise InputError(f"cascade {cascade}: {name} has another task or tokenizer than {largest}")

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            request = Request(scope, receive, self.bodies, began=scope.get(ARRIVED, time.monotonic()))
            try:
                await self._answer(request, send)
            finally:
                request.close()

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                if self.grpc:
                    await self.grpc.start()
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                if self.grpc:
                    await self.grpc.stop()
                self.service.stop()
                self.bodies.stop()
                if self.outcomes:
                    self.outcomes.close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _answer(self, request: Request, send: Send) -> None:
        scope = request.scope
        path, failure = "unknown", Route.failure
        try:
            self.origins.check_host(request.headers)
            if allowed := self.origins.preflight(request.headers, scope["method"]):
                await self._send(request, send, Response(b"", 204, headers=allowed))
                return
            route, request.path = self.router.find(scope["method"], scope["path"])
            path, failure = route.path, route.failure
            self.origins.check_page(request.headers, scope["method"], route.changes)
            if route.changes:
                check_media_type(request.headers)
            if not route.open:
                self.keys.check(request.headers.get("authorization"))
            answer = await route.endpoint(request)
        except RefusedError as error:
            answer = _refusal(error, request.id, failure)
        except Exception:
            LOG.exception("request %s failed", request.id)
            answer = _refusal(
                RefusedError("internal", "an error of the server; its log says more"), request.id, failure
            )
        if answer.status != 499:
            if scope["method"] == "HEAD":
                answer = Response(b"", answer.status, answer.kind, answer.headers)
            await self._send(request, send, answer)
        # Only now: nobody waits for it.
        method, status = scope["method"], answer.status
        about = {"http.request.method": method, "http.route": path, "http.response.status_code": status}
        self.records.record(request, method, path, status, RequestSpan(f"{method} {path}", about, status >= 500))

    async def _send(self, request: Request, send: Send, answer: Response) -> None:
        of_all = {"x-request-id": request.id, "x-content-type-options": "nosniff"}
        await answer.send(send, of_all | self.origins.cross_origin(request.headers))


def _refusal(error: RefusedError, request_id: str, failure: type[FailureBody]) -> Response:
    headers: dict[str, str] = {}
    if error.retry_after is not None:
        headers["retry-after"] = whole_seconds(error.retry_after)
    if error.allowed:
        headers["allow"] = ", ".join(error.allowed)
    if error.code == "request_timeout":  # the rest of it would be taken for the next request
        headers["connection"] = "close"
    if error.code == "unauthorized":
        headers["www-authenticate"] = "Bearer"
    return Response.of(failure.of(error, request_id), error.status, headers)
