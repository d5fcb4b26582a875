"""The work that is counted is what the engine does."""

import math

import numpy as np
import pytest
from cases import family_fields, random_config, random_ragged, random_spec, random_weights

from prunetime._engine import number_bytes
from prunetime.core.arch import ArchSpec, KeptBlocks
from prunetime.core.precision import MatrixPlan, PrecisionPlan
from prunetime.inference.engine import Engine
from prunetime.inference.ragged import Ragged
from prunetime.latency.work import SublayerWork, work

LENGTHS = [9, 1, 30]


def case(seed: int, plan: PrecisionPlan = PrecisionPlan(), **options) -> tuple[Engine, Ragged]:
    rng = np.random.default_rng(seed)
    config = random_config(rng, rows=options.pop("rows", "pooled"))
    spec = random_spec(config, rng, **options)
    weights = random_weights(config, spec, rng)
    return Engine(config, weights, spec=spec, plan=plan), random_ragged(config, rng, LENGTHS)


def by_name(engine: Engine, batch: Ragged, **options) -> dict[str, SublayerWork]:
    return {part.name: part for part in work(engine, batch, **options)}


@pytest.mark.parametrize("seed", range(20))
def test_with_every_token_the_layers_have_the_operations_of_the_spec(seed: int) -> None:
    engine, batch = case(seed, blocks=True)
    layers = work(engine, batch, every_token=True)[1:-1]
    expected = sum(engine.spec.flops(engine.config.dims, length) for length in LENGTHS)
    assert sum(part.operations for part in layers) == expected
    assert sum(part.weight_bytes for part in layers) == 4 * engine.spec.weights(engine.config.dims)


@pytest.mark.parametrize("seed", range(5))
def test_a_head_that_reads_every_token_needs_them_all(seed: int) -> None:
    engine, batch = case(seed, rows="tokens")
    assert work(engine, batch) == work(engine, batch, every_token=True)
    outputs = 2 * engine.config.outputs * engine.config.dims.hidden
    assert by_name(engine, batch)["head"].operations == outputs * sum(LENGTHS)


@pytest.mark.parametrize("seed", range(30))
def test_tokens_are_counted_where_the_engine_keeps_them(seed: int) -> None:
    engine, batch = case(seed, blocks=True, tokens=True)
    left = engine.kept(batch)[1].sum(axis=1).tolist()
    has_attention = any(layer.has_attention for layer in engine.spec.layers)
    came = [sum(LENGTHS) if has_attention else len(LENGTHS), *left[:-1]]
    parts, dims = by_name(engine, batch), engine.config.dims
    times = engine.timed(batch)[1]
    assert {part.slot for part in parts.values()} == set(np.flatnonzero(times))
    for i, layer in enumerate(engine.spec.layers):
        weights = layer.matrix_weights(dims)
        if layer.has_attention:
            operations = [product.operations for product in parts[f"attention {i}"].products]
            assert operations[1:] == [
                2 * weights["key"] * came[i], 2 * weights["value"] * came[i], 2 * weights["attention_output"] * left[i]
            ]  # fmt: skip
        if layer.has_ffn:
            tokens = 2 * left[i]
            assert parts[f"ffn {i}"].operations == tokens * (weights["ffn_input"] + weights["ffn_output"])
            assert parts[f"ffn {i}"].numbers["gelu_fp32"] == left[i] * layer.ffn


def small(plan: PrecisionPlan, **changes) -> dict[str, SublayerWork]:
    """Two layers of 4 heads of 16, hidden 64, FFN 96, one of them changed; sequences of 5 and 3 tokens."""
    rng = np.random.default_rng(0)
    config = random_config(rng, layers=2, heads=4, head_dim=16, hidden=64, ffn=96, outputs=3)
    spec = ArchSpec.full(config.dims).with_layer(1, **changes)
    engine = Engine(config, random_weights(config, spec, rng), spec=spec, plan=plan)
    return by_name(engine, random_ragged(config, rng, [5, 3]))


def test_the_last_attention_has_one_query_a_sequence() -> None:
    parts = small(PrecisionPlan())
    assert list(parts) == ["embedding", "attention 0", "ffn 0", "attention 1", "ffn 1", "head"]
    square = 2 * 64 * 64
    assert [p.operations for p in parts["attention 0"].products] == [8 * square] * 4
    assert [p.operations for p in parts["attention 1"].products] == [2 * square, 8 * square, 8 * square, 2 * square]
    assert parts["attention 0"].core == 4 * 64 * (5 * 5 + 3 * 3)
    assert parts["attention 1"].core == 4 * 64 * (5 + 3)
    assert parts["attention 0"].numbers == {"softmax": 4 * (25 + 9), "norm": 8 * 64}
    assert parts["attention 1"].numbers == {"softmax": 4 * 8, "norm": 2 * 64}
    assert (parts["ffn 0"].operations, parts["ffn 1"].operations) == (8 * 4 * 64 * 96, 2 * 4 * 64 * 96)
    assert parts["embedding"] == SublayerWork("embedding", 0, numbers={"norm": 8 * 64})
    assert parts["head"].operations == 2 * (square + 2 * 3 * 64)


def test_attention_to_a_window_has_no_other_pairs() -> None:
    rng = np.random.default_rng(0)
    config = random_config(rng, layers=3, heads=2, head_dim=32, **family_fields("modernbert"))
    engine = Engine(config, random_weights(config, ArchSpec.full(config.dims), rng))
    parts = by_name(engine, random_ragged(config, rng, LENGTHS), every_token=True)
    windows = [math.inf, 6, 1]
    assert [layer.window or math.inf for layer in config.rotary] == windows
    for index, window in enumerate(windows):
        pairs = sum(abs(q - k) <= window for n in LENGTHS for q in range(n) for k in range(n))
        assert parts[f"attention {index}"].core == 4 * pairs * 64


def test_rounding_is_counted_where_a_matrix_reads_narrow_numbers() -> None:
    def matrix(layer: int, name: str, precision) -> tuple:
        return layer, name, MatrixPlan(precision)

    plan = PrecisionPlan(
        MatrixPlan("bf16"),
        (matrix(0, "attention_output", "int8"), matrix(0, "ffn_output", "int8"), matrix(1, "ffn_input", "fp32")),
    )
    parts = small(plan)
    assert parts["embedding"].numbers == {"norm": 512, "encode_bf16": 512}
    assert parts["attention 0"].numbers == {"softmax": 136, "norm": 512, "encode_int8": 512, "encode_bf16": 512}
    assert parts["ffn 0"].numbers == {"gelu_fp32": 768, "encode_int8": 768, "norm": 512, "encode_bf16": 512}
    assert parts["attention 1"].numbers == {"softmax": 32, "norm": 128, "encode_bf16": 128}
    assert parts["ffn 1"].numbers == {"gelu_bf16": 192, "norm": 128, "encode_bf16": 128}
    size = number_bytes("")
    assert [p.weight_bytes for p in parts["attention 0"].products] == [size["bf16"] * 4096] * 3 + [size["int8"] * 4096]
    assert {p.precision for p in parts["head"].products} == {"bf16", "fp32"}


@pytest.mark.parametrize("sparse", [True, False])
def test_blocks_count_where_they_are_run_as_blocks(sparse: bool) -> None:
    plan = PrecisionPlan(MatrixPlan("bf16", sparse))
    part = small(plan, blocks=(KeptBlocks("ffn_input", 32, 32, 2),))["ffn 1"]
    weights = 2 * 32 * 32 if sparse else 64 * 96
    assert part.products[0].operations == 2 * 2 * weights
    assert part.products[0].weight_bytes == number_bytes("")["bf16"] * weights


def test_sub_layers_that_are_gone_have_no_work_and_the_next_reads_what_they_would() -> None:
    exceptions = tuple((1, name, MatrixPlan("int8")) for name in ("query", "key", "value"))
    parts = small(PrecisionPlan(MatrixPlan("bf16"), exceptions), heads=0)
    assert list(parts) == ["embedding", "attention 0", "ffn 0", "ffn 1", "head"]
    assert parts["ffn 0"].numbers["encode_bf16"] == 2 * 64
    assert "encode_int8" not in parts["ffn 0"].numbers


def test_without_attention_only_first_tokens_go_on() -> None:
    rng = np.random.default_rng(1)
    config = random_config(rng, layers=1)
    spec = ArchSpec.full(config.dims).with_layer(0, heads=0)
    engine = Engine(config, random_weights(config, spec, rng), plan=PrecisionPlan.uniform("bf16"))
    parts = by_name(engine, random_ragged(config, rng, LENGTHS))
    hidden = config.dims.hidden
    assert parts["embedding"].numbers == {"norm": sum(LENGTHS) * hidden, "encode_bf16": len(LENGTHS) * hidden}
    weights = math.prod(spec.layers[0].matrix_shapes(config.dims)["ffn_input"])
    assert parts["ffn 0"].operations == 4 * weights * len(LENGTHS)
