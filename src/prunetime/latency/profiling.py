"""Recording a latency profile, and measuring how far its predictions are off."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from prunetime.core.arch import ArchSpec, BlockShape, Dims
from prunetime.core.arrays import Float64Array
from prunetime.core.budget import Budget
from prunetime.core.config import EncoderConfig
from prunetime.core.estimate import Ranking, spearman
from prunetime.core.precision import PrecisionPlan
from prunetime.core.progress import Progress, Say
from prunetime.core.record import Record
from prunetime.errors import InputError, ProfileError
from prunetime.inference.engine import Engine, ReferenceKernel
from prunetime.inference.tokenize import Tokenizer
from prunetime.latency import predictor, recording
from prunetime.latency.measure import NOISY, Samples, TimedCall, pinned, run_rounds, summarise
from prunetime.latency.predictor import LatencyProfile
from prunetime.latency.settings import TimingSettings
from prunetime.latency.sublayers import ProfileKey, ffn_level, level_neurons
from prunetime.latency.synthetic import random_batch, random_weights
from prunetime.latency.timing import Job, SamplesBySetting, calls_of_specs, time_budget, time_settings

AGREES_WITHIN = 0.2
"""The dense model takes what the table of sub-layers says, within this share: it is 0.01 to 0.07 on quiet machines."""

LEAST_GOT = 0.9
"""The share of the time that a process needs for a 99th percentile to say what this machine does, and for the own time
of several threads: of two with a sixth of the time it was 8.4 ms where 6 are true, because one spins for the other."""

TAKES = 3
"""At most, while a profile cannot be trusted."""

_REFERENCE = "reference"
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
    say: Say | None = None,
) -> LatencyProfile:
    """Measures the profile of an encoder in the setting (length, batch, threads) of `budget`, on this machine.

    Encoders are run by `plan`. With `blocks` (rows and columns of one) the profile covers matrices stored so, with
    `tokens` dropped tokens. What is noisy is measured again, for at most `timing.retry_seconds` in all. A profile that
    cannot be trusted is taken again, `TAKES` times at most; `say` is told why.

    Raises:
        ProfileError: `plan` differs between layers, or `tokens` for a head that reads every token's row.
        InputError: no profile that can be trusted was taken: the machine is too busy.
    """
    key = ProfileKey.here(config, budget.threads, budget.batch, budget.seq_len, plan)
    specs = {"floor": ArchSpec.floor(config.dims), "dense": ArchSpec.full(config.dims)}
    half = timing.retry_seconds / 2
    for take in range(1, TAKES + 1):
        table = recording.record(
            key, config, plan=plan, blocks=blocks, tokens=tokens, retry_seconds=half, on_progress=on_progress
        )
        with pinned(budget.threads):
            calls = calls_of_specs(specs, config, tokenizer, pair, budget, plan)
            calls[_REFERENCE] = dict.fromkeys(("ids", "text"), ReferenceKernel().run)
            timed, noisy = _time_until_conclusive(calls, budget, timing)
        measured = {}
        for (scope, condition), timed_in_turns in timed.items():
            samples = at_one_clock(timed_in_turns)
            floor, dense = summarise(samples["floor"]), summarise(samples["dense"])
            for statistic in ("p50", "p99"):
                pair_us = (floor.of(statistic).value, dense.of(statistic).value)
                measured[predictor.setting_name(scope, condition, statistic)] = pair_us
        found = replace(table, measured_us=measured, noisy=table.noisy or noisy)
        doubt = doubt_of(found, timed, budget)
        if doubt is None:
            return found
        if say and take < TAKES:
            say(f"this latency profile cannot be trusted, so it is taken again: {doubt}")
    raise InputError(
        f"{TAKES} latency profiles of this machine cannot be trusted: {doubt}. The machine is too busy: stop other "
        "processes, or leave this one a core of its own (`prunetime doctor` says how busy it is), and run the same "
        "command again; or give --profile FILE, recorded by `prunetime profile` when the machine was quiet"
    )


def doubt_of(profile: LatencyProfile, timed: SamplesBySetting, budget: Budget) -> str | None:
    """Why a profile cannot be trusted, in words; None where it can.

    `timed` are the samples of `floor`, `dense` and `reference` that its microseconds are from. The dense model is
    measured twice in units of the reference kernel, whole and by sub-layers: something disturbed one of the two
    where they differ.
    """
    samples = at_one_clock(timed[budget.scope, budget.condition])
    dense, floor = (summarise(samples[name]).p50 for name in ("dense", "floor"))
    widest = max(estimate.high - estimate.low for estimate in (dense, floor)) / dense.value
    got = timed[budget.scope, budget.condition]["dense"].got
    process = f"this process got {got:.0%} of the time"
    whole = timed["ids", "hot"]
    units = summarise(whole["dense"]).p50_us / float(np.median(_unit_us(whole)))
    by_parts = profile.units(ArchSpec.full(profile.key.dims))
    if widest > NOISY:
        return f"the dense model's median is {dense.value:.4g} us, known within {widest:.0%}; {process}"
    if abs(by_parts / units - 1.0) > AGREES_WITHIN:
        return f"the dense model takes {units:.4g} units when timed whole, and {by_parts:.4g} by sub-layers; {process}"
    if budget.statistic == "p99" and got < LEAST_GOT:
        return f"a p99 is of wall time, and {process}, of which it needs {LEAST_GOT:.0%}"
    if budget.threads > 1 and got < LEAST_GOT:
        return f"threads wait for one another, and {process}, of which {budget.threads} threads need {LEAST_GOT:.0%}"
    return None


def at_one_clock(samples: Mapping[str, Samples]) -> dict[str, Samples]:
    """Samples of one setting whose own times are those of one clock speed, the one that the quick rounds ran at.

    In a round in which the reference kernel takes longer, the clock is lower or a neighbour shares the core's caches
    and arithmetic: own times are scaled by it. Wall times stay.
    """
    units = _unit_us(samples)
    scale = (np.percentile(units, 25) / units)[:, None]
    return {name: Samples(each.wall_us, each.own_us * scale) for name, each in samples.items()}


def _unit_us(samples: Mapping[str, Samples]) -> Float64Array:
    """The reference kernel's microseconds in every round, of its quick calls, [rounds]."""
    return np.asarray(np.percentile(samples[_REFERENCE].own_us, 10, axis=1))


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
        # Of calls that a neighbour slows, the longer model's are slowed more often: the quick ones say more.
        yield float(np.percentile(samples["spec"].own_us, 25) / np.percentile(samples["dense"].own_us, 25))


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
    while noisy := any(summarise(at_one_clock(samples)[name], budget.statistic).noisy for name in ("floor", "dense")):
        if time.monotonic() > deadline:
            break
        more = time_budget(calls, budget, _ROUNDS, timing.profile_calls)
        samples = {name: Samples.concatenate((values, more[name])) for name, values in samples.items()}
    return timed | {(budget.scope, budget.condition): samples}, noisy
