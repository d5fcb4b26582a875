"""Reading safetensors without copying: loading a model is mostly moving its bytes, and once is enough.

Format: 8 bytes of header length, a JSON header of {name: {dtype, shape, data_offsets}}, the data
(https://huggingface.co/docs/safetensors#format).
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunetime.core.arrays import Array

_DTYPES = {"F32": np.dtype("<f4"), "I32": np.dtype("<i4")}
_LENGTH_BYTES = 8


def parse(content: NDArray[np.uint8]) -> dict[str, Array]:
    """The float32 and int32 arrays of a safetensors file, by name, as views of its bytes `content` [size].

    Raises ValueError where it is none, or has numbers of another type.
    """
    start = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES].tobytes(), "little")
    if not _LENGTH_BYTES <= start <= len(content):
        raise ValueError(f"a header of {start - _LENGTH_BYTES} bytes in a file of {len(content)}")
    try:
        header = json.loads(content[_LENGTH_BYTES:start].tobytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its header is no JSON: {error}") from error
    try:
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        return {name: _view(name, entry, content[start:]) for name, entry in entries.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"its header is damaged: {error!r}") from error


def _view(name: str, entry: dict[str, Any], data: NDArray[np.uint8]) -> Array:
    begin, end = entry["data_offsets"]
    shape, dtype = entry["shape"], _DTYPES.get(entry["dtype"])
    if dtype is None:
        raise ValueError(f"{name} is {entry['dtype']!r}; read are {', '.join(_DTYPES)}")
    if not all(type(number) is int and number >= 0 for number in (begin, end, *shape)):
        raise ValueError(f"{name} has shape {shape!r} from {begin!r} to {end!r}")
    if end > len(data) or end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name} has shape {shape} in the bytes from {begin} to {end} of {len(data)}")
    values = data[begin:end]
    return (values if values.ctypes.data % dtype.itemsize == 0 else values.copy()).view(dtype).reshape(shape)
