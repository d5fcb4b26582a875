"""The latency profile: what it covers, what it predicts, and when it is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cases import random_config, random_spec
from hypothesis import given, settings
from hypothesis import strategies as st

from prunetime import artifact
from prunetime.arch import ArchSpec, Dims
from prunetime.budget import Budget
from prunetime.errors import ProfileError
from prunetime.runtime import latency, profiling
from prunetime.runtime.latency import LatencyProfile, ProfileKey, ffn_level, level_rows

CONFIG = random_config(np.random.default_rng(0), layers=2, heads=4, head_dim=16, ffn=200, outputs=2)
DIMS = CONFIG.dims
BUDGET = Budget(share=0.5, seq_len=8)


def made_profile() -> LatencyProfile:
    key = ProfileKey.here(CONFIG, threads=1, batch=1, tokens=8)
    attention = (0.0, 1.0, 1.5, 2.0, 2.5)
    ffn = tuple(0.5 * level for level in range(ffn_level(DIMS.ffn) + 1))
    measured = {
        f"{scope}/{condition}/{statistic}": (10.0, 110.0)
        for scope in ("ids", "text")
        for condition in ("hot", "idle")
        for statistic in ("p50", "p99")
    }
    return LatencyProfile(key, 300.0, 0.25, attention, ffn, measured)


@pytest.fixture(scope="module")
def recorded() -> LatencyProfile:
    return latency.record(ProfileKey.here(CONFIG, threads=1, batch=2, tokens=8), CONFIG)


def test_a_recorded_profile_has_every_level_and_survives_json(recorded: LatencyProfile) -> None:
    assert len(recorded.attention) == DIMS.heads + 1
    assert len(recorded.ffn) == ffn_level(DIMS.ffn) + 1 == 8
    assert recorded.attention[0] == recorded.ffn[0] == 0.0
    assert all(value > 0 for value in (*recorded.attention[1:], *recorded.ffn[1:], recorded.reference_us))
    assert LatencyProfile.from_json(json.loads(json.dumps(recorded.to_json()))) == recorded


@pytest.mark.parametrize("seed", range(4))
def test_the_weights_that_are_timed_are_those_of_the_spec(seed: int) -> None:
    spec = random_spec(CONFIG, np.random.default_rng(seed), blocks=True)
    artifact.check_weights(latency.random_weights(CONFIG, spec), CONFIG, spec)


def test_a_larger_encoder_is_predicted_slower(recorded: LatencyProfile) -> None:
    half = ArchSpec.of(DIMS, [2, 2], [96, 96])
    assert recorded.units(ArchSpec.floor(DIMS)) < recorded.units(half) < recorded.units(ArchSpec.full(DIMS))


def test_floor_and_dense_are_predicted_as_measured_in_every_setting() -> None:
    profile = made_profile()
    for scope in ("ids", "text"):
        budget = Budget(share=0.5, scope=scope, seq_len=8)
        assert profile.predict(ArchSpec.floor(DIMS), budget) == pytest.approx(10.0)
        assert profile.predict(ArchSpec.full(DIMS), budget) == pytest.approx(110.0)


@settings(max_examples=25)
@given(st.integers(1, 8), st.integers(1, 12), st.integers(1, 2000), st.integers(0, 9))
def test_the_specs_that_are_timed_cover_every_level_three_times(layers: int, heads: int, ffn: int, seed: int) -> None:
    dims = Dims(layers, 32 * heads, heads, 32, ffn, 100, 64)
    specs = latency._covering_specs(dims, np.random.default_rng(seed))
    for spec in specs:
        spec.check(dims)
    kept = [layer for spec in specs for layer in spec.layers]
    for level in range(1, ffn_level(ffn) + 1):
        assert sum(ffn_level(layer.ffn) == level for layer in kept) >= 3
        assert ffn_level(level_rows(level, dims)) == level
    for count in range(1, heads + 1):
        assert sum(layer.heads == count for layer in kept) >= 3


@pytest.mark.parametrize(
    ("field", "value"),
    [("machine", "another"), ("engine", "older"), ("isa", "none"), ("tokens", 9), ("threads", 2), ("batch", 3),
     ("family", "roberta"), ("precision", "int8"), ("pooled_row", True)],
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


def test_the_error_of_a_perfect_profile_is_small_and_of_a_wrong_one_large(recorded: LatencyProfile) -> None:
    specs = profiling.random_specs(DIMS, 6)
    wrong = replace(recorded, rest=recorded.rest + 100 * recorded.units(ArchSpec.full(DIMS)))
    assert (
        profiling.prediction_error(recorded, CONFIG, specs).mape < profiling.prediction_error(wrong, CONFIG, specs).mape
    )
