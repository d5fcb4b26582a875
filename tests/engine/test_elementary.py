"""GELU, LayerNorm and the encoding of rows where their kernels change course: edges of pieces, groups of rows, ties."""

import numpy as np
import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from reference import gelu
from rounding import U, assert_within, to_bf16

from prunetime import _engine
from prunetime._engine import testing

ISAS = _engine.supported_isas()
isas = pytest.mark.parametrize("isa", ISAS)
seeds = st.integers(0, 2**32 - 1)
bits = st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=150)


def activate(isa, x, output_precision="fp32"):
    """GELU alone: a GEMM by a 1 x 1 identity is exact."""
    one, zero = np.ones((1, 1), np.float32), np.zeros(1, np.float32)
    return testing.gemm(isa, x.reshape(-1, 1), one, zero, "gelu", output_precision=output_precision).reshape(x.shape)


@pytest.fixture(scope="module")
def grid():
    """[-6, 6] densely, and the floats around every edge that a table could have between pieces."""
    scales = (5.86538458, 6.0999999, 1.25, 1.29999995)
    edges = [(k + half) / scale for scale in scales for k in range(32) for half in (0, 0.5)]
    near = (np.float32(edges)[:, None].view(np.int32) + np.arange(-20, 21, dtype=np.int32)).view(np.float32).ravel()
    near = near[np.abs(near) < 7]
    return np.concatenate([np.linspace(-6, 6, 400_001, dtype=np.float32), near, -near])


@isas
def test_gelu_is_within_1e_6_and_a_rounding(isa, grid):
    """The tail left out from 5.2 on is 5.2e-7, the fit within 4.9e-7; a result near 5 is rounded to 2.4e-7."""
    exact = grid.astype(np.float64)
    assert_within(activate(isa, grid), gelu(exact), 1e-6 + U * np.abs(exact))


@isas
def test_gelu_of_zero_is_zero(isa):
    """Padding stays padding."""
    assert not activate(isa, np.float32([0.0, -0.0])).any()


@isas
def test_gelu_rounded_to_bf16_is_within_an_ulp(isa, grid):
    """Half an ulp, or 2e-6, of the function and half an ulp of the rounding."""
    exact = gelu(grid.astype(np.float64))
    half_ulp = 2.0 ** (np.floor(np.log2(1.01 * np.abs(exact) + 1e-30)) - 8)
    assert_within(activate(isa, grid, "bf16"), exact, np.maximum(half_ulp, 2e-6) + half_ulp)


def as_bytes(rows):
    """The numbers that the bytes of rows [m, n] stand for, in float32 as the engine computes them."""
    low, high = np.minimum(rows.min(axis=1), 0), np.maximum(rows.max(axis=1), 0)
    extent = high - low
    tiny = extent < np.float32(2.0**-100)
    inverse = np.where(tiny, np.float32(0), np.float32(255) / np.where(tiny, np.float32(1), extent))
    scale = np.where(tiny, np.float32(1), extent / np.float32(255))
    zero = np.rint(-low * inverse)
    q = np.minimum(np.rint(rows * inverse[:, None]) + zero[:, None], 255)
    return (scale[:, None] * (q - zero[:, None]).astype(np.float32)).astype(np.float32)


@examples(150)
@given(seed=seeds, width=st.integers(1, 200), kind=st.sampled_from(["normal", "halves", "positive", "zero", "tiny"]))
def test_bytes_are_the_same_on_every_table_and_in_numpy(seed, width, kind):
    rng = np.random.default_rng(seed)
    rows = {
        "normal": rng.standard_normal((3, width)) * 2.0 ** rng.integers(-20, 20),
        "halves": rng.integers(-128, 128, (3, width)) / 2,
        "positive": rng.random((3, width)) + 0.5,
        "zero": np.zeros((3, width)),
        "tiny": rng.standard_normal((3, width)) * 1e-35,
    }[kind].astype(np.float32)
    expected = as_bytes(rows)
    for isa in ISAS:
        assert np.array_equal(testing.quantise(isa, rows, "int8"), expected), isa


@isas
@examples(150)
@given(pattern=bits)
def test_bf16_of_any_bits(isa, pattern):
    rows = np.array([pattern], np.uint32).view(np.float32)
    result = testing.quantise(isa, rows, "bf16")
    assert np.array_equal(np.isnan(result), np.isnan(rows))
    numbers = ~np.isnan(rows)
    assert np.array_equal(result[numbers], to_bf16(np.where(numbers, rows, np.float32(0)))[numbers])


@isas
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan, -np.nan, np.uint32(0xFFC00001).view(np.float32)])
@pytest.mark.parametrize("width", [1, 31, 70])
def test_bytes_do_not_hide_a_number_that_overflowed(isa, bad, width):
    for column in {0, width // 2, width - 1}:
        row = np.linspace(-1, 1, width, dtype=np.float32)[None]
        row[0, column] = bad
        assert np.isnan(testing.quantise(isa, row, "int8")).all()


@isas
@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("width", [5, 96, 100])
def test_a_normalised_row_is_the_same_bits_alone_and_among_others(isa, width, kept):
    rng = np.random.default_rng(width)
    rows = np.arange(0, width, 3, dtype=np.int32) if kept else None
    hidden = rng.standard_normal((11, width)).astype(np.float32)
    update = rng.standard_normal((11, len(rows) if kept else width)).astype(np.float32)
    weight, bias = rng.standard_normal((2, width)).astype(np.float32)
    together = testing.add_and_norm(isa, hidden, update, rows, weight, bias, 1e-5)
    for row in range(11):
        alone = testing.add_and_norm(isa, hidden[[row]], update[[row]], rows, weight, bias, 1e-5)
        assert np.array_equal(alone[0], together[row])


@isas
@pytest.mark.parametrize("length", [1, 17, 40])
def test_an_embedded_token_is_the_same_bits_alone_and_among_others(isa, length):
    rng = np.random.default_rng(length)
    word, position = rng.standard_normal((2, 50, 70)).astype(np.float32)
    weight, bias = rng.standard_normal((2, 70)).astype(np.float32)
    ids = rng.integers(0, 50, length).astype(np.int32)
    together = testing.embed(isa, ids, word, position, weight, bias, 1e-5)
    for token in range(length):
        alone = testing.embed(isa, ids[[token]], word, position[[token]], weight, bias, 1e-5)
        assert np.array_equal(alone[0], together[token])
