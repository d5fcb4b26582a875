"""What a table of kernels says it can do at most."""

import pytest

from prunetime import _engine

isas = pytest.mark.parametrize("isa", _engine.supported_isas())


@isas
def test_every_table_has_peaks_of_all_its_work(isa: str) -> None:
    peaks = _engine.peaks(isa)
    assert set(peaks) == {
        "multiply_fp32", "multiply_bf16", "multiply_int8", "gelu_fp32", "gelu_bf16", "softmax", "norm", "encode_bf16",
        "encode_int8",
    }  # fmt: skip
    assert all(0.0 < rate < 1e14 for rate in peaks.values())


@isas
def test_caches_and_memory_are_read(isa: str) -> None:
    assert all(0.0 < _engine.read_peak(isa, size) < 1e14 for size in (16 << 10, 128 << 20))


@pytest.mark.parametrize("size", [0, -1, 4095, 2**33])
def test_sizes_that_cannot_be_read_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"read_peak of {size} bytes; it must be from 4096"):
        _engine.read_peak("portable", size)


def test_unknown_isa() -> None:
    for ask in (lambda: _engine.peaks("sse9"), lambda: _engine.read_peak("sse9", 1 << 14)):
        with pytest.raises(ValueError, match="isa is 'sse9'; this CPU runs portable"):
            ask()
