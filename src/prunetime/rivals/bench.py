"""Timing an artifact on this engine and on rivals: every answer is checked first, then all are timed in turn."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunetime.artifact import Artifact
from prunetime.budget import Budget
from prunetime.config import FAMILIES
from prunetime.errors import InputError, PrunetimeError
from prunetime.runtime.engine import Engine, supported_isas
from prunetime.runtime.latency import random_batch
from prunetime.runtime.measure import interleave, pinned, summarise
from prunetime.runtime.ragged import Ragged

RIVALS = ("pytorch", "onnxruntime")
"""Modules of this package with a `runner(artifact, batch, threads)`."""

REFERENCE = "pytorch"
"""Whose float32 logits the others are checked against."""

LARGEST_ERROR = 1e-2
"""An engine whose logits are further off than this does not run the same model, and is not timed."""

Logits = Callable[[], NDArray[np.float32]]


def rows(artifact: Artifact, budget: Budget, names: Sequence[str]) -> list[dict[str, Any]]:
    """One row for each instruction set of this engine, slowest first, and for each of the rivals `names`.

    All run `budget.batch` random sequences of `budget.seq_len` tokens on `budget.threads` threads, token ids to
    logits. A row: `engine`, `precision`, `batch`, `seq_len`, `threads`, `p50_us`, `p99_us` and `max_logit_error`
    (the largest absolute difference to float32 torch).

    Raises:
        InputError: a rival is unknown or not installed, or the sequences are too long for the model.
        PrunetimeError: an engine's logits are wrong.
    """
    _check(artifact, budget, names)
    batch = random_batch(artifact.manifest.config, budget.batch, budget.seq_len)
    with pinned(budget.threads):  # before thread pools start, because threads inherit where they may run
        expected = _runner(REFERENCE)(artifact, batch, budget.threads)()
        calls = {f"prunetime {isa}": _own(artifact, batch, budget.threads, isa) for isa in supported_isas()}
        calls |= {name: _runner(name)(artifact, batch, budget.threads) for name in names}
        errors = {name: error_of(name, call(), expected) for name, call in calls.items()}
        samples = interleave(calls)
    setting = {"batch": budget.batch, "seq_len": budget.seq_len, "threads": budget.threads}
    latency = {name: summarise(samples[name]) for name in calls}
    return [
        {"engine": name, "precision": "fp32", **setting}
        | {"p50_us": latency[name].p50_us, "p99_us": latency[name].p99_us, "max_logit_error": errors[name]}
        for name in calls
    ]


def error_of(name: str, logits: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Largest absolute difference of the engine `name`; raises PrunetimeError where it is not small."""
    error = float(np.abs(logits - expected).max()) if logits.shape == expected.shape else float("inf")
    if not error <= LARGEST_ERROR:
        raise PrunetimeError(
            f"{name} differs from torch by {error:.2g} in a logit, the limit is {LARGEST_ERROR:g}: it does not run "
            "the same model, so it is not timed; please report it"
        )
    return error


def _check(artifact: Artifact, budget: Budget, names: Sequence[str]) -> None:
    for name in names:
        if name not in RIVALS:
            raise InputError(f"unknown rival {name!r}; known are {', '.join(RIVALS)}")
    config = artifact.manifest.config
    longest = config.dims.positions - FAMILIES[config.family].position_offset
    if budget.seq_len > longest:
        raise InputError(f"--seq-len {budget.seq_len} is longer than the {longest} positions of the model")


def _runner(name: str) -> Callable[[Artifact, Ragged, int], Logits]:
    try:
        runner: Callable[[Artifact, Ragged, int], Logits] = importlib.import_module(f"prunetime.rivals.{name}").runner
    except ModuleNotFoundError as error:
        raise InputError(
            f"the rival {name} needs {error.name}, which is not installed: pip install {error.name} "
            f"(known rivals: {', '.join(RIVALS)})"
        ) from error
    return runner


def _own(artifact: Artifact, batch: Ragged, threads: int, isa: str) -> Logits:
    return partial(Engine(artifact.manifest.config, artifact.weights, threads, isa).logits, batch)
