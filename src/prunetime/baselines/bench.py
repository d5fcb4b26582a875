"""Times encoders on this engine and on baselines: all logits are checked first, then all engines take turns."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

from prunetime.baselines.case import BenchmarkCase
from prunetime.baselines.libraries import LIBRARIES
from prunetime.baselines.setting import BenchmarkSetting, Bind, LogitsCall
from prunetime.core.arrays import Float32Array
from prunetime.core.budget import Budget
from prunetime.core.precision import PRECISIONS, PrecisionPlan
from prunetime.errors import InputError, PrunetimeError, first_line
from prunetime.inference.engine import Engine
from prunetime.inference.ragged import Ragged
from prunetime.latency import plans
from prunetime.latency.measure import RETRY_SECONDS, Samples, calls_within, interleave, pinned, run_rounds, summarise
from prunetime.latency.settings import IDLE_US

BASELINES = ("pytorch", "pytorch-compiled", "onnxruntime", "openvino", "ctranslate2")
"""Modules of this package with `precisions()` and `prepare(setting, precision)`."""

OURS = "prunetime"

AUTO = "auto"
AUTO_ERROR = 0.05
AUTO_ROWS = 16
"""Sequences on which the errors of plans are measured; the logits that rows report are of others."""
REFERENCE = "pytorch"
"""Whose float32 logits all others are checked against."""

LARGEST_ERROR = {"fp32": 1e-3, "bf16": 0.2, "int8": 0.5}
"""Largest root mean square of the errors of the logits, as a share of their standard deviation over sequences.

Logits of another model are off by about 1.4 of it, and a constant answer by 1. Of mini, minilm and base at 1x64 the
baselines' bf16 is off by 0.02 to 0.07 of it, and their int8 by 0.06 to 0.17.
"""

MEASURED = ("p50_us", "p99_us", "noisy", "idle_p50_us", "max_logit_error")
"""The fields of a row that are None where the engine was refused."""

_CALLS, _SECONDS = 20, 0.2
_IDLE_CALLS, _IDLE_ROUNDS = 5, 8


def rows(
    cases: Sequence[BenchmarkCase],
    budget: Budget,
    baselines: Sequence[str],
    precisions: Sequence[str] = PRECISIONS,
    auto_error: float = AUTO_ERROR,
    *,
    retry_seconds: float = RETRY_SECONDS,
    idle_us: float = IDLE_US,
) -> list[dict[str, Any]]:
    """A row for each of `precisions` of our engine on each of `cases`, then for each precision of each of `baselines`.

    The precision `auto` is the fastest plan that is off by at most `auto_error` in a logit. What is noisy is timed
    again, for at most `retry_seconds`.

    All take turns at `budget.batch` random sequences of `budget.seq_len` tokens on `budget.threads` threads, from
    token ids to logits. The baselines run the first of `cases`, its matrices dense and no token dropped. A row:
    `model`, `engine`, `precision`, `batch`, `seq_len`, `threads`, `p50_us`, `p99_us`, `noisy` (the interval of the
    median is wide, or the p99 several times the median), `idle_p50_us` (after a pause of `idle_us`), `max_logit_error`
    (the largest absolute difference to float32 torch of the same weights) and, of ours, `isa`. What cannot run the
    model, or whose logits are wrong, is not timed: its row says why in `refused`, and its numbers are None.

    Raises:
        InputError: a baseline is unknown or not installed, or the sequences are too long for a model.
    """
    _check(cases, budget, baselines)
    shape = {"batch": budget.batch, "seq_len": budget.seq_len, "threads": budget.threads}
    found: dict[str, dict[str, Any]] = {}
    calls: dict[str, LogitsCall] = {}

    def add(row: dict[str, Any], make: Callable[[], Bind], batches: Sequence[Ragged], expected: Float32Array) -> None:
        name = " ".join((row["engine"], row["precision"], row["model"]))
        key = f"{len(found)} {name}"  # of two equal models, both are timed
        found[key] = row | shape
        try:
            bind = make()
            found[key] |= {"max_logit_error": error_of(name, row["precision"], _logits(bind, batches), expected)}
        except PrunetimeError as wrong:
            found[key] |= dict.fromkeys(MEASURED) | {"refused": str(wrong)}
        except Exception as error:  # a type of error of the baseline's own
            if row["engine"] == OURS:
                raise
            said = first_line(error)
            found[key] |= dict.fromkeys(MEASURED) | {"refused": f"{name}: it cannot run this model: {said}"}
        else:
            calls[key] = bind(batches[0])

    with pinned(budget.threads):  # before thread pools start, because threads inherit where they may run
        reference = _module(REFERENCE).prepare
        for number, case in enumerate(cases):
            setting = case.setting(**shape)
            batches = setting.checked
            exact = _logits(reference(setting, "fp32", case.token_spec), batches)
            for precision in precisions:
                engine = _engine(case, setting, precision, auto_error)
                row = {"model": case.name, "engine": OURS, "precision": precision, "isa": engine.isa}
                add(row, partial(_bind, engine), batches, exact)
            if number or not baselines:
                continue
            expected = exact if case.token_spec is None else _logits(reference(setting, "fp32"), batches)
            for name in baselines:
                baseline = _module(name)
                for precision in baseline.precisions():
                    row = {"model": case.name, "engine": name, "precision": precision}
                    add(row, partial(baseline.prepare, setting, precision), batches, expected)
        if not calls:
            return list(found.values())
        counts = {name: calls_within(call, _SECONDS, _CALLS) for name, call in calls.items()}
        hot = interleave(calls, calls=counts, retry_seconds=retry_seconds)
        few = {name: min(count, _IDLE_CALLS) for name, count in counts.items()}
        idle = run_rounds(calls, _IDLE_ROUNDS, few, idle_us=idle_us)
    for key in calls:  # by wall time: of a baseline with threads of its own, the calling thread's time says nothing
        latency = summarise(Samples.of_wall(hot[key].wall_us))
        found[key] |= {"p50_us": latency.p50_us, "p99_us": latency.p99_us, "noisy": latency.disturbed}
        found[key]["idle_p50_us"] = summarise(Samples.of_wall(idle[key].wall_us)).p50_us
    return list(found.values())


def error_of(name: str, precision: str, logits: Float32Array, expected: Float32Array) -> float:
    """Largest absolute difference of the engine `name`; raises PrunetimeError where logits are further off than
    `LARGEST_ERROR`."""
    difference = logits - expected if logits.shape == expected.shape else np.full_like(expected, np.inf)
    share = float(np.sqrt(np.mean(difference**2)) / max(np.sqrt(np.mean(np.var(expected, axis=0))), 1e-9))
    limit = LARGEST_ERROR["int8" if precision == AUTO else precision]
    if not share <= limit:
        why = "it does not run the same model" if precision == "fp32" else "they are too far off to be of use"
        raise PrunetimeError(
            f"{name}: the logits differ from torch by {share:.2g} of their standard deviation, the limit is "
            f"{limit:g} for {precision}: {why}, so it is not timed"
        )
    return float(np.abs(difference).max())


def _check(cases: Sequence[BenchmarkCase], budget: Budget, baselines: Sequence[str]) -> None:
    for name in baselines:
        if name not in BASELINES:
            raise InputError(f"unknown baseline {name!r}; known are {', '.join(BASELINES)}")
    for case in cases:
        longest = case.config.longest
        if budget.seq_len > longest:
            raise InputError(f"--seq-len {budget.seq_len} is longer than the {longest} positions of {case.name}")


def _engine(case: BenchmarkCase, setting: BenchmarkSetting, precision: Any, auto_error: float) -> Engine:
    model = plans.EngineArguments(case.config, case.weights, case.spec, setting.threads)
    if precision != AUTO:
        return model.engine(PrecisionPlan.uniform(precision))
    loss = plans.logit_error(model, setting.calibration[: -(-AUTO_ROWS // setting.batch)])
    return model.engine(plans.choose(model, setting.checked[0], loss, auto_error))


def _logits(bind: Bind, batches: Sequence[Ragged]) -> Float32Array:
    """The logits of all `batches`, [sequences, outputs]."""
    logits = np.concatenate([bind(batch)() for batch in batches])
    return logits.reshape(-1, logits.shape[-1])


def _bind(engine: Engine) -> Bind:
    return partial(partial, engine.logits)


def _module(name: str) -> ModuleType:
    missing = LIBRARIES[name].missing if name in LIBRARIES else []
    try:
        if missing:  # of packages that are imported late
            raise ModuleNotFoundError(name=missing[0])
        return importlib.import_module(f"prunetime.baselines.{name.replace('-', '_')}")
    except ModuleNotFoundError as error:
        raise InputError(
            f"the baseline {name} needs {error.name}, which is not installed: pip install {error.name} "
            f"(known baselines: {', '.join(BASELINES)})"
        ) from error
