"""The latency profile: what it covers, what it predicts, and when it is refused."""

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import counted_time
import numpy as np
import pytest
from cases import random_config, random_spec
from counted_time import CountedTime
from hypothesis import given, settings
from hypothesis import strategies as st

from prunetime.core import artifact
from prunetime.core.arch import ArchSpec, Dims
from prunetime.core.budget import Budget
from prunetime.core.config import EncoderConfig
from prunetime.core.precision import MatrixPlan, PrecisionPlan
from prunetime.errors import ProfileError
from prunetime.latency import predictor, profiling, recording
from prunetime.latency.predictor import CHANNELS_SAVE, BlockCosts, LatencyProfile, TokenShares
from prunetime.latency.sublayers import ProfileKey, ffn_level, level_neurons, precision_name, sublayers
from prunetime.latency.synthetic import random_weights

CONFIG = random_config(np.random.default_rng(0), layers=3, heads=4, head_dim=32, ffn=232, outputs=2)
DIMS = CONFIG.dims
BLOCK_SHAPE = (32, 16)
LENGTH = 24
BUDGET = Budget(share=0.5, seq_len=LENGTH)
EVERYWHERE = ("attention", "ffn", "pooled_attention", "pooled_ffn")
"""Kinds that all families have."""


def made_profile(config: EncoderConfig = CONFIG, **parts: Any) -> LatencyProfile:
    key = ProfileKey.here(config, threads=1, batch=1, tokens=LENGTH)
    heads, tiles = range(config.dims.heads + 1), range(ffn_level(config.dims.ffn) + 1)
    tables = {
        "attention": tuple(2.0 * level + (level > 0) for level in heads),
        "ffn": tuple(1.0 * level + (level > 0) for level in tiles),
        "pooled_attention": tuple(0.5 * level for level in heads),
        "pooled_ffn": tuple(0.125 * level for level in tiles),
    }
    measured = {
        f"{scope}/{condition}/{statistic}": (10.0, 110.0)
        for scope in ("ids", "text")
        for condition in ("hot", "idle")
        for statistic in ("p50", "p99")
    }
    return LatencyProfile(key, 300.0, (0.25, 0.25), 0.0, **tables, measured_us=measured, **parts)


BLOCKS = BlockCosts(
    *BLOCK_SHAPE,
    densities=recording.DENSITIES,
    each={
        kind: tuple(dense - saved * (1.0 - density) for density in recording.DENSITIES)
        for kind, dense, saved in zip(EVERYWHERE, (2.0, 1.0, 0.5, 0.125), (1.5, 0.75, 0.25, 0.0625), strict=True)
    },
)
TOKENS = TokenShares(
    counts=(0, 6, 12, 18, 24),
    share={
        "attention": (0.0, 0.2, 0.5, 0.75, 1.0),
        "ffn": (0.0, 0.25, 0.5, 0.75, 1.0),
        "pooled_attention": (0.0, 0.3, 0.6, 0.8, 1.0),
    },
    drop_cost=0.0625,
    drop_saves=0.25,
)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> CountedTime:
    counted = CountedTime()
    monkeypatch.setattr(recording, "time", counted)
    return counted


@pytest.fixture(scope="module", autouse=True)
def counted() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        counted_time.install(patch.setattr)
        yield


@pytest.fixture(scope="module")
def recorded() -> LatencyProfile:
    key = ProfileKey.here(CONFIG, threads=1, batch=2, tokens=LENGTH, plan=PrecisionPlan.uniform("bf16"))
    return recording.record(key, CONFIG, plan=PrecisionPlan.uniform("bf16"), blocks=BLOCK_SHAPE, tokens=True)


def test_a_recorded_profile_has_every_level_and_survives_json(recorded: LatencyProfile) -> None:
    assert len(recorded.attention) == len(recorded.pooled_attention) == DIMS.heads + 1
    assert len(recorded.ffn) == len(recorded.pooled_ffn) == ffn_level(DIMS.ffn) + 1 == 9
    assert recorded.sliding_window_attention == ()
    for kind in EVERYWHERE:
        table = getattr(recorded, kind)
        assert table[0] == 0.0
        assert min(table[1:]) > 0.0
    assert recorded.reference_us > 0
    assert recorded.blocks is not None
    assert set(recorded.blocks.each) == set(EVERYWHERE)
    assert recorded.tokens is not None
    assert recorded.tokens.counts == (0, 6, 12, 18, 24)
    assert recorded.key.precision == "bf16"
    assert LatencyProfile.from_json(json.loads(json.dumps(recorded.to_json()))) == recorded


@pytest.mark.parametrize("seed", range(4))
def test_the_weights_that_are_timed_are_those_of_the_spec(seed: int) -> None:
    spec = random_spec(CONFIG, np.random.default_rng(seed), blocks=True)
    artifact.check_weights(random_weights(CONFIG, spec), CONFIG, spec)


def test_a_larger_encoder_is_predicted_slower(recorded: LatencyProfile) -> None:
    quarter = ArchSpec.of(DIMS, [1] * DIMS.layers, [64] * DIMS.layers)
    assert recorded.units(ArchSpec.floor(DIMS)) < recorded.units(quarter) < recorded.units(ArchSpec.full(DIMS))


def test_fewer_blocks_and_fewer_tokens_are_predicted_faster(recorded: LatencyProfile) -> None:
    full = ArchSpec.full(DIMS)
    few = ArchSpec(tuple(layer.in_blocks(DIMS, BLOCK_SHAPE, lambda _: 0.1) for layer in full.layers))
    assert recorded.units(few) < recorded.units(full)
    assert recorded.units(full.with_layer(0, tokens=0.25)) < recorded.units(full)


def test_a_pass_is_the_sum_of_its_sub_layers_those_from_the_last_attention_on_pooled() -> None:
    profile = made_profile()
    for heads, ffn, units in (
        ([4, 4, 4], [232, 232, 232], 9.0 + 9.0 + 9.0 + 9.0 + 2.0 + 1.0),
        ([4, 1, 0], [232, 64, 64], 9.0 + 9.0 + 0.5 + 0.25 + 0.25),
        ([0, 2, 0], [32, 0, 64], 2.0 + 1.0 + 0.25),
        ([0, 0, 0], [232, 64, 0], 1.0 + 0.25),
        ([0, 0, 0], [0, 0, 0], 0.0),
    ):
        assert profile.units(ArchSpec.of(DIMS, heads, ffn)) == pytest.approx(0.25 + units), heads


def test_nothing_is_pooled_where_the_head_reads_every_token() -> None:
    profile = made_profile(replace(CONFIG, rows="tokens"))
    assert profile.units(ArchSpec.full(DIMS)) == pytest.approx(0.25 + 3 * 9.0 + 3 * 9.0)


def test_blocks_take_their_time_per_level_and_tokens_take_their_share() -> None:
    profile, full = made_profile(blocks=BLOCKS, tokens=TOKENS), ArchSpec.full(DIMS)
    half = {"ffn_input": 0.75, "ffn_output": 0.25}  # half of the weights of the two together
    layer = replace(full.layers[0], heads=0).in_blocks(DIMS, (32, 16), half.__getitem__)
    kept = (
        sum(block.kept / math.prod(block.grid(layer.matrix_shapes(DIMS)[block.matrix])) for block in layer.blocks) / 2
    )
    assert profile.units(full.with_layer(0, heads=0, blocks=layer.blocks)) == pytest.approx(
        profile.units(full.with_layer(0, heads=0)) - 9.0 + 8 * (1.0 - 0.75 * (1.0 - kept))
    )
    drops = full.with_layer(0, tokens=0.5)
    attention = 9.0 * (1.0 + 0.0625 - 0.25 * 0.5)
    assert profile.units(drops) == pytest.approx(0.25 + attention + 0.5 * 9.0 + 0.5 * 9.0 + 0.5 * 9.0 + 0.6 * 2.0 + 1.0)


def test_output_rows_save_their_part_of_the_products() -> None:
    profile, full = made_profile(blocks=BLOCKS), ArchSpec.full(DIMS)
    dense = profile.units(full)
    assert profile.units(full.with_layer(0, ffn_rows=DIMS.hidden // 2)) == pytest.approx(
        dense - CHANNELS_SAVE * 0.25 * 8
    )
    rows = DIMS.hidden - DIMS.hidden // 2
    products = 4 * DIMS.hidden + 2 * LENGTH  # of a head: four matrices, scores and what they weigh
    assert profile.units(full.with_layer(0, attention_rows=DIMS.hidden // 2)) == pytest.approx(
        dense - CHANNELS_SAVE * rows / products * 2.0 * DIMS.heads
    )
    pooled = full.with_layer(2, attention_rows=DIMS.hidden // 2)
    assert profile.units(pooled) == dense
    layer = replace(full.layers[0], ffn_rows=DIMS.hidden // 2).in_blocks(DIMS, BLOCK_SHAPE, lambda _: 0.5)
    in_blocks = full.with_layer(0, ffn_rows=DIMS.hidden // 2, blocks=[b for b in layer.blocks if "ffn" in b.matrix])
    assert profile.units(in_blocks) == pytest.approx(dense - CHANNELS_SAVE * 0.25 * 8 - 0.75 * (9.0 - 8 * 0.625))


def test_a_model_that_fills_the_caches_is_slower_than_its_parts() -> None:
    profile, half = made_profile(), ArchSpec.of(DIMS, [2] * 3, [128] * 3)
    slower = replace(profile, fixed_overhead=(0.25, 0.5), cache_pressure=0.125)
    share = half.weights(DIMS) / ArchSpec.full(DIMS).weights(DIMS)
    parts = profile.units(half) - 0.25
    assert slower.units(half) == pytest.approx(0.25 + 0.25 * share + parts * (1.0 + 0.125 * share))


@pytest.mark.parametrize("rows", ["pooled", "tokens"])
def test_a_fit_gives_back_the_profile_that_passes_were_made_by(rows: str) -> None:
    """Exactly: tables, what is saved and shared, what dropping costs, and what the caches do."""
    config, pooled = replace(CONFIG, rows=rows), rows == "pooled"
    true = replace(
        made_profile(config, blocks=BLOCKS, tokens=TOKENS if pooled else None),
        fixed_overhead=(0.2, 0.4),
        cache_pressure=0.07,
    )
    rng, key = np.random.default_rng(0), true.key
    specs = recording.dense_specs(key, rng) + recording.block_specs(key, BLOCK_SHAPE, rng)
    specs += recording.token_specs(key, rng) if pooled else []
    passes = []
    for spec in specs:
        units = np.zeros(2 * DIMS.layers + 1)
        units[0] = 0.2 + 0.2 * true.weights_share(spec)
        for part in sublayers(spec, key):
            units[part.slot] = true.slowdown(spec) * true.units_of(part)
        passes.append(units)
    found = predictor.fit(key, specs, passes, BLOCK_SHAPE, pooled)
    for spec in (*specs, *profiling.random_specs(DIMS, 50, blocks=BLOCK_SHAPE, tokens=pooled)):
        assert found.units(spec) == pytest.approx(true.units(spec), rel=1e-3)
    assert found.cache_pressure == pytest.approx(0.07, abs=1e-3)


def test_floor_and_dense_are_predicted_as_measured_in_every_setting() -> None:
    profile = made_profile()
    for scope in ("ids", "text"):
        budget = Budget(share=0.5, scope=scope, seq_len=LENGTH)
        assert profile.predict(ArchSpec.floor(DIMS), budget) == pytest.approx(10.0)
        assert profile.predict(ArchSpec.full(DIMS), budget) == pytest.approx(110.0)


def test_the_parts_of_a_prediction_add_up() -> None:
    profile = made_profile(blocks=BLOCKS, tokens=TOKENS)
    for spec in (
        ArchSpec.floor(DIMS),
        ArchSpec.full(DIMS),
        *profiling.random_specs(DIMS, 9, blocks=BLOCK_SHAPE, tokens=True),
    ):
        parts = profile.parts(spec, BUDGET)
        assert sum(parts.values()) == pytest.approx(profile.predict(spec, BUDGET))
        live = [live for layer in spec.layers for live in (layer.has_attention, layer.has_ffn)]
        assert [parts.get(slot, 0.0) > 0.0 for slot in range(1, len(live) + 1)] == live


def test_what_a_profile_was_not_recorded_for_is_refused() -> None:
    full = ArchSpec.full(DIMS)
    blocks = ArchSpec(tuple(layer.in_blocks(DIMS, (16, 16), lambda _: 0.5) for layer in full.layers))
    with pytest.raises(ProfileError, match=r"layer 0: .* in blocks of 16x16, .* has no blocks.*--blocks 16x16"):
        made_profile().predict(blocks, BUDGET)
    with pytest.raises(ProfileError, match=r"has blocks of 32x16: record it .*--blocks 16x16"):
        made_profile(blocks=BLOCKS).predict(blocks, BUDGET)
    with pytest.raises(ProfileError, match=r"layer 1: tokens are dropped, .*--tokens"):
        made_profile(blocks=BLOCKS).predict(full.with_layer(1, tokens=0.5), BUDGET)
    every_row = replace(CONFIG, rows="tokens")
    with pytest.raises(ProfileError, match="reads every token's row"):
        recording.record(ProfileKey.here(every_row, 1, 1, LENGTH), every_row, tokens=True)


def test_a_plan_names_the_precision_where_all_layers_are_alike() -> None:
    int8 = MatrixPlan("int8")
    assert precision_name(PrecisionPlan.uniform("bf16"), 3) == "bf16"
    assert precision_name(replace(PrecisionPlan.uniform("int8"), quality_loss=0.1), 3) == "int8"
    mixed = PrecisionPlan(exceptions=tuple((layer, "ffn_input", int8) for layer in range(3)))
    names = {precision_name(plan, 3) for plan in (mixed, PrecisionPlan(MatrixPlan(sparse=False)), PrecisionPlan())}
    assert len(names) == 3
    with pytest.raises(ProfileError, match="layer 1 unlike layer 0"):
        precision_name(PrecisionPlan(exceptions=((1, "ffn_input", int8),)), 3)


@settings(max_examples=25)
@given(st.integers(1, 8), st.integers(1, 12), st.integers(1, 2000), st.integers(0, 9), st.booleans(), st.booleans())
def test_the_specs_that_are_timed_cover_every_level_three_times(
    layers: int, heads: int, ffn: int, seed: int, pooled: bool, windows: bool
) -> None:
    dims = Dims(layers, 32 * heads, heads, 32, ffn, 100, 64)
    near = tuple(LENGTH if layer % 3 == 0 else 13 for layer in range(layers)) if windows else ()
    key = ProfileKey("", "", "", "bert", dims, 1, 1, LENGTH, pooled_row=pooled, attention_spans=near)
    rng = np.random.default_rng(seed)
    dense, blocks = recording.dense_specs(key, rng), recording.block_specs(key, BLOCK_SHAPE, rng)
    tokens = recording.token_specs(key, rng) if pooled else []
    for spec in (*dense, *blocks, *tokens):
        spec.check(dims)
    parts = [part for spec in dense for part in sublayers(spec, key)]
    occur = Counter((part.kind, part.level) for part in parts)
    whole = [] if pooled and layers == 1 else ["attention", "ffn"]
    whole += ["sliding_window_attention"] if windows and layers > (2 if pooled else 1) else []
    levels = {"attention": heads, "sliding_window_attention": heads, "ffn": ffn_level(ffn)}
    assert all(occur[kind, level] >= 3 for kind in whole for level in range(1, levels[kind] + 1))
    assert all(ffn_level(level_neurons(level, dims)) == level for level in range(1, levels["ffn"] + 1))
    for kind in ("attention", "ffn"):
        ends = occur["pooled_" + kind, 1], occur["pooled_" + kind, levels[kind]]
        assert (min(ends) >= 3) == pooled
    assert ArchSpec.floor(dims) in dense
    assert ArchSpec.full(dims) in dense
    kinds = {part.kind for spec in blocks for part in sublayers(spec, key) if part.density is not None}
    assert kinds == {*whole, *(("pooled_attention", "pooled_ffn") if pooled else ())}
    shorter = {part.tokens for spec in tokens for part in sublayers(spec, key) if part.kind == "pooled_attention"}
    assert shorter == ({6, 12, 18} if pooled and layers > 1 else set())


def test_attention_to_a_window_is_timed_by_itself() -> None:
    config = random_config(np.random.default_rng(0), layers=4, heads=2, head_dim=32, positions=512, family="modernbert")
    key = ProfileKey.here(config, 1, 1, 512)
    assert key.attention_spans == (512, 13, 3, 512)
    assert ProfileKey.here(config, 1, 1, 2).attention_spans == ()
    found = recording.record(key, config)
    assert found.sliding_window_attention[2] < 0.8 * found.attention[2]
    assert LatencyProfile.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_only_what_disagrees_with_itself_is_measured_again(clock: CountedTime) -> None:
    calls: Counter[int] = Counter()

    def measure(index: int) -> np.ndarray:
        calls[index] += 1
        clock.sleep(0.002)
        return np.array([1.0 + index + 9.0 * (index == 2 and calls[index] == 1)])

    passes, noisy = recording.measure_until_conclusive(measure, 4, seconds=10.0)
    assert not noisy
    assert [len(taken) for taken in passes] == [3, 3, calls[2], 3]
    assert np.median(passes[2]) == 3.0


@pytest.mark.parametrize("seconds", [0.05, 1000.0])
def test_a_machine_that_never_agrees_is_called_noisy_in_bounded_time(clock: CountedTime, seconds: float) -> None:
    rng, three_passes = np.random.default_rng(0), 3 * 20 * 0.01

    def measure(_: int) -> np.ndarray:
        clock.sleep(0.01)
        return rng.uniform(0.5, 1.5, 3)

    _, noisy = recording.measure_until_conclusive(measure, 20, seconds)
    assert noisy
    assert clock.monotonic() == pytest.approx(three_passes + min(seconds, three_passes), abs=0.02)


@pytest.mark.parametrize(
    ("field", "value"),
    [("machine", "another"), ("engine", "older"), ("isa", "none"), ("tokens", 9), ("threads", 2), ("batch", 3),
     ("family", "roberta"), ("precision", "int8"), ("pooled_row", False)],
)  # fmt: skip
def test_a_stale_profile_is_refused(tmp_path: Path, field: str, value: object) -> None:
    profile = made_profile()
    stale = replace(profile, key=replace(profile.key, **{field: value}))
    (tmp_path / "profile.json").write_text(json.dumps(stale.to_json()))
    with pytest.raises(ProfileError, match=f"its {field} is {value}, here it is .*record it again"):
        profiling.read(tmp_path / "profile.json", profile.key)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"key": 3}', "null"])
def test_a_file_that_is_no_profile_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "profile.json").write_text(content)
    with pytest.raises(ProfileError, match="cannot read the latency profile"):
        profiling.read(tmp_path / "profile.json", made_profile().key)


def test_an_error_is_of_what_was_measured() -> None:
    found = profiling.PredictionError.of(predicted=[0.20, 0.33, 0.392, 0.5], measured=[0.20, 0.30, 0.40, 0.5])
    assert found.mape == pytest.approx(3.0)
    assert found.median == pytest.approx(1.0)
    assert found.worst == pytest.approx(10.0)
    assert (found.specs, found.within_5) == (4, 0.75)
    assert found.spearman == pytest.approx(1.0)


def test_the_error_of_a_perfect_profile_is_small_and_of_a_wrong_one_large(recorded: LatencyProfile) -> None:
    specs = profiling.random_specs(DIMS, 6)
    wrong = replace(recorded, fixed_overhead=(100 * recorded.units(ArchSpec.full(DIMS)),) * 2)
    error, large = (
        profiling.prediction_error(p, CONFIG, specs, plan=PrecisionPlan.uniform("bf16")) for p in (recorded, wrong)
    )
    assert error.mape < large.mape
