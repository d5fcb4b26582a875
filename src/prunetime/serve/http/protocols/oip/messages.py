"""The JSON bodies of the Open Inference Protocol v2."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

UNLOADED = "unloaded"
"""Why a model is not available, in Triton's word."""


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
    """A named column of texts, in the order of the rows; of shape [rows] or [rows, 1].

    `data` are strings, or lists of one string. Without it the tensor stands after the JSON, in binary:
    `parameters.binary_data_size` bytes.
    """

    name: str
    shape: list[int]
    datatype: Literal["BYTES"]
    data: list[str | list[str]] | None = None
    parameters: dict[str, Any] | None = None


class WantedTensor(Struct):
    """An output that a request names. Of its `parameters`, `binary_data` says whether it is to stand after the JSON, in
    binary, and `classification` how many of the best classes it is to hold, as strings "value:index:label"."""

    name: str
    parameters: dict[str, Any] | None = None


class InferRequest(Struct):
    """Of `parameters`, `timeout` is microseconds (0: none), and `binary_data_output` says whether outputs are to be
    binary that do not say it themselves."""

    inputs: list[InputTensor]
    id: str | None = None
    outputs: list[WantedTensor] | None = None
    parameters: dict[str, Any] | None = None


class OutputTensor(Struct):
    """`data` is the tensor, flattened; one in binary has `binary_data_size` among its parameters instead."""

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
    """A model's configuration, as Triton's extension has it. Rows are not a batch dimension apart: `max_batch_size` is
    0, and they are the first of `dims`."""

    name: str
    platform: str
    backend: str
    max_batch_size: int
    input: list[TensorConfig]
    output: list[TensorConfig]


class Duration(Struct):
    """How often something was done, and the nanoseconds that it took in all."""

    count: int
    ns: int


class InferenceStatistics(Struct):
    """Of requests that were answered: all of it, waiting, making tokens of texts, and the engine."""

    success: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration


class ModelStatistics(Struct):
    """`inference_count` is of rows."""

    name: str
    version: str
    inference_count: int
    inference_stats: InferenceStatistics


class Statistics(Struct):
    model_stats: list[ModelStatistics]


class SharedMemoryRegion(Struct):
    name: str


class ModelState(Struct):
    """A version of a model; a model that was unloaded has none, and `reason` says so."""

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str = ""


class IndexRequest(Struct, forbid_unknown_fields=True):
    """`ready`: whether models that were unloaded are left out."""

    ready: bool | None = None


class LoadRequest(Struct, forbid_unknown_fields=True):
    """`artifact` is a folder under the model root; without it, the model is read again from where it was loaded last,
    also after it was unloaded. `keep`: whether older versions stay. Of Triton's `parameters` none is known."""

    artifact: str | None = None
    keep: bool | None = None
    parameters: dict[str, Any] | None = None


class UnloadRequest(Struct, forbid_unknown_fields=True):
    """Without `version`, all are unloaded. Of Triton's `parameters`, `unload_dependents` changes nothing: no model
    depends on another."""

    version: str | None = None
    parameters: dict[str, Any] | None = None
