"""How long latencies are measured."""

from __future__ import annotations

from dataclasses import dataclass

from prunetime.core.options import check, option
from prunetime.core.record import Record
from prunetime.latency.measure import RETRY_SECONDS

IDLE_US = 20_000.0
"""The pause before each call of the condition `idle`, in microseconds."""


@dataclass(frozen=True)
class TimingSettings(Record):
    """Settings of how long latencies are measured; more makes their intervals narrower.

    A budget is judged by `verify_rounds` interleaved rounds of `verify_calls` calls of each model (three times as many
    for a p99), spread over `verify_seconds`. The profile of a machine times `profile_calls` calls of each encoder in a
    round. What is noisy is timed again for at most `retry_seconds`.
    """

    verify_seconds: float = option(
        "Seconds over which the rounds that judge the budget are spread.", "effort", 20.0, least=0.0
    )
    verify_rounds: int = option("Rounds that judge the budget.", "effort", 24, least=2)
    verify_calls: int = option("Calls of each model in one of these rounds.", "effort", 40, least=1)
    profile_calls: int = option("Calls of each encoder in a round of the latency profile.", "effort", 24, least=1)
    retry_seconds: float = option("Seconds, at most, to time again what is noisy.", "effort", RETRY_SECONDS, least=0.0)

    def __post_init__(self) -> None:
        check(self)
