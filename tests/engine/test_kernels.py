"""Every kernel of every table that this CPU runs, against float64 within derived bounds (see rounding.py)."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from reference import gelu, layer_norm, softmax
from rounding import (
    assert_within,
    check_attention,
    check_gelu,
    check_gemm,
    check_layer_norm,
    check_narrow_attention,
    check_narrow_gemm,
    check_tanh,
    to_bf16,
    to_int8_weights,
)

from prunetime import _engine
from prunetime._engine import testing
from prunetime.core.blocks import to_blocks, to_dense

ISAS = [*_engine.supported_isas(), *testing.emulated_isas()]
isas = pytest.mark.parametrize("isa", ISAS)
seeds = st.integers(0, 2**32 - 1)


def normals(rng, *shape):
    """Numbers of mixed magnitude and sign."""
    return (rng.standard_normal(shape) * 2.0 ** rng.integers(-4, 5, shape)).astype(np.float32)


def test_every_table_of_this_cpu_is_tested():
    assert ISAS[0] == "portable"
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    assert ("avx2" in ISAS) == ({"avx2", "fma"} <= set(flags))
    assert ("avx512" in ISAS) == ({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx2", "fma"} <= set(flags))


@isas
@examples(60)
@given(seed=seeds, m=st.integers(1, 40), k=st.integers(1, 80), n=st.integers(1, 150))
def test_gemm(isa, seed, m, k, n):
    rng = np.random.default_rng(seed)
    check_gemm(partial(testing.gemm, isa), normals(rng, m, k), normals(rng, n, k), normals(rng, n))


@isas
@pytest.mark.parametrize("m", range(1, 30))
def test_gemm_of_every_tile_height(isa, m):
    rng = np.random.default_rng(m)
    check_gemm(partial(testing.gemm, isa), normals(rng, m, 384), normals(rng, 160, 384), normals(rng, 160))


@isas
def test_a_row_is_the_same_bits_alone_and_in_any_tile(isa):
    rng = np.random.default_rng(0)
    x, w, bias = normals(rng, 61, 97), normals(rng, 131, 97), normals(rng, 131)
    together = testing.gemm(isa, x, w, bias)
    for first in range(61):
        for count in (1, 2, 3, 5, 8, 13):
            part = testing.gemm(isa, x[first : first + count], w, bias)
            assert np.array_equal(part, together[first : first + count])


@isas
def test_gemm_without_its_last_product_is_rejected(isa):
    rng = np.random.default_rng(0)
    x, w, bias = normals(rng, 5, 384), normals(rng, 64, 384), normals(rng, 64)

    def without_last(x, w, bias):
        return testing.gemm(isa, x[:, :-1].copy(), w[:, :-1].copy(), bias)

    with pytest.raises(AssertionError, match="times the bound"):
        check_gemm(without_last, x, w, bias)


precisions = pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
BLOCK_SHAPES = [(32, 32), (32, 16), (16, 16), (32, 1)]


def check_in_precision(isa, precision, x, w, bias, stored=None, **options):
    """The product of `x` and `w`, stored as `stored`, in a precision, against float64 of what the numbers round to."""
    result = testing.gemm(isa, x, w if stored is None else stored, bias, precision=precision, **options)
    inner = options.get("used_inner") or x.shape[1]
    read = testing.quantise(isa, x, precision).astype(np.float64)[:, :inner]
    if precision == "fp32":
        check_gemm(lambda *_: result, np.ascontiguousarray(x[:, :inner]), w[:, :inner], bias)
    else:
        rounded = to_bf16(w) if precision == "bf16" else to_int8_weights(w)
        check_narrow_gemm(result, read, rounded[:, :inner], bias, precision)


@isas
@precisions
@examples(40)
@given(seed=seeds, m=st.integers(1, 40), k=st.integers(1, 200), n=st.integers(1, 150))
def test_gemm_in_every_precision(isa, precision, seed, m, k, n):
    rng = np.random.default_rng(seed)
    check_in_precision(isa, precision, normals(rng, m, k), normals(rng, n, k), normals(rng, n))


@st.composite
def sparse_matrices(draw):
    """(dense weights [n, k] with zeros, the same as (blocks, block_index)): any block shape, sizes that fit none."""
    rng = np.random.default_rng(draw(seeds))
    rows, columns = draw(st.sampled_from(BLOCK_SHAPES))
    n, k = draw(st.integers(1, 150)), draw(st.integers(1, 200))
    kept = rng.random((-(-n // rows), -(-k // columns))) < draw(st.sampled_from([0.0, 0.2, 0.5, 1.0]))
    stored = to_blocks(normals(rng, n, k), kept, rows, columns)
    return to_dense(*stored, (n, k)), stored


@isas
@precisions
@examples(40)
@given(seed=seeds, m=st.integers(1, 40), matrix=sparse_matrices())
def test_gemm_of_kept_blocks(isa, precision, seed, m, matrix):
    rng = np.random.default_rng(seed)
    w, stored = matrix
    check_in_precision(isa, precision, normals(rng, m, w.shape[1]), w, normals(rng, len(w)), stored)


@isas
@precisions
@pytest.mark.parametrize("block_shape", [None, *BLOCK_SHAPES])
@pytest.mark.parametrize("used", [32, 96, 160])
def test_gemm_of_a_prefix_of_the_inner_dimension(isa, precision, block_shape, used):
    rng = np.random.default_rng(used)
    w, stored, m = normals(rng, 70, 160), None, 13
    if block_shape:
        kept = rng.random((-(-70 // block_shape[0]), 160 // block_shape[1])) < 0.5
        stored = to_blocks(w, kept, *block_shape)
        w = to_dense(*stored, w.shape)
    check_in_precision(isa, precision, normals(rng, m, 160), w, normals(rng, 70), stored, used_inner=used)


@isas
@precisions
@pytest.mark.parametrize("block_shape", [None, *BLOCK_SHAPES])
@pytest.mark.parametrize("k", [512, 1090])
def test_gemm_of_more_than_a_table_multiplies_by_at_a_time(isa, precision, block_shape, k):
    rng = np.random.default_rng(k)
    x, w, bias = normals(rng, 17, k), normals(rng, 70, k), normals(rng, 70)
    stored = w
    if block_shape:
        stored = to_blocks(w, rng.random((-(-70 // block_shape[0]), -(-k // block_shape[1]))) < 0.6, *block_shape)
        w = to_dense(*stored, w.shape)
    check_in_precision(isa, precision, x, w, bias, stored)
    together = testing.gemm(isa, x, stored, bias, precision=precision)
    assert np.array_equal(testing.gemm(isa, x, stored, bias, "relu", precision), np.maximum(together, 0))
    for row in (0, 16):
        assert np.array_equal(testing.gemm(isa, x[row : row + 1], stored, bias, precision=precision)[0], together[row])


@isas
@precisions
@pytest.mark.parametrize("columns", [160, 150, 33, 16, 1])
def test_an_output_in_bf16_is_the_rounded_output(isa, precision, columns):
    rng = np.random.default_rng(columns)
    x, bias = normals(rng, 29, 64), normals(rng, columns)
    for weight in (
        normals(rng, columns, 64),
        to_blocks(normals(rng, columns, 64), np.ones((-(-columns // 16), 4), bool), 16, 16),
    ):
        for activation in ("identity", "gelu"):
            floats = testing.gemm(isa, x, weight, bias, activation, precision)
            rounded = testing.gemm(isa, x, weight, bias, activation, precision, "bf16")
            assert np.array_equal(rounded, to_bf16(floats))


@isas
@precisions
def test_narrow_rows_are_the_same_bits_alone_and_in_any_tile(isa, precision):
    rng = np.random.default_rng(0)
    x, w, bias = normals(rng, 61, 97), normals(rng, 131, 97), normals(rng, 131)
    together = testing.gemm(isa, x, w, bias, precision=precision)
    for count in (1, 2, 3, 4, 5, 8, 13):
        for first in range(0, 61 - count, 7):
            part = testing.gemm(isa, x[first : first + count], w, bias, precision=precision)
            assert np.array_equal(part, together[first : first + count])


@isas
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_narrow_gemm_without_its_last_product_is_rejected(isa, precision):
    rng = np.random.default_rng(0)
    x, w, bias = (rng.standard_normal(shape).astype(np.float32) for shape in ((5, 384), (64, 384), (64,)))
    cut = w.copy()
    cut[:, -1] = 0
    result = testing.gemm(isa, x, cut, bias, precision=precision)
    rounded = to_bf16(w) if precision == "bf16" else to_int8_weights(w)
    with pytest.raises(AssertionError, match="times the bound"):
        check_narrow_gemm(result, testing.quantise(isa, x, precision).astype(np.float64), rounded, bias, precision)


@pytest.fixture(scope="module")
def grid():
    """[-20, 20] densely, the middle more so, and the neighbourhood of where the approximation ends."""
    parts = [np.linspace(-20, 20, 200_001), np.linspace(-6, 6, 300_001), np.linspace(5.4999, 5.5001, 2001)]
    return np.concatenate(parts).astype(np.float32)


def activate(isa, activation, x):
    """The activation alone: a GEMM by a 1 x 1 identity is exact."""
    one, zero = np.ones((1, 1), np.float32), np.zeros(1, np.float32)
    return testing.gemm(isa, x.reshape(-1, 1), one, zero, activation).reshape(x.shape)


@isas
def test_gelu(isa, grid):
    check_gelu(partial(activate, isa, "gelu"), grid)


@isas
def test_gelu_that_is_rounded_next(isa, grid):
    """Off by half an ulp of bf16 (8 bits of precision) or 2e-6, whichever is larger, before it is rounded."""
    exact = gelu(grid.astype(np.float64))
    assert_within(activate(isa, "rounded_gelu", grid), exact, np.maximum(2e-6, 2.0**-9 * np.abs(exact)))


@isas
def test_tanh(isa, grid):
    check_tanh(partial(activate, isa, "tanh"), grid)
    assert activate(isa, "tanh", np.float32([-100, 0, 100])).tolist() == [-1, 0, 1]


@isas
def test_relu_is_exact(isa, grid):
    assert np.array_equal(activate(isa, "relu", grid), np.maximum(grid, 0))


@isas
def test_gelu_of_large_numbers_is_exact(isa):
    x = np.float32([5.5, 30, 1e6, 3e38])
    assert np.array_equal(activate(isa, "gelu", x), x)
    assert not activate(isa, "gelu", -x).any()


@isas
@pytest.mark.parametrize("activation", ["gelu", "relu", "tanh"])
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_activations_do_not_hide_what_overflowed(isa, activation, bad):
    assert not np.isfinite(activate(isa, activation, np.float32([bad])))[0]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
        lambda x: x / (1 + np.exp(-1.702 * x)),
        lambda x: gelu(x) + 3e-6,
    ],
)
def test_a_wrong_gelu_is_rejected(grid, wrong):
    with pytest.raises(AssertionError, match="times the bound"):
        check_gelu(lambda x: wrong(x.astype(np.float64)).astype(np.float32), grid)


def attend(isa, q, k, v):
    return testing.attention(isa, q, k, v)[0]


@isas
@examples(50)
@given(seed=seeds, length=st.integers(1, 100), d=st.sampled_from([1, 3, 16, 24, 32, 40, 64]), scale=st.floats(0.1, 8))
def test_attention(isa, seed, length, d, scale):
    rng = np.random.default_rng(seed)
    q, k, v = (rng.standard_normal((3, length, d)) * scale).astype(np.float32)
    check_attention(partial(attend, isa), q, k, v)


@isas
@examples(50)
@given(seed=seeds, length=st.integers(1, 100), d=st.sampled_from([1, 3, 16, 24, 32, 40, 64]), scale=st.floats(0.1, 4))
def test_attention_in_the_narrow_precision(isa, seed, length, d, scale):
    rng = np.random.default_rng(seed)
    q, k, v = (to_bf16((rng.standard_normal((length, d)) * scale).astype(np.float32)).astype(np.float32) for _ in "qkv")
    check_narrow_attention(testing.attention(isa, q, k, v, narrow=True)[0], q, k, v)


@isas
def test_attention_at_512_tokens(isa):
    q, k, v = np.random.default_rng(0).standard_normal((3, 512, 32)).astype(np.float32)
    check_attention(partial(attend, isa), q, k, v)


@isas
def test_attention_with_scores_far_apart(isa):
    q, k, v = (np.random.default_rng(0).standard_normal((3, 40, 32)) * 100).astype(np.float32)
    check_attention(partial(attend, isa), q, k, v)


@isas
@pytest.mark.parametrize("sign", [1, -1])
def test_attention_does_not_hide_a_score_that_overflowed(isa, sign):
    q, k = np.full((20, 16), 1e25, np.float32), np.ones((20, 16), np.float32)
    k[7] = sign * 1e25
    assert np.isnan(attend(isa, q, k, k)).all()


@isas
@examples(30)
@given(seed=seeds, length=st.integers(1, 100), d=st.sampled_from([3, 16, 32, 64]))
def test_attention_received_is_the_sum_over_the_queries(isa, seed, length, d):
    q, k, v = np.random.default_rng(seed).standard_normal((3, length, d)).astype(np.float32)
    received = testing.attention(isa, q, k, v)[1]
    expected = softmax(q.astype(np.float64) @ k.T.astype(np.float64) / np.sqrt(d)).sum(axis=0)
    assert np.abs(received - expected).max() <= 1e-6 * length
    assert received.sum() == pytest.approx(length, rel=1e-5)


def test_attention_that_forgets_a_key_is_rejected():
    q, k, v = np.random.default_rng(0).standard_normal((3, 40, 32)).astype(np.float32)

    def forgetful(q, k, v):
        return (softmax((q @ k[:-1].T / np.sqrt(32)).astype(np.float64)) @ v[:-1]).astype(np.float32)

    with pytest.raises(AssertionError, match="times the bound"):
        check_attention(forgetful, q, k, v)


@isas
@examples(60)
@given(seed=seeds, tokens=st.integers(1, 5), width=st.integers(1, 130), offset=st.sampled_from([0.0, 1.0, 50.0]))
def test_add_and_norm(isa, seed, tokens, width, offset):
    rng = np.random.default_rng(seed)
    hidden, update = normals(rng, tokens, width) + np.float32(offset), normals(rng, tokens, width)
    weight, bias = normals(rng, width), normals(rng, width)
    result = testing.add_and_norm(isa, hidden, update, None, weight, bias, 1e-5)
    check_layer_norm(result, [hidden, update], weight, bias, 1e-5)


@isas
@examples(60)
@given(seed=seeds, width=st.integers(1, 130), data=st.data())
def test_add_and_norm_of_some_rows(isa, seed, width, data):
    rng = np.random.default_rng(seed)
    kept = np.array(sorted(data.draw(st.sets(st.integers(0, width - 1), min_size=1))), np.int32)
    hidden, update = normals(rng, 3, width), normals(rng, 3, len(kept))
    weight, bias = normals(rng, width), normals(rng, width)
    scattered = np.zeros_like(hidden)
    scattered[:, kept] = update
    result = testing.add_and_norm(isa, hidden, update, kept, weight, bias, 1e-5)
    check_layer_norm(result, [hidden, scattered], weight, bias, 1e-5)
    assert np.array_equal(result, testing.add_and_norm(isa, hidden, scattered, None, weight, bias, 1e-5))


@isas
def test_layer_norm_does_not_hide_a_row_that_overflowed(isa):
    hidden, ones = np.float32([[1e25, -1e25, 3e25, 0]]), np.ones(4, np.float32)
    assert np.isnan(testing.add_and_norm(isa, hidden, hidden, None, ones, ones, 1e-5)).all()


def test_a_layer_norm_that_divides_by_one_less_is_rejected():
    rng = np.random.default_rng(0)
    hidden, weight, bias = normals(rng, 4, 384), normals(rng, 384), normals(rng, 384)
    right = layer_norm(hidden.astype(np.float64), weight, bias, 1e-5)
    check_layer_norm(right.astype(np.float32), [hidden], weight, bias, 1e-5)
    wrong = (right - bias) * np.sqrt(383 / 384) + bias
    with pytest.raises(AssertionError, match="times the bound"):
        check_layer_norm(wrong.astype(np.float32), [hidden], weight, bias, 1e-5)


@isas
@examples(40)
@given(seed=seeds, length=st.integers(1, 20), width=st.integers(1, 130))
def test_embed(isa, seed, length, width):
    rng = np.random.default_rng(seed)
    word, position = normals(rng, 30, width), normals(rng, 20, width)
    weight, bias, ids = normals(rng, width), normals(rng, width), rng.integers(0, 30, length).astype(np.int32)
    result = testing.embed(isa, ids, word, position, weight, bias, 1e-5)
    check_layer_norm(result, [word[ids], position[:length]], weight, bias, 1e-5)
