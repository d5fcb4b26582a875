"""Other processes beside this one do not steer a profile: what is not this process's own time is told apart."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import counted_time
import numpy as np
import pytest
from cases import random_config
from counted_time import BusyTime, CountedTime
from tiny import bert_folder

from prunetime.core.arch import ArchSpec
from prunetime.core.budget import Budget
from prunetime.core.precision import PrecisionPlan
from prunetime.errors import InputError
from prunetime.inference.engine import Engine
from prunetime.latency import measure, profiling
from prunetime.latency.measure import Samples, pinned, ratio, run_rounds, summarise, time_call
from prunetime.latency.predictor import LatencyProfile
from prunetime.latency.settings import TimingSettings
from prunetime.latency.sublayers import SUBLAYER_KINDS
from prunetime.latency.synthetic import random_batch, random_weights
from prunetime.pipeline.source import profile_of

BUDGET = Budget(share=0.5, seq_len=24)
TIMING = TimingSettings(profile_calls=6, retry_seconds=1.0)
OTHERS = 8
"""So many processes share the core with this one."""


def tell(monkeypatch: pytest.MonkeyPatch, clock: CountedTime) -> None:
    monkeypatch.setattr(measure, "time", clock)
    monkeypatch.setattr(measure, "involuntary_switches", clock.involuntary_switches)


def recorded(
    model: Path, clock: CountedTime, budget: Budget = BUDGET, say: Callable[[str], None] | None = None
) -> LatencyProfile:
    with pytest.MonkeyPatch.context() as patch:
        counted_time.install(patch.setattr, clock)
        return profile_of(str(model), budget, PrecisionPlan(), timing=TIMING, say=say)[1]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert_folder(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture(scope="module")
def quiet(bert: Path) -> LatencyProfile:
    return recorded(bert, CountedTime())


def test_a_median_is_of_own_time_and_a_99th_percentile_of_what_a_caller_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = BusyTime(OTHERS)
    tell(monkeypatch, clock)
    samples = run_rounds({"long": partial(clock.spend, 9_000.0), "short": partial(clock.spend, 1_000.0)}, 12, 20)
    long, short = summarise(samples["long"]), summarise(samples["short"])
    assert (long.p50_us, short.p50_us) == (pytest.approx(9_000.0, rel=1e-3), pytest.approx(1_000.0, rel=1e-3))
    assert long.p99_us >= 9_000.0 * (1 + OTHERS)
    assert long.got == pytest.approx(1 / (1 + OTHERS), rel=0.05)
    # by wall time the short one would be better off: most of its calls end inside a slice
    assert ratio(samples["short"], samples["long"]).value == pytest.approx(1 / 9, rel=1e-3)


def test_time_that_a_call_waits_of_itself_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = BusyTime(OTHERS)
    tell(monkeypatch, clock)
    assert time_call(partial(clock.sleep, 0.002))[2] == pytest.approx(2_000.0, rel=1e-3)


def test_a_profile_taken_beside_others_is_that_of_a_quiet_machine(bert: Path, quiet: LatencyProfile) -> None:
    busy = recorded(bert, BusyTime(OTHERS, slice_us=200.0))
    for name, (floor_us, dense_us) in quiet.measured_us.items():
        if name.endswith("p50"):
            assert busy.measured_us[name] == pytest.approx((floor_us, dense_us), rel=0.02)
    half = ArchSpec.of(busy.key.dims, [1] * busy.key.dims.layers, [32] * busy.key.dims.layers)
    assert busy.predict(half, BUDGET) == pytest.approx(quiet.predict(half, BUDGET), rel=0.05)
    assert quiet.measured_us["ids/hot/p99"][1] < 0.5 * busy.measured_us["ids/hot/p99"][1]


def test_a_neighbour_that_slows_the_core_for_some_rounds_is_seen_by_the_reference_kernel() -> None:
    slow = np.repeat([1.0, 1.6, 1.6], 8)[:, None] * np.ones((24, 6))
    samples = {name: Samples.of_wall(us * slow) for name, us in (("dense", 900.0), ("reference", 300.0))}
    steadied = profiling.at_one_clock(samples)["dense"]
    assert summarise(samples["dense"]).p50_us == pytest.approx(1440.0)
    assert summarise(steadied).p50_us == pytest.approx(900.0)
    assert summarise(steadied).p99_us == pytest.approx(1440.0)


@pytest.mark.parametrize(
    ("given", "why"),
    [({"statistic": "p99"}, "a p99 is of wall time"), ({"threads": 2}, "threads wait for one another")],
)
def test_what_own_time_cannot_tell_is_refused(
    bert: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], why: str
) -> None:
    said: list[str] = []
    monkeypatch.setattr(profiling, "TAKES", 2)
    with pytest.raises(InputError, match=rf"2 latency profiles .* {why}, and this process got \d+% of"):
        recorded(bert, BusyTime(OTHERS), Budget(share=0.5, seq_len=24, **given), said.append)
    assert len(said) == 1
    assert f"taken again: {why}" in said[0]


def test_pieces_that_disagree_are_a_doubt(quiet: LatencyProfile) -> None:
    dense, reference = np.full((16, 6), 900.0), np.full((16, 6), 300.0)

    def doubt(dense: np.ndarray, by_parts: float) -> str | None:
        us = {"floor": dense / 9, "dense": dense, "reference": reference}
        timed = {("ids", "hot"): {name: Samples.of_wall(u) for name, u in us.items()}}
        scale = by_parts / quiet.units(ArchSpec.full(quiet.key.dims))
        tables = {kind: tuple(scale * units for units in getattr(quiet, kind)) for kind in SUBLAYER_KINDS}
        overhead = (scale * quiet.fixed_overhead[0], scale * quiet.fixed_overhead[1])
        return profiling.doubt_of(replace(quiet, fixed_overhead=overhead, **tables), timed, BUDGET)

    assert doubt(dense, 3.1) is None
    assert doubt(dense, 3.9) == (
        "the dense model takes 3 units when timed whole, and 3.9 by sub-layers; this process got 100% of the time"
    )
    erratic = dense * np.where(np.arange(16) % 2, 1.5, 1.0)[:, None]
    found = doubt(erratic, 3.5)
    assert found
    assert "known within" in found


@contextmanager
def spinning(processes: int) -> Iterator[None]:
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_beside_real_processes_a_median_is_right() -> None:
    """The truth is the CPU time of quick passes, which no other process has a part in."""
    config = random_config(np.random.default_rng(0), layers=3, heads=4, head_dim=32, ffn=512, outputs=2)
    spec = ArchSpec.full(config.dims)
    call = partial(Engine(config, random_weights(config, spec), spec=spec).logits, random_batch(config, 8, 64))
    with spinning(2 * (os.cpu_count() or 1)), pinned(1):
        median_us = summarise(run_rounds({"dense": call}, 3, 12)["dense"]).p50_us
        cpu_us = []
        for _ in range(20):
            start = time.thread_time_ns()
            call()
            cpu_us.append((time.thread_time_ns() - start) / 1e3)
    assert median_us == pytest.approx(np.median(cpu_us), rel=0.5)
