"""The methods of `inference.GRPCInferenceService`, and `Check` of `grpc.health.v1.Health`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from grpc_health.v1 import health_pb2

from prunetime.serve.core.request import ServiceRequest
from prunetime.serve.core.service import Service
from prunetime.serve.errors import RefusedError
from prunetime.serve.grpc import open_inference_pb2 as messages
from prunetime.serve.grpc.messages import (
    infer_response,
    metadata_response,
    parameters_of,
    read_request,
)
from prunetime.serve.http.bodies import converted
from prunetime.serve.http.protocols.oip import answers
from prunetime.serve.http.protocols.oip.description import metadata_of
from prunetime.serve.http.protocols.oip.messages import LoadRequest, UnloadRequest
from prunetime.serve.http.protocols.oip.parameters import check_parameters
from prunetime.serve.http.protocols.oip.tensors import output_tensors
from prunetime.serve.workers.control import MessageHandler

INFERENCE, HEALTH = "inference.GRPCInferenceService", "grpc.health.v1.Health"

OVER_HTTP_ONLY = ("model_configuration", "statistics")
"""Extensions of the protocol that are served over HTTP only."""

GrpcReply = tuple[Any, Mapping[str, str]]
"""A response message with its metadata."""


@dataclass(frozen=True)
class GrpcMethod:
    """A gRPC method: it `takes` a type of message; an `open` one answers without a key."""

    takes: Any
    handler: Callable[[ServiceRequest, Any], Awaitable[GrpcReply]]
    open: bool = False


class InferenceServicer:
    """The methods of `GRPCInferenceService` and of health over one service. Each of them raises RefusedError."""

    def __init__(self, service: Service, pool: MessageHandler) -> None:
        self._service, self._models, self._pool = service, service.models, pool

    def table(self) -> dict[str, GrpcMethod]:
        """The methods by their paths, /SERVICE/METHOD."""
        named = {
            "ServerLive": GrpcMethod(messages.ServerLiveRequest, self.live, open=True),
            "ServerReady": GrpcMethod(messages.ServerReadyRequest, self.ready, open=True),
            "ModelReady": GrpcMethod(messages.ModelReadyRequest, self.model_ready),
            "ServerMetadata": GrpcMethod(messages.ServerMetadataRequest, self.server_metadata),
            "ModelMetadata": GrpcMethod(messages.ModelMetadataRequest, self.model_metadata),
            "ModelInfer": GrpcMethod(messages.ModelInferRequest, self.infer),
            "RepositoryIndex": GrpcMethod(messages.RepositoryIndexRequest, self.index),
            "RepositoryModelLoad": GrpcMethod(messages.RepositoryModelLoadRequest, self.load),
            "RepositoryModelUnload": GrpcMethod(messages.RepositoryModelUnloadRequest, self.unload),
        }
        check = GrpcMethod(health_pb2.HealthCheckRequest, self.check, open=True)
        return {f"/{INFERENCE}/{name}": method for name, method in named.items()} | {f"/{HEALTH}/Check": check}

    @property
    def is_ready(self) -> bool:
        try:
            self._service.check_ready()
        except RefusedError:
            return False
        return True

    def health(self, service: str) -> Any:
        """The health of a service, for `Check` and `Watch`."""
        if service not in ("", INFERENCE, HEALTH):
            return health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        if self.is_ready:
            return health_pb2.HealthCheckResponse.SERVING
        return health_pb2.HealthCheckResponse.NOT_SERVING

    async def live(self, *_: Any) -> GrpcReply:
        return messages.ServerLiveResponse(live=True), {}

    async def ready(self, *_: Any) -> GrpcReply:
        return messages.ServerReadyResponse(ready=self.is_ready), {}

    async def check(self, _: ServiceRequest, asked: Any) -> GrpcReply:
        status = self.health(asked.service)
        if status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN:
            raise RefusedError("not_found", f"there is no service {asked.service[:80]!r}")
        return health_pb2.HealthCheckResponse(status=status), {}

    async def model_ready(self, _: ServiceRequest, asked: messages.ModelReadyRequest) -> GrpcReply:
        self._service.named(asked.name, asked.version or None)
        return messages.ModelReadyResponse(ready=True), {}

    async def server_metadata(self, *_: Any) -> GrpcReply:
        said = answers.server_metadata()
        extensions = [each for each in said.extensions if each not in OVER_HTTP_ONLY]
        return messages.ServerMetadataResponse(name=said.name, version=said.version, extensions=extensions), {}

    async def model_metadata(self, _: ServiceRequest, asked: messages.ModelMetadataRequest) -> GrpcReply:
        loaded = self._service.named(asked.name, asked.version or None)
        return metadata_response(metadata_of(loaded, self._models.versions(loaded.name))), {}

    async def infer(self, call: ServiceRequest, asked: messages.ModelInferRequest) -> GrpcReply:
        model = asked.model_name, asked.model_version or None
        texts, wanted, parameters = read_request(asked, self._service.settings.max_client_batch_size)
        scored = await answers.infer(self._service, call, model, texts, wanted, parameters)

        def answer() -> Any:
            loaded, raw = scored.loaded, bool(asked.raw_input_contents)
            return infer_response((loaded.name, loaded.version), asked.id, output_tensors(scored, wanted), raw)

        return await self._service.beside(scored, answer), scored.headers

    async def index(self, _: ServiceRequest, asked: messages.RepositoryIndexRequest) -> GrpcReply:
        if asked.repository_name:
            raise RefusedError(
                "not_found", f"repository_name is {asked.repository_name[:80]!r}: there is one repository"
            )
        response = messages.RepositoryIndexResponse()
        for each in answers.index(self._models, asked.ready):
            response.models.add(name=each.name, version=each.version, state=each.state, reason=each.reason)
        return response, {}

    async def load(self, _: ServiceRequest, asked: messages.RepositoryModelLoadRequest) -> GrpcReply:
        given = check_parameters("load", ("artifact", "keep"), parameters_of(asked))
        loaded = await answers.load(self._models, self._pool, _name_of(asked), converted(given, LoadRequest))
        return messages.RepositoryModelLoadResponse(model_name=loaded.name, is_loaded=True), {}

    async def unload(self, _: ServiceRequest, asked: messages.RepositoryModelUnloadRequest) -> GrpcReply:
        given = dict(check_parameters("unload", ("version", "unload_dependents"), parameters_of(asked)))
        given.pop("unload_dependents", None)  # no model depends on another
        name = _name_of(asked)
        await answers.unload(self._pool, name, converted(given, UnloadRequest))
        return messages.RepositoryModelUnloadResponse(model_name=name, is_unloaded=True), {}


def _name_of(asked: messages.RepositoryModelLoadRequest | messages.RepositoryModelUnloadRequest) -> str:
    """The model's name, which Triton's clients have in another field than KServe's."""
    if asked.model_name and asked.repository_or_model_name:
        name = asked.repository_or_model_name[:80]
        raise RefusedError("not_found", f"repository_name is {name!r}: there is one repository; leave it out")
    return asked.model_name or asked.repository_or_model_name
