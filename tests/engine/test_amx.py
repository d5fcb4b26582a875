"""The kernels on tiles, native where the CPU has AMX, and emulated: held to what the instructions are documented to do.

What every table must do is tested of these in test_kernels.py, test_forward.py and test_forward_bits.py.
"""

from pathlib import Path

import numpy as np
import pytest
from cases import any_family, random_config, random_ragged, random_weights
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import reference_logits

from prunetime import _engine
from prunetime._engine import testing
from prunetime.core.arch import ArchSpec, LayerSpec
from prunetime.core.blocks import to_blocks, to_dense
from prunetime.core.precision import PLANNED, MatrixPlan, PrecisionPlan
from prunetime.inference.engine import Engine

EMULATED = testing.emulated_isas()
ISAS = [isa for isa in _engine.supported_isas() if isa == "amx"] + EMULATED
isas = pytest.mark.parametrize("isa", ISAS)
seeds = st.integers(0, 2**32 - 1)

AVX512 = "avx512_vnni"
"""The table that shares all but the tiles: int8 is the same there, and bf16 in blocks too narrow for tiles."""
BLOCK_SHAPES = [(32, 32), (32, 16), (16, 16), (32, 1)]


def test_amx_is_there_where_the_cpu_has_it():
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    flags = set(next((line for line in lines if line.startswith("flags")), "").split())
    assert ("amx" in _engine.supported_isas()) == ({"amx_tile", "amx_bf16", "amx_int8"} <= flags)
    assert ("amx_emulated" in EMULATED) == ("avx512_bf16" in _engine.supported_isas())


def test_emulated_tables_are_chosen_by_name_only():
    assert not set(EMULATED) & set(_engine.supported_isas())
    for isa in EMULATED:
        assert _engine.ReferenceKernel(isa).isa == isa
        assert _engine.ReferenceKernel().isa != isa


@st.composite
def products(draw):
    """(x [m, k], w [n, k], w as it is stored, bias [n], block_shape or None, how much of k is used)."""
    rng = np.random.default_rng(draw(seeds))
    m, k, n = draw(st.integers(1, 70)), draw(st.integers(1, 200)), draw(st.integers(1, 100))
    block_shape = draw(st.sampled_from([None, *BLOCK_SHAPES]))
    x, w, bias = (rng.standard_normal(shape).astype(np.float32) for shape in ((m, k), (n, k), (n,)))
    if block_shape is None:
        return x, w, w, bias, block_shape, draw(st.sampled_from([k, *range(4, k, 4)]))
    kept = rng.random((-(-n // block_shape[0]), -(-k // block_shape[1]))) < draw(st.sampled_from([0.0, 0.2, 0.5, 1.0]))
    stored = to_blocks(w, kept, *block_shape)
    return x, to_dense(*stored, w.shape), stored, bias, block_shape, draw(st.sampled_from([k, *range(32, k, 32)]))


def to_bf16(x):
    """Normal float32 numbers rounded to bf16, ties to even."""
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).view(np.float32)


def product_on_tiles(x, w, bias, columns):
    """x w^T + bias as TDPBF16PS adds up tiles of `columns` columns: the even ones and the odd ones, then both."""
    x, w = to_bf16(x), to_bf16(w)
    sums = np.broadcast_to(bias, (len(x), len(w)))
    for start in range(0, x.shape[1], columns):
        parts = [np.zeros_like(sums), np.zeros_like(sums)]
        for column in range(start, min(start + columns, x.shape[1])):
            parts[column % 2] = parts[column % 2] + np.outer(x[:, column], w[:, column])  # exact, then rounded
        sums = sums + (parts[0] + parts[1])
    return sums


@pytest.mark.parametrize("isa", EMULATED)
@settings(max_examples=150)
@given(product=products())
def test_bf16_is_what_the_instructions_add_up(isa, product):
    x, w, stored, bias, block_shape, used = product
    result = testing.gemm(isa, x, stored, bias, precision="bf16", used_inner=used)
    if block_shape == (32, 1):
        expected = testing.gemm(AVX512, x, stored, bias, precision="bf16", used_inner=used)
    else:
        expected = product_on_tiles(x[:, :used], w[:, :used], bias, block_shape[1] if block_shape else 32)
    assert np.array_equal(result, expected)


@isas
@settings(max_examples=150)
@given(product=products(), activation=st.sampled_from(["identity", "gelu"]), written=st.sampled_from(["fp32", "bf16"]))
def test_int8_and_fp32_are_those_of_avx512(isa, product, activation, written):
    x, _, stored, bias, _, used = product
    for precision in ("int8", "fp32"):
        ours, theirs = (
            testing.gemm(table, x, stored, bias, activation, precision, written, used) for table in (isa, AVX512)
        )
        assert np.array_equal(ours, theirs)


@isas
@pytest.mark.parametrize("precision", ["bf16", "int8"])
@pytest.mark.parametrize("block_shape", [None, (16, 16)])
def test_a_row_is_the_same_bits_in_any_number_of_rows(isa, precision, block_shape):
    rng = np.random.default_rng(0)
    x, w, bias = (rng.standard_normal(shape).astype(np.float32) for shape in ((131, 96), (64, 96), (64,)))
    stored = to_blocks(w, rng.random((4, 6)) < 0.5, 16, 16) if block_shape else w
    together = testing.gemm(isa, x, stored, bias, precision=precision)
    for rows in range(1, 131):
        part = testing.gemm(isa, x[131 - rows :], stored, bias, precision=precision)
        assert np.array_equal(part, together[131 - rows :])


@isas
@pytest.mark.parametrize(("x", "w"), [(2.0**-80, 2.0**-60), (2.0**20, 2.0**-130), (2.0**-130, 2.0**20)])
def test_denormals_are_zeros(isa, x, w):
    left, right = np.full((3, 32), x, np.float32), np.full((32, 32), w, np.float32)
    assert not testing.gemm(isa, left, right, np.zeros(32, np.float32), precision="bf16").any()


def encoder(seed, precision):
    """(config, weights, the same all dense, plan, batch): some matrices in blocks, all in `precision`."""
    rng = np.random.default_rng(seed)
    config = random_config(rng, layers=2, **any_family(rng))
    matrices = LayerSpec.full(config.dims).matrix_shapes(config.dims)
    dense = random_weights(config, ArchSpec.full(config.dims), rng)
    weights = dict(dense)
    for matrix in (f"layers.{layer}.{matrix}" for layer in range(2) for matrix in matrices):
        if rng.random() < 0.5:
            weight = weights.pop(f"{matrix}.weight")
            rows, columns = BLOCK_SHAPES[rng.integers(len(BLOCK_SHAPES))]
            kept = rng.random((-(-weight.shape[0] // rows), -(-weight.shape[1] // columns))) < 0.5
            blocks = to_blocks(weight, kept, rows, columns)
            weights[f"{matrix}.blocks"], weights[f"{matrix}.block_index"] = blocks
            dense[f"{matrix}.weight"] = to_dense(*blocks, weight.shape)
    exceptions = tuple((layer, matrix, MatrixPlan(precision)) for layer in range(2) for matrix in PLANNED)
    return config, weights, dense, PrecisionPlan(exceptions=exceptions), random_ragged(config, rng, [1, 40, 7, 23, 64])


@isas
@pytest.mark.parametrize("seed", range(6))
def test_a_forward_in_int8_is_that_of_avx512(isa, seed):
    config, weights, _, plan, ragged = encoder(seed, "int8")
    expected = Engine(config, weights, isa=AVX512, plan=plan).logits(ragged)
    for threads in (1, 2, 3):
        assert np.array_equal(Engine(config, weights, threads, isa, plan=plan).logits(ragged), expected)


@isas
@pytest.mark.parametrize("seed", range(6))
def test_a_forward_in_bf16_has_the_same_bits_alone_and_in_a_batch(isa, seed):
    config, weights, _, plan, ragged = encoder(seed, "bf16")
    engine = Engine(config, weights, isa=isa, plan=plan)
    together = engine.logits(ragged)
    for row in range(len(ragged)):
        assert np.array_equal(engine.logits(ragged.select([row]))[0], together[row])
    for threads in (2, 3):
        assert np.array_equal(Engine(config, weights, threads, isa, plan=plan).logits(ragged), together)


@isas
def test_a_forward_in_bf16_is_as_close_as_that_of_avx512(isa):
    def error(table, seed):
        config, weights, dense, plan, ragged = encoder(seed, "bf16")
        logits = Engine(config, weights, isa=table, plan=plan).logits(ragged)
        return np.square(logits - reference_logits(config, dense, ragged)).mean()

    ours, theirs = (np.sqrt(np.mean([error(table, seed) for seed in range(12)])) for table in (isa, AVX512))
    assert ours <= 1.25 * theirs
