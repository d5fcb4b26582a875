"""The operations of the Open Inference Protocol, for HTTP and gRPC alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prunetime._version import __version__
from prunetime.serve.core.models import LoadedModel, ModelRegistry
from prunetime.serve.core.request import ServiceRequest
from prunetime.serve.core.service import Scored, Service
from prunetime.serve.http.protocols.oip import messages as oip
from prunetime.serve.http.protocols.oip.parameters import Parameters, seconds_of
from prunetime.serve.http.protocols.oip.tensors import TextTensor, check_wanted, rows_of
from prunetime.serve.workers.control import Load, MessageHandler, Unload

EXTENSIONS = [
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "statistics",
]
"""The extensions of the protocol, by Triton's names."""


def server_metadata() -> oip.ServerMetadata:
    return oip.ServerMetadata("prunetime", __version__, EXTENSIONS)


def model_at(service: Service, path: Mapping[str, str]) -> LoadedModel:
    """The model that a path's `model` and `version` name. Raises RefusedError where there is none."""
    return service.named(path["model"], path.get("version"))


async def infer(
    service: Service,
    request: ServiceRequest,
    model: tuple[str, str | None],
    texts: Sequence[TextTensor],
    wanted: Sequence[oip.WantedTensor] | None,
    parameters: Parameters,
) -> Scored:
    """Scores the texts of a request with a model (name, version). `parameters` are checked already. Raises
    RefusedError, also for a `wanted` output that does not exist."""
    if (seconds := seconds_of(parameters)) is not None:
        request.max_seconds = seconds
    task = service.named(*model).model.manifest.task
    rows = rows_of(texts, task)
    check_wanted(wanted or (), task)
    return await service.score(request, rows, *model)


def index(models: ModelRegistry, ready: bool) -> list[oip.ModelState]:
    """Lists the served versions and, unless only `ready` ones are asked for, the unloaded models."""
    states = [oip.ModelState(each.name, each.version, "READY") for each in models]
    unloaded = [] if ready else models.unloaded
    return states + [oip.ModelState(name, "", "UNAVAILABLE", oip.UNLOADED) for name in unloaded]


async def load(models: ModelRegistry, pool: MessageHandler, name: str, asked: oip.LoadRequest) -> oip.ModelState:
    """Loads a new version of a model in every process, or in none. Raises RefusedError where one cannot."""
    folder = str(models.folder(name)) if asked.artifact is None else asked.artifact
    (loaded,) = await pool.ask(Load(name, folder, "none" if asked.keep else "all"))
    return oip.ModelState(loaded.name, loaded.version, "READY")


async def unload(pool: MessageHandler, name: str, asked: oip.UnloadRequest) -> list[oip.ModelState]:
    """Unloads a version of a model, or all, in every process. Raises RefusedError where there is none."""
    gone = await pool.ask(Unload(name, asked.version))
    return [oip.ModelState(each.name, each.version, "UNAVAILABLE", oip.UNLOADED) for each in gone]
