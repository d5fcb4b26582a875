"""The messages of gRPC to the structs that JSON bodies are read into, and back: one meaning for both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from prunetime.serve.errors import RefusedError
from prunetime.serve.grpc import open_inference_pb2 as messages
from prunetime.serve.protocols.oip.binary import bytes_of, read_texts
from prunetime.serve.protocols.oip.messages import ModelMetadata, OutputTensor, WantedTensor
from prunetime.serve.protocols.oip.parameters import INPUT, OUTPUT, REQUEST, Parameters, check_parameters
from prunetime.serve.protocols.oip.tensors import TextTensor, row_count

CONTENTS = {"FP32": "fp32_contents", "INT64": "int64_contents", "BYTES": "bytes_contents"}
"""The field of `InferTensorContents` for each datatype."""


class Asked(NamedTuple):
    """What a `ModelInferRequest` asks for: the same that the JSON body of HTTP does."""

    texts: list[TextTensor]
    wanted: list[WantedTensor] | None
    parameters: Parameters


def read_request(message: messages.ModelInferRequest, most_rows: int) -> Asked:
    """What a message asks for. Raises RefusedError, naming it, for what is not known or not a text."""
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise RefusedError("unusable", f"raw_input_contents: {len(raw)} buffers for {len(message.inputs)} inputs")
    parameters = _checked("the request", REQUEST, message)
    texts = [
        TextTensor(tensor.name, tensor.shape, _texts(tensor, raw[number] if raw else None, most_rows))
        for number, tensor in enumerate(message.inputs)
    ]
    wanted = []
    for each in message.outputs:
        _checked(f"output {each.name[:80]}", OUTPUT, each)
        wanted.append(WantedTensor(each.name, parameters_of(each)))
    return Asked(texts, wanted or None, parameters)


def infer_response(
    model: tuple[str, str], request_id: str, outputs: Sequence[OutputTensor], raw: bool
) -> messages.ModelInferResponse:
    """The message of an answer of `model` (its name and version), with `raw` contents where the request had these."""
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
    """The parameters of a message, None where it has none. Raises RefusedError for one without a value."""
    found: dict[str, Any] = {}
    for name, parameter in message.parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        if choice is None:
            raise RefusedError("unusable", f"parameter {name[:80]} has no value")
        found[name] = getattr(parameter, choice)
    return found or None


def _checked(of: str, known: Sequence[str], message: Any) -> Parameters:
    """The parameters of a message; raises RefusedError where they are not `known`, but for those of binary tensors in
    HTTP: in gRPC all contents are raw, or none."""
    return check_parameters(of, [name for name in known if not name.startswith("binary_")], parameters_of(message))


def _texts(tensor: messages.ModelInferRequest.InferInputTensor, raw: bytes | None, most_rows: int) -> list[str]:
    """The texts of an input, of its `raw` contents where there are such."""
    of = f"input {tensor.name[:80]}"
    _checked(of, INPUT, tensor)
    if tensor.datatype != "BYTES":
        raise RefusedError("unusable", f"{of}: its datatype is {tensor.datatype[:80]!r}; texts are 'BYTES'")
    for field, _ in tensor.contents.ListFields():
        if raw is not None:
            raise RefusedError("unusable", f"{of} has {field.name} beside raw_input_contents: give one of them")
        if field.name != CONTENTS["BYTES"]:
            raise RefusedError("unusable", f"{of} has {field.name}: texts are in {CONTENTS['BYTES']}")
    count = row_count(tensor.name, tensor.shape)
    if count > most_rows:
        raise RefusedError("too_large", f"{count} rows are more than the {most_rows} of a request")
    if raw is not None:
        return read_texts(of, raw, count)
    try:
        return [element.decode() for element in tensor.contents.bytes_contents]
    except UnicodeDecodeError as error:
        raise RefusedError("unusable", f"{of}: a text is not UTF-8: {error}") from None
