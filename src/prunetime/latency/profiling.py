"""Recording a latency profile, and measuring how far its predictions are off."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from prunetime.core.arch import ArchSpec, BlockShape, Dims
from prunetime.core.budget import Budget
from prunetime.core.config import EncoderConfig
from prunetime.core.estimate import Ranking, spearman
from prunetime.core.precision import PrecisionPlan
from prunetime.core.progress import Progress
from prunetime.core.record import Record
from prunetime.errors import InputError, ProfileError
from prunetime.inference.engine import Engine
from prunetime.inference.tokenize import Tokenizer
from prunetime.latency import predictor, recording
from prunetime.latency.measure import TimedCall, pinned, run_rounds, summarise
from prunetime.latency.predictor import LatencyProfile
from prunetime.latency.settings import TimingSettings
from prunetime.latency.sublayers import ProfileKey, ffn_level, level_neurons
from prunetime.latency.synthetic import random_batch, random_weights
from prunetime.latency.timing import Job, SamplesBySetting, calls_of_specs, time_budget, time_settings

_ROUNDS = 16
_ERROR_ROUNDS = 5
_ERROR_CALLS = 6


@dataclass(frozen=True)
class PredictionError(Record):
    """How far predictions are from measurements, both as shares of the dense model timed in the same minute.

    `mape`, `median` and `worst` are of the absolute error in per cent; `within_5` is the share of specs predicted
    within 5 %.
    """

    specs: int
    mape: float
    median: float
    worst: float
    spearman: float
    within_5: float

    @classmethod
    def of(cls, predicted: Sequence[float], measured: Sequence[float]) -> PredictionError:
        """From two or more specs' shares of dense, in the same order."""
        guess, truth = np.array(predicted), np.array(measured)
        errors = 100 * np.abs(guess / truth - 1.0)
        correlation = spearman(Ranking(truth), Ranking(guess), np.ones((1, len(errors))))[0]
        found = (errors.mean(), np.median(errors), errors.max(), correlation, (errors <= 5.0).mean())
        return cls(len(errors), *map(float, found))


def record(
    config: EncoderConfig,
    tokenizer: Tokenizer,
    pair: bool,
    budget: Budget,
    *,
    plan: PrecisionPlan = PrecisionPlan(),
    blocks: BlockShape | None = None,
    tokens: bool = False,
    timing: TimingSettings = TimingSettings(),
    on_progress: Progress | None = None,
) -> LatencyProfile:
    """Measures the profile of an encoder in the setting (length, batch, threads) of `budget`, on this machine.

    Encoders are run by `plan`. With `blocks` (rows and columns of one) the profile covers matrices stored so, with
    `tokens` dropped tokens. What is noisy is measured again, for at most `timing.retry_seconds` in all.

    Raises:
        ProfileError: `plan` differs between layers, or `tokens` for a head that reads every token's row.
    """
    key = ProfileKey.here(config, budget.threads, budget.batch, budget.seq_len, plan)
    half = timing.retry_seconds / 2
    covered: Any = {"blocks": blocks, "tokens": tokens}
    table = recording.record(key, config, plan=plan, **covered, retry_seconds=half, on_progress=on_progress)
    specs = {"floor": ArchSpec.floor(config.dims), "dense": ArchSpec.full(config.dims)}
    with pinned(budget.threads):
        calls = calls_of_specs(specs, config, tokenizer, pair, budget, plan)
        timed, noisy = _time_until_conclusive(calls, budget, timing)
    measured = {}
    for (scope, condition), samples in timed.items():
        floor, dense = summarise(samples["floor"]), summarise(samples["dense"])
        for statistic in ("p50", "p99"):
            pair_us = (floor.of(statistic).value, dense.of(statistic).value)
            measured[predictor.setting_name(scope, condition, statistic)] = pair_us
    return replace(table, measured_us=measured, noisy=table.noisy or noisy)


def parse(file: Path) -> LatencyProfile:
    """A recorded profile, of whatever; raises ProfileError where the file is none."""
    try:
        return LatencyProfile.from_json(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, IndexError, InputError) as error:
        raise ProfileError(f"cannot read the latency profile {file}: {error}") from error


def read(file: Path, expected: ProfileKey) -> LatencyProfile:
    """A recorded profile; raises ProfileError where the file is none, or not for what `expected` says."""
    profile = parse(file)
    profile.key.check_is(expected)
    return profile


def prediction_error(
    profile: LatencyProfile,
    config: EncoderConfig,
    specs: Sequence[ArchSpec],
    *,
    plan: PrecisionPlan = PrecisionPlan(),
    on_progress: Progress | None = None,
) -> PredictionError:
    """Error of `profile`, recorded for `plan`, on `specs`, each timed in turn with the dense encoder."""
    measured = []
    for share in shares_of_dense(profile.key, config, specs, plan=plan):
        measured.append(share)
        if on_progress:
            on_progress(len(measured), len(specs))
    dense = profile.units(ArchSpec.full(config.dims))
    return PredictionError.of([profile.units(spec) / dense for spec in specs], measured)


def shares_of_dense(
    key: ProfileKey, config: EncoderConfig, specs: Sequence[ArchSpec], *, plan: PrecisionPlan = PrecisionPlan()
) -> Iterator[float]:
    """Measured latency of each of `specs` in the setting of `key`, as a share of dense timed in turn with it."""
    batch = random_batch(config, key.batch, key.tokens)

    def call_of(spec: ArchSpec) -> TimedCall:
        return partial(Engine(config, random_weights(config, spec), key.threads, spec=spec, plan=plan).logits, batch)

    with pinned(key.threads):  # the threads of an engine stay where it was made
        dense = call_of(ArchSpec.full(config.dims))
    for spec in specs:
        with pinned(key.threads):
            samples = run_rounds({"spec": call_of(spec), "dense": dense}, _ERROR_ROUNDS, _ERROR_CALLS)
        # Of calls that others interrupt, the longer model's are interrupted more often: the quick ones say more.
        yield float(np.percentile(samples["spec"], 25) / np.percentile(samples["dense"], 25))


def random_specs(
    dims: Dims, count: int, seed: int = 0, *, blocks: BlockShape | None = None, tokens: bool = False
) -> list[ArchSpec]:
    """Specs with heads and FFN tiles drawn uniformly, layer by layer.

    With `blocks` (rows and columns of one) every matrix keeps a share of them from 0.05 to 1, drawn evenly by its
    logarithm; with `tokens` every other layer that has heads keeps from half to all of its tokens.
    """
    rng = np.random.default_rng(seed)
    levels = ffn_level(dims.ffn)
    specs = []
    for _ in range(count):
        heads = rng.integers(0, dims.heads + 1, dims.layers).tolist()
        rows = [level_neurons(int(t), dims) for t in rng.integers(0, levels + 1, dims.layers)]
        spec = ArchSpec.of(dims, heads, rows)
        for index, layer in enumerate(spec.layers):
            if tokens and layer.has_attention and rng.random() < 0.5:
                spec = spec.with_layer(index, tokens=float(rng.uniform(0.5, 1.0)))
            if blocks:
                layer = spec.layers[index].in_blocks(dims, blocks, lambda _: 20.0 ** -rng.random())
                spec = spec.with_layer(index, blocks=layer.blocks)
        specs.append(spec)
    return specs


def _time_until_conclusive(
    calls: Mapping[str, Mapping[str, TimedCall]], budget: Budget, timing: TimingSettings
) -> tuple[SamplesBySetting, bool]:
    """Samples of every setting, and whether those of the setting that `budget` is about stayed noisy."""
    start = time.monotonic()
    timed = time_settings(calls, Job({}, budget, _ROUNDS, timing.profile_calls, seconds=0.0))
    deadline = time.monotonic() + min(timing.retry_seconds / 2, time.monotonic() - start)
    samples = timed[budget.scope, budget.condition]
    while noisy := any(summarise(values, budget.statistic).noisy for values in samples.values()):
        if time.monotonic() > deadline:
            break
        more = time_budget(calls, budget, _ROUNDS, timing.profile_calls)
        samples = {name: np.concatenate((values, more[name])) for name, values in samples.items()}
    return timed | {(budget.scope, budget.condition): samples}, noisy
