"""The JSON bodies of the Open Inference Protocol v2."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType


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
    """`data` are strings, in the order of the rows; nested lists are flattened."""

    name: str
    shape: list[int]
    datatype: Literal["BYTES"]
    data: list[str | list[str]]
    parameters: dict[str, Any] | None = None


class WantedTensor(Struct):
    name: str
    parameters: dict[str, Any] | None = None


class InferRequest(Struct):
    inputs: list[InputTensor]
    id: str | None = None
    outputs: list[WantedTensor] | None = None
    parameters: dict[str, Any] | None = None


class OutputTensor(Struct):
    name: str
    shape: list[int]
    datatype: Literal["FP32", "INT64", "BYTES"]
    data: list[float | int | str]


class InferAnswer(Struct):
    model_name: str
    model_version: str
    outputs: list[OutputTensor]
    id: str | UnsetType = UNSET


class ModelState(Struct):
    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]


class LoadRequest(Struct):
    """`artifact` is a folder under the model root; without it, the newest version is read again."""

    artifact: str | None = None
    keep: bool = False
    """Whether older versions stay."""


class UnloadRequest(Struct):
    version: str | None = None
