"""Recording a latency profile, and measuring how far its predictions are off."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from prunetime.arch import ArchSpec, Dims
from prunetime.budget import Budget
from prunetime.config import EncoderConfig
from prunetime.errors import InputError, ProfileError
from prunetime.runtime import latency
from prunetime.runtime.engine import Engine
from prunetime.runtime.latency import LatencyProfile, ProfileKey, random_batch, random_weights
from prunetime.runtime.measure import pinned, summarise, time_calls
from prunetime.runtime.timing import Job, calls_of, time_settings
from prunetime.runtime.tokenize import Tokenizer

Progress = Callable[[int, int], None]

_ROUNDS = 16
_CALLS = 24


@dataclass(frozen=True)
class PredictionError:
    """How far predictions are from measurements, both as shares of the dense model timed in the same minute.

    `mape` is the mean absolute error in per cent, `within_5` the share of specs predicted within 5 %.
    """

    specs: int
    mape: float
    worst: float
    spearman: float
    within_5: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def record(
    config: EncoderConfig, tokenizer: Tokenizer, pair: bool, budget: Budget, on_progress: Progress | None = None
) -> LatencyProfile:
    """Measures the profile of an encoder in the setting (length, batch, threads) of `budget`, on this machine."""
    key = ProfileKey.here(config, budget.threads, budget.batch, budget.seq_len)
    table = latency.record(key, config, on_progress)
    specs = {"floor": ArchSpec.floor(config.dims), "dense": ArchSpec.full(config.dims)}
    with pinned(budget.threads):
        calls = {}
        for name, spec in specs.items():
            engine = Engine(config, random_weights(config, spec), budget.threads)
            calls[name] = calls_of(engine, config, tokenizer, pair, budget)
        timed = time_settings(calls, Job({}, budget, _ROUNDS, _CALLS, seconds=0.0))
    measured = {}
    for (scope, condition), samples in timed.items():
        floor, dense = summarise(samples["floor"]), summarise(samples["dense"])
        for statistic in ("p50", "p99"):
            pair_us = (floor.of(statistic)[0], dense.of(statistic)[0])
            measured[latency.setting_name(scope, condition, statistic)] = pair_us
    return replace(table, measured_us=measured)


def read(file: Path, expected: ProfileKey) -> LatencyProfile:
    """A recorded profile; raises ProfileError where it is none, or not for what `expected` says."""
    try:
        profile = LatencyProfile.from_json(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, IndexError, InputError) as error:
        raise ProfileError(f"cannot read the latency profile {file}: {error}") from error
    profile.key.check_is(expected)
    return profile


def prediction_error(
    profile: LatencyProfile, config: EncoderConfig, specs: Sequence[ArchSpec], on_progress: Progress | None = None
) -> PredictionError:
    """Error of `profile` on `specs`, each timed in turn with the dense encoder."""
    dense_spec = ArchSpec.full(config.dims)
    key = profile.key
    batch = random_batch(config, key.batch, key.tokens)
    measured, predicted = [], []
    with pinned(key.threads):
        dense = Engine(config, random_weights(config, dense_spec), key.threads)
        for done, spec in enumerate(specs):
            engine = Engine(config, random_weights(config, spec), key.threads)
            samples: dict[str, list[float]] = {"dense": [], "spec": []}
            for _ in range(3):
                for name, run in (("dense", dense), ("spec", engine)):
                    call = partial(run.logits, batch)
                    time_calls(call, 2)
                    samples[name] += time_calls(call, 8).tolist()
            measured.append(np.median(samples["spec"]) / np.median(samples["dense"]))
            predicted.append(profile.units(spec) / profile.units(dense_spec))
            if on_progress:
                on_progress(done + 1, len(specs))
    errors = np.abs(np.array(predicted) / np.array(measured) - 1.0)
    ranks = [np.argsort(np.argsort(values)) for values in (measured, predicted)]
    spearman = float(np.corrcoef(ranks[0], ranks[1])[0, 1])
    return PredictionError(
        len(specs), 100 * float(errors.mean()), 100 * float(errors.max()), spearman, float((errors <= 0.05).mean())
    )


def random_specs(dims: Dims, count: int, seed: int = 0) -> list[ArchSpec]:
    """Specs with heads and FFN tiles drawn uniformly, layer by layer."""
    rng = np.random.default_rng(seed)
    levels = latency.ffn_level(dims.ffn)
    return [
        ArchSpec.of(
            dims,
            rng.integers(0, dims.heads + 1, dims.layers).tolist(),
            [latency.level_rows(int(t), dims) for t in rng.integers(0, levels + 1, dims.layers)],
        )
        for _ in range(count)
    ]
