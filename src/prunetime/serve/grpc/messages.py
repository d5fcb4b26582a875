"""Converts gRPC messages to the structs that JSON bodies are decoded into, and back, so that both mean the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from prunetime.serve.errors import RefusedError
from prunetime.serve.grpc import open_inference_pb2 as messages
from prunetime.serve.http.protocols.oip.binary import bytes_of, read_texts
from prunetime.serve.http.protocols.oip.messages import ModelMetadata, OutputTensor, WantedTensor
from prunetime.serve.http.protocols.oip.parameters import (
    INPUT,
    OUTPUT,
    REQUEST,
    Parameters,
    check_parameters,
    flag,
    whole_number,
)
from prunetime.serve.http.protocols.oip.tensors import TextTensor, row_count

CONTENTS = {"FP32": "fp32_contents", "INT64": "int64_contents", "BYTES": "bytes_contents"}
"""The field of `InferTensorContents` for each datatype."""


class InferRequestFields(NamedTuple):
    """The fields of a `ModelInferRequest`, which are those of an HTTP body."""

    texts: list[TextTensor]
    wanted: list[WantedTensor] | None
    parameters: Parameters


def read_request(message: messages.ModelInferRequest, max_rows: int) -> InferRequestFields:
    """Reads a request. Raises RefusedError, naming the field, for what is unknown or not a text."""
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise RefusedError("unusable", f"raw_input_contents: {len(raw)} buffers for {len(message.inputs)} inputs")
    parameters = check_parameters("the request", REQUEST, parameters_of(message))
    _check_form("the request", "binary_data_output", parameters, bool(raw))
    texts = [
        TextTensor(tensor.name, tensor.shape, _texts(tensor, raw[number] if raw else None, max_rows))
        for number, tensor in enumerate(message.inputs)
    ]
    wanted = []
    for each in message.outputs:
        of, given = f"output {each.name[:80]}", parameters_of(each)
        _check_form(of, "binary_data", check_parameters(of, OUTPUT, given), bool(raw))
        wanted.append(WantedTensor(each.name, given))
    return InferRequestFields(texts, wanted or None, parameters)


def infer_response(
    model: tuple[str, str], request_id: str, outputs: Sequence[OutputTensor], raw: bool
) -> messages.ModelInferResponse:
    """Makes the response of `model` (name, version), with `raw` contents where the request had them."""
    name, version = model
    response = messages.ModelInferResponse(model_name=name, model_version=version, id=request_id)
    for tensor in outputs:
        made = response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if raw:
            response.raw_output_contents.append(bytes_of(tensor))
            continue
        assert isinstance(tensor.data, list)
        elements = [str(each).encode() for each in tensor.data] if tensor.datatype == "BYTES" else tensor.data
        getattr(made.contents, CONTENTS[tensor.datatype]).extend(elements)
    return response


def metadata_response(metadata: ModelMetadata) -> messages.ModelMetadataResponse:
    response = messages.ModelMetadataResponse(
        name=metadata.name, versions=metadata.versions, platform=metadata.platform
    )
    for tensors, made in ((metadata.inputs, response.inputs), (metadata.outputs, response.outputs)):
        for tensor in tensors:
            made.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    return response


def parameters_of(message: Any) -> dict[str, Any] | None:
    """The parameters of a message; None where it has none. Raises RefusedError for one without a value."""
    found: dict[str, Any] = {}
    for name, parameter in message.parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        if choice is None:
            raise RefusedError("unusable", f"parameter {name[:80]} has no value")
        found[name] = getattr(parameter, choice)
    return found or None


def _check_form(of: str, name: str, parameters: Parameters, raw: bool) -> None:
    """Raises RefusedError where a parameter wants outputs in another form than inputs have."""
    if flag(of, name, parameters) not in (None, raw):
        raise RefusedError("unusable", f"{of}: {name} is {not raw}: outputs are raw where inputs are; leave it out")


def _texts(tensor: messages.ModelInferRequest.InferInputTensor, raw: bytes | None, max_rows: int) -> list[str]:
    """Reads the texts of an input, from its `raw` contents where it has them."""
    of = f"input {tensor.name[:80]}"
    size = whole_number(of, "binary_data_size", check_parameters(of, INPUT, parameters_of(tensor)))
    if size is not None and (raw is None or size != len(raw)):  # KServe's clients give it
        there = "no raw contents" if raw is None else f"{len(raw)} bytes of raw contents"
        raise RefusedError("unusable", f"{of}: binary_data_size is {size}, and there are {there}")
    if tensor.datatype != "BYTES":
        raise RefusedError("unusable", f"{of}: its datatype is {tensor.datatype[:80]!r}; texts are 'BYTES'")
    for field, _ in tensor.contents.ListFields():
        if raw is not None:
            raise RefusedError("unusable", f"{of} has {field.name} beside raw_input_contents: give one of them")
        if field.name != CONTENTS["BYTES"]:
            raise RefusedError("unusable", f"{of} has {field.name}: texts are in {CONTENTS['BYTES']}")
    count = row_count(tensor.name, tensor.shape)
    if count > max_rows:
        raise RefusedError("too_large", f"{count} rows are more than the {max_rows} of a request")
    if raw is not None:
        return read_texts(of, raw, count)
    try:
        return [element.decode() for element in tensor.contents.bytes_contents]
    except UnicodeDecodeError as error:
        raise RefusedError("unusable", f"{of}: a text is not UTF-8: {error}") from None
