"""The JSON bodies of the Open Inference Protocol v2."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

UNLOADED = "unloaded"
"""The reason, in Triton's word, of a model that is not available."""


class TensorMetadata(Struct):
    name: str
    datatype: str
    shape: list[int]


class ServerMetadata(Struct):
    name: str
    version: str
    extensions: list[str]


class ModelMetadata(Struct):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: dict[str, Any]


class Ready(Struct):
    name: str
    ready: bool


class Live(Struct):
    live: bool


class ServerReady(Struct):
    ready: bool


class InputTensor(Struct):
    """An input: a named column of texts, in the order of the rows, of shape [rows] or [rows, 1].

    `data` are strings, or lists of one string. Without it the tensor follows the JSON in binary:
    `parameters.binary_data_size` bytes.
    """

    name: str
    shape: list[int]
    datatype: Literal["BYTES"]
    data: list[str | list[str]] | None = None
    parameters: dict[str, Any] | None = None


class WantedTensor(Struct):
    """An output that a request asks for. Of its `parameters`, `binary_data` asks for it in binary after the JSON, and
    `classification` for so many of the best classes, as strings "value:index:label"."""

    name: str
    parameters: dict[str, Any] | None = None


class InferRequest(Struct):
    """A request to infer. Of its `parameters`, `timeout` is microseconds (0: none), and `binary_data_output` is the
    default for outputs that do not say whether they are binary."""

    inputs: list[InputTensor]
    id: str | None = None
    outputs: list[WantedTensor] | None = None
    parameters: dict[str, Any] | None = None


class OutputTensor(Struct):
    """An output: `data` is the tensor, flattened; a binary one has `binary_data_size` among its parameters instead."""

    name: str
    shape: list[int]
    datatype: Literal["FP32", "INT64", "BYTES"]
    data: list[float | int | str] | UnsetType = UNSET
    parameters: dict[str, int] | UnsetType = UNSET


class InferAnswer(Struct):
    model_name: str
    model_version: str
    outputs: list[OutputTensor]
    id: str | UnsetType = UNSET


class TensorConfig(Struct):
    name: str
    data_type: str
    dims: list[int]


class ModelConfig(Struct):
    """The configuration of a model, as in Triton's extension. Rows are no separate batch dimension: `max_batch_size` is
    0, and rows are the first of `dims`."""

    name: str
    platform: str
    backend: str
    max_batch_size: int
    input: list[TensorConfig]
    output: list[TensorConfig]


class Duration(Struct):
    """A count, and the total nanoseconds."""

    count: int
    ns: int


class InferenceStatistics(Struct):
    """Statistics of answered requests: in all, queueing, tokenising, and computing."""

    success: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration


class ModelStatistics(Struct):
    """Statistics of a model; `inference_count` counts texts or pairs."""

    name: str
    version: str
    inference_count: int
    inference_stats: InferenceStatistics


class Statistics(Struct):
    model_stats: list[ModelStatistics]


class SharedMemoryRegion(Struct):
    name: str


class ModelState(Struct):
    """The state of a version; an unloaded model has no version, and `reason` says so."""

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str = ""


class IndexRequest(Struct, forbid_unknown_fields=True):
    """A request to list models; `ready` leaves out unloaded ones."""

    ready: bool | None = None


class LoadRequest(Struct, forbid_unknown_fields=True):
    """A request to load. `artifact` is a folder under the model root; without it, the model is loaded again from its
    last folder, unloaded or not. `keep` leaves older versions. Of Triton's `parameters` none is known."""

    artifact: str | None = None
    keep: bool | None = None
    parameters: dict[str, Any] | None = None


class UnloadRequest(Struct, forbid_unknown_fields=True):
    """A request to unload a version, or all without `version`. Of Triton's `parameters`, `unload_dependents` changes
    nothing: no model depends on another."""

    version: str | None = None
    parameters: dict[str, Any] | None = None
