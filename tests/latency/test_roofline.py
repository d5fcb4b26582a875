"""Floors from peaks that are given, and times that no floor lies above."""

import numpy as np
import pytest
from cases import random_config, random_ragged, random_weights

from prunetime.core.arch import ArchSpec
from prunetime.core.precision import PRECISIONS, PrecisionPlan
from prunetime.inference.engine import Engine, supported_isas
from prunetime.latency.roofline import CacheLevel, Peaks, caches, measure_peaks, roofline, time_passes
from prunetime.latency.work import work

NUMBERS = dict.fromkeys(("gelu_fp32", "gelu_bf16", "softmax", "norm", "encode_bf16", "encode_int8"), 1e6)
FAST = {"fp32": 1e12, "bf16": 2e12, "int8": 4e12}


def peaks(operations=FAST, near: float = 1e12, far: float = 1e12, size: int = 1 << 40) -> Peaks:
    return Peaks(
        "test",
        operations,
        NUMBERS,
        (CacheLevel("L1", 1, 1e15), CacheLevel("L2", size, near), CacheLevel("memory", None, far)),
    )


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    config = random_config(rng, layers=2, heads=4, head_dim=16, ffn=96)
    weights = random_weights(config, ArchSpec.full(config.dims), rng)
    return Engine(config, weights, plan=PrecisionPlan.uniform("int8")), random_ragged(config, rng, [7, 12])


def table(case, given: Peaks):
    engine, batch = case
    passes = np.arange(1.0, 7.0) * np.array([[[1.0], [9.0], [2.0]]])  # [1, 3, 6], medians 2, 4, ..., 12
    return roofline(engine, batch, passes, given), work(engine, batch)


def test_with_slow_arithmetic_the_floor_is_the_operations(case) -> None:
    slow = {"fp32": 1e6, "bf16": 2e6, "int8": 4e6}
    found, parts = table(case, peaks(slow))
    for row, part in zip(found.rows, parts, strict=True):
        seconds = sum(product.operations / slow[product.precision] for product in part.products)
        assert row.products_us == pytest.approx(1e6 * seconds)
        assert row.core_us == pytest.approx(1e6 * part.core / slow[part.core_precision])
    assert [row.bound for row in found.rows] == ["", *["int8"] * 4, "bf16"]
    assert found.every_token.bound == "operations"
    engine = case[0]
    layers = work(*case, every_token=True)[1:-1]
    in_products = sum(product.operations for part in layers for product in part.products)
    core = sum(part.core for part in layers)
    assert in_products + core == sum(engine.spec.flops(engine.config.dims, length) for length in (7, 12))
    assert found.every_token.floor_us == pytest.approx(in_products / 4 + core / 2)


@pytest.mark.parametrize(("size", "level"), [(1 << 40, "L2"), (1000, "memory")])
def test_with_fast_arithmetic_the_floor_is_reading_the_weights(case, size: int, level: str) -> None:
    found, parts = table(case, peaks(dict.fromkeys(FAST, 1e30), near=2e6, far=1e6, size=size))
    per_us = 2.0 if level == "L2" else 1.0
    for row, part in zip(found.rows, parts, strict=True):
        assert row.floor_us == pytest.approx(part.weight_bytes / per_us)
        assert row.bound == (level if part.products else "")
    assert found.every_token.floor_us == pytest.approx(sum(part.weight_bytes for part in parts[1:-1]) / per_us)
    assert found.every_token.bound == level


def test_rows_hold_medians_vector_floors_and_ratios_and_add_up(case) -> None:
    found, parts = table(case, peaks())
    assert [row.us for row in found.rows] == [2.0, 4.0, 6.0, 8.0, 10.0, 12.0]
    for row, part in zip(found.rows, parts, strict=True):
        assert row.vector_us == pytest.approx(sum(part.numbers.values()))
        assert row.ratio == (pytest.approx(row.us / row.floor_us) if part.products else None)
        assert row.ratio_with_vector == pytest.approx(row.us / (row.floor_us + row.vector_us))
    for name in ("us", "products_us", "core_us", "vector_us", "floor_us"):
        assert getattr(found.total, name) == pytest.approx(sum(getattr(row, name) for row in found.rows))
    assert (found.every_token.us, found.every_token.vector_us) == (found.total.us, found.total.vector_us)
    assert found.noisy is False
    assert found.to_json()["rows"][0]["ratio"] is None


def test_the_core_of_float32_layers_counts_in_float32(case) -> None:
    engine, batch = case
    rng = np.random.default_rng(0)
    spec = engine.spec
    exact = Engine(engine.config, random_weights(engine.config, spec, rng))
    found = roofline(exact, batch, np.ones((1, 1, 6)), peaks(dict(FAST, fp32=1e6)))
    operations = sum(spec.flops(engine.config.dims, length) for length in (7, 12))
    assert found.every_token.floor_us == pytest.approx(operations)


def test_passes_of_several_engines(case) -> None:
    engine, batch = case
    found = time_passes([engine, engine], batch)
    assert [passes.shape[::2] for passes in found] == [(16, 6)] * 2
    assert all((passes > 0).all() for passes in found)


def test_caches_grow_outward() -> None:
    sizes = list(caches().values())
    assert sizes == sorted(sizes)
    assert all(size >= 4096 for size in sizes)


@pytest.mark.parametrize("isa", supported_isas())
def test_peaks_are_of_every_precision_and_every_cache(isa: str) -> None:
    """Whether they are right shows on a quiet machine: bench/engine.py fails where floors are too high."""
    found = measure_peaks(isa)
    assert [level.name for level in found.levels] == [*caches(), "memory"]
    assert set(found.operations) == set(PRECISIONS)
    assert all(rate > 0.0 for rate in (*found.operations.values(), *found.numbers.values()))
    assert all(level.bytes_per_second > 0.0 for level in found.levels)
