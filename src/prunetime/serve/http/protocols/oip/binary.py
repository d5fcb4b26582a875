"""Binary tensors, which follow the JSON of a body (the protocol's binary tensor data extension)."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from prunetime.serve.errors import RefusedError
from prunetime.serve.http.protocols.oip.messages import InferRequest, InputTensor, OutputTensor
from prunetime.serve.http.protocols.oip.parameters import INPUT, check_parameters, flag, whole_number
from prunetime.serve.http.protocols.oip.tensors import TextTensor, row_count

HEADER = "inference-header-content-length"
"""The header with the number of bytes of a body that are JSON."""

LENGTH = struct.Struct("<I")
"""The length before each element of a BYTES tensor."""


def split(body: bytes, length: str) -> tuple[bytes, memoryview]:
    """Splits a body into JSON and binary data. Raises RefusedError where `length`, of the header, is none."""
    if not (length.isascii() and length.isdigit() and int(length) <= len(body)):
        raise RefusedError(
            "bad_request", f"{HEADER} is {length[:40]!r}: the body has {len(body)} bytes, of which so many are JSON"
        )
    return body[: int(length)], memoryview(body)[int(length) :]


def text_tensors(inputs: Sequence[InputTensor], binary: memoryview, max_rows: int) -> list[TextTensor]:
    """Reads the texts of `inputs`; those with `binary_data_size` follow one another in `binary`.

    Raises RefusedError where an input has no texts or more than `max_rows`, or where bytes are left over.
    """
    found = []
    for each in inputs:
        of = f"input {each.name[:80]}"
        given = check_parameters(of, INPUT, each.parameters)
        size = whole_number(of, "binary_data_size", given)
        if (size is None) == (each.data is None):
            raise RefusedError("unusable", f"{of} has its texts in data, or after the JSON as binary_data_size says")
        if each.data is not None:
            texts = [text for row in each.data for text in ([row] if isinstance(row, str) else row)]
        else:
            assert size is not None
            if size > len(binary):
                raise RefusedError("unusable", f"{of}: binary_data_size is {size}, and {len(binary)} bytes are left")
            count = row_count(each.name, each.shape)
            if count > max_rows:
                raise RefusedError("too_large", f"{count} rows are more than the {max_rows} of a request")
            texts, binary = read_texts(of, binary[:size], count), binary[size:]
        found.append(TextTensor(each.name, each.shape, texts))
    if len(binary):
        raise RefusedError("unusable", f"{len(binary)} bytes after the JSON are of no input: see binary_data_size")
    return found


def wants_binary(asked: InferRequest) -> dict[str | None, bool]:
    """Whether each named output is wanted in binary; under None, the default."""
    of_request = flag("the request", "binary_data_output", asked.parameters or {}) or False
    found: dict[str | None, bool] = {None: of_request}
    for each in asked.outputs or ():
        own = flag(f"output {each.name[:80]}", "binary_data", each.parameters or {})
        found[each.name] = of_request if own is None else own
    return found


def write_tensors(outputs: Sequence[OutputTensor], in_binary: Sequence[bool]) -> tuple[list[OutputTensor], bytes]:
    """Writes outputs; those `in_binary` get their size in the place of data, and their bytes are returned."""
    described, parts = [], []
    for output, binary in zip(outputs, in_binary, strict=True):
        if binary:
            part = bytes_of(output)
            parts.append(part)
            output = OutputTensor(
                output.name, output.shape, output.datatype, parameters={"binary_data_size": len(part)}
            )
        described.append(output)
    return described, b"".join(parts)


def bytes_of(output: OutputTensor) -> bytes:
    """The bytes of an output, little-endian; elements of BYTES come after their lengths."""
    data = output.data
    assert isinstance(data, list)
    if output.datatype == "BYTES":
        texts = [str(text).encode() for text in data]
        return b"".join(LENGTH.pack(len(text)) + text for text in texts)
    return np.asarray(data, "<f4" if output.datatype == "FP32" else "<i8").tobytes()


def read_texts(of: str, content: bytes | memoryview, count: int) -> list[str]:
    """Reads the `count` texts of an input. Raises RefusedError where `content` is not as many in UTF-8."""
    texts, at = [], 0
    for index in range(count):
        end = at + LENGTH.size
        if end <= len(content):
            (size,) = LENGTH.unpack_from(content, at)
            at, end = end, end + size
        if end > len(content):
            raise RefusedError("unusable", f"{of}: its {len(content)} bytes end before the end of element {index}")
        try:
            texts.append(str(content[at:end], "utf-8"))
        except UnicodeDecodeError as error:
            raise RefusedError("unusable", f"{of}: element {index} is not UTF-8: {error}") from None
        at = end
    if at < len(content):
        raise RefusedError("unusable", f"{of}: its shape has {count} elements, and more bytes follow")
    return texts
