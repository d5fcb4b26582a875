"""What the Open Inference Protocol answers, over HTTP and over gRPC alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prunetime._version import __version__
from prunetime.serve.core.models import LoadedModel, ModelRegistry
from prunetime.serve.core.request import ServiceRequest
from prunetime.serve.core.service import Scored, Service
from prunetime.serve.http.protocols.oip.messages import (
    UNLOADED,
    LoadRequest,
    ModelState,
    ServerMetadata,
    UnloadRequest,
    WantedTensor,
)
from prunetime.serve.http.protocols.oip.parameters import Parameters, seconds_of
from prunetime.serve.http.protocols.oip.tensors import TextTensor, check_wanted, rows_of
from prunetime.serve.workers.pool import WorkerPool

EXTENSIONS = [
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "statistics",
]
"""Of the protocol, by Triton's names."""


def server_metadata() -> ServerMetadata:
    return ServerMetadata("prunetime", __version__, EXTENSIONS)


def model_at(service: Service, path: Mapping[str, str]) -> LoadedModel:
    """The model that the parts `model` and `version` of a path name; raises RefusedError where there is none."""
    return service.named(path["model"], path.get("version"))


async def infer(
    service: Service,
    request: ServiceRequest,
    model: tuple[str, str | None],
    texts: Sequence[TextTensor],
    wanted: Sequence[WantedTensor] | None,
    parameters: Parameters,
) -> Scored:
    """The scores by a model (its name and version) of the texts of a request, whose `parameters` are checked. Raises
    RefusedError, also for an output that is `wanted` and cannot be had."""
    if (seconds := seconds_of(parameters)) is not None:
        request.max_seconds = seconds
    task = service.named(*model).model.manifest.task
    rows = rows_of(texts, task)
    check_wanted(wanted or (), task)
    return await service.score(request, rows, *model)


def index(models: ModelRegistry, ready: bool) -> list[ModelState]:
    """Every version that is served and, unless only those that are `ready` are asked for, what was unloaded."""
    states = [ModelState(each.name, each.version, "READY") for each in models]
    return states if ready else states + [ModelState(name, "", "UNAVAILABLE", UNLOADED) for name in models.unloaded]


async def load(models: ModelRegistry, pool: WorkerPool, name: str, asked: LoadRequest) -> ModelState:
    """Loads a new version of a model in every process, or in none; raises RefusedError where one cannot."""
    folder = str(models.folder(name)) if asked.artifact is None else asked.artifact
    loaded = await pool.load(name, folder, "none" if asked.keep else "all")
    return ModelState(loaded.name, loaded.version, "READY")


async def unload(pool: WorkerPool, name: str, asked: UnloadRequest) -> list[ModelState]:
    """Unloads a version of a model, or all, in every process; raises RefusedError where there is none."""
    gone = await pool.unload(name, asked.version)
    return [ModelState(each.name, each.version, "UNAVAILABLE", UNLOADED) for each in gone]
