"""Triton's extensions: configurations, statistics and settings."""

from __future__ import annotations

from prunetime.serve.core.models import LoadedModel
from prunetime.serve.core.service import Service
from prunetime.serve.errors import RefusedError
from prunetime.serve.http.protocols.oip.answers import model_at
from prunetime.serve.http.protocols.oip.description import config_of, statistics_of
from prunetime.serve.http.protocols.oip.messages import ModelConfig, SharedMemoryRegion, Statistics
from prunetime.serve.http.routing import Request, Response, Route, get, not_here, post
from prunetime.serve.workers.control import Flush, MessageHandler

SETTINGS = {
    "/v2/logging": "there are no settings of logs: they are lines of JSON on standard error",
    "/v2/trace/setting": "there are no settings of traces: they are OpenTelemetry's, set by its environment variables",
    "/v2/models/{model}/trace/setting": "models have no settings of traces: they are OpenTelemetry's",
}
"""Triton's paths for settings, with the reason why there are none here."""

CONFIG = "A model's configuration, as Triton has it."
STATISTICS = "How often a model was asked, and how long that took, as Triton has it."
REGIONS = "Regions of shared memory that are registered: none ever is."
REGISTER = "Not here: tensors are sent in the body."


class TritonExtensions:
    """The handlers of Triton's extensions over one service and the pool of workers."""

    def __init__(self, service: Service, pool: MessageHandler) -> None:
        self._service, self._pool = service, pool

    def routes(self) -> list[Route]:
        model, version = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
        return [
            get("/v2/models/stats", self.all_statistics, Statistics, "Statistics of all models."),
            *(
                route
                for path in (model, version)
                for route in (
                    get(f"{path}/config", self.config, ModelConfig, CONFIG, "not_found"),
                    get(f"{path}/stats", self.statistics, Statistics, STATISTICS, "not_found"),
                )
            ),
            *(not_here(method, path, "not_found", why) for method in ("GET", "POST") for path, why in SETTINGS.items()),
            *(route for kind in ("system", "cuda") for route in self._shared_memory(f"/v2/{kind}sharedmemory")),
        ]

    def _shared_memory(self, path: str) -> list[Route]:
        return [
            get(f"{path}/status", self.regions, list[SharedMemoryRegion], REGIONS),
            post(f"{path}/unregister", self.unregister, None, None, "Done, for no region ever is registered."),
            post(f"{path}/region/{{region}}/register", self.register, None, None, REGISTER, "unusable"),
        ]

    async def config(self, request: Request) -> Response:
        return Response.of(config_of(model_at(self._service, request.path)))

    async def statistics(self, request: Request) -> Response:
        asked, version = model_at(self._service, request.path), request.path.get("version")
        loaded = [asked] if version else list(self._service.models.versions(asked.name).values())
        return await self._statistics(loaded)

    async def all_statistics(self, _: Request) -> Response:
        return await self._statistics(list(self._service.models))

    async def regions(self, _: Request) -> Response:
        return Response.of([])

    async def unregister(self, _: Request) -> Response:
        return Response(b"")

    async def register(self, request: Request) -> Response:
        raise RefusedError(
            "unusable",
            f"shared memory region {request.path['region'][:80]!r} is not registered: tensors are sent in the body",
        )

    async def _statistics(self, loaded: list[LoadedModel]) -> Response:
        await self._pool.ask(Flush())
        return Response.of(Statistics(statistics_of(loaded, self._service.metrics.text())))
