"""Safetensors read without copying: what the library reads, and no other error than ours for damaged bytes."""

import json
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from prunetime.core.safetensors import parse

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "index": np.array([3, 1], np.int32),
    "none": np.zeros((0, 4), np.float32),
    "scalar": np.array(2, np.float32),
}


def content(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8).copy()


def written(entries: object, data: bytes = b"\0" * 16, pad: int = 0) -> np.ndarray:
    header = json.dumps(entries).encode() + b" " * pad
    return content(len(header).to_bytes(8, "little") + header + data)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_what_the_library_writes_is_read(metadata) -> None:
    found = parse(content(save(ARRAYS, metadata)))
    assert set(found) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert np.array_equal(found[name], array)


def test_arrays_are_views_unless_they_would_be_misaligned() -> None:
    whole = content(save(ARRAYS))
    assert np.shares_memory(parse(whole)["a"], whole)
    for pad in range(8):
        array = parse(written({"x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, pad=pad))["x"]
        assert array.flags.aligned
        assert not array.any()


@pytest.mark.parametrize(("entries", "message"), [
    ({"x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 12]}}, "x has shape .* in the bytes"),
    ({"x": {"dtype": "F32", "shape": [8], "data_offsets": [0, 32]}}, "of 16"),
    ({"x": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}}, r"shape \[-4\]"),
    ({"x": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}}, "bytes from 16 to 0"),
    ({"x": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, "shape"),
    ({"x": {"dtype": "F64", "shape": [2], "data_offsets": [0, 16]}}, "x is 'F64'; read are F32, I32"),
    ({"x": {"dtype": [], "shape": [2], "data_offsets": [0, 16]}}, "damaged"),
    ({"x": {"dtype": "F32", "shape": [2]}}, "damaged"),
    ({"x": 1}, "damaged"),
    ([1], "damaged"),
])  # fmt: skip
def test_what_is_wrong_is_named(entries: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(written(entries))


@pytest.mark.parametrize("data", [b"", b"\0" * 7, b"\xff" * 8, b"\x09" + b"\0" * 15, b"\x02" + b"\0" * 7 + b"[" * 2])
def test_no_file_of_tensors(data: bytes) -> None:
    with pytest.raises(ValueError, match="header"):
        parse(content(data))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_changed_bytes_give_arrays_inside_the_file_or_our_error(data: st.DataObject) -> None:
    changed = content(save(ARRAYS))
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    with suppress(ValueError):
        assert all(array.nbytes <= len(changed) for array in parse(changed).values())
