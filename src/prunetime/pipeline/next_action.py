"""Decides what follows a measurement: to tune, to choose again, to finish or to give up.

A verdict is compared with the prediction that the structure was chosen by: where the two differ, the next search aims
at a target that is corrected by their ratio.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from prunetime.pipeline.verdict import Verdict

ATTEMPTS = 3
"""Structures that one run chooses: the first, and two with the predictor tightened."""

SURE = 0.985
"""A structure that measures more of its budget than this before tuning is replaced by another: to find out after tuning
costs more. At the last attempt, one that may fit is tuned."""

LOOSE = 0.93
"""A structure that takes less than this of its predicted time is replaced, once, by another with so much more predicted
time: a part of the budget would be left unused."""

Action = Literal["tune", "finish", "loosen", "tighten", "wait", "give up"]
"""`loosen` and `tighten` choose again, `wait` ends the run until the machine is quiet, `give up` ends it."""


@dataclass(frozen=True)
class Attempt:
    """A structure that was measured: the time it took over the time predicted; and, where that was over the budget,
    the `failure` in words."""

    measured_over_predicted: float
    failure: str | None


def correction(attempts: Sequence[Attempt]) -> float:
    """Measured over predicted, as far as `attempts` tell.

    That is the largest ratio of those over the budget, and at least 1; where there is none, that of the one far inside.
    """
    over = [attempt.measured_over_predicted for attempt in attempts if attempt.failure]
    if over:
        return max(1.0, *over)
    return attempts[0].measured_over_predicted if attempts else 1.0


def after_precheck(attempts: Sequence[Attempt], verdict: Verdict, predicted: float) -> tuple[Action, float]:
    """Decides what follows the timing of a structure with random weights; gives also its time over the predicted one.

    Args:
        attempts: The attempts before this one.
        verdict: What the timing says.
        predicted: The predicted time as a share of the budget.
    """
    if not attempts and (over := verdict.measured.high / verdict.limit / predicted) < LOOSE:
        return "loosen", over
    may_fit = is_last(attempts) and verdict.measured.low <= verdict.limit
    if may_fit or verdict.measured.value <= SURE * verdict.limit:
        return "tune", 1.0
    return _after_a_miss(attempts, is_noisy=False), verdict.measured.value / verdict.limit / predicted


def after_verify(attempts: Sequence[Attempt], verdict: Verdict, predicted: float) -> tuple[Action, float]:
    """Decides what follows the timing of the tuned model; gives also its time over the predicted one.

    By its upper end a verdict is not met, so that is the time: tightened by less, the same structure would be chosen
    again.
    """
    if verdict.met:
        return "finish", 1.0
    return _after_a_miss(attempts, verdict.noisy), verdict.measured.high / verdict.limit / predicted


def is_last(attempts: Sequence[Attempt]) -> bool:
    """Whether no further attempt follows one after `attempts`."""
    return sum(attempt.failure is not None for attempt in attempts) + 1 == ATTEMPTS


def _after_a_miss(attempts: Sequence[Attempt], is_noisy: bool) -> Action:
    if is_noisy:
        return "wait"
    return "give up" if is_last(attempts) else "tighten"
