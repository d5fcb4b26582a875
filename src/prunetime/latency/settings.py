"""How long latencies are measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prunetime.core.arch import strict_keys
from prunetime.core.options import check, option
from prunetime.latency.measure import RETRY_SECONDS


@dataclass(frozen=True)
class TimingSettings:
    """Settings of how long latencies are measured; more makes their intervals narrower.

    A budget is judged by `verify_rounds` interleaved rounds of `verify_calls` calls of each model (three times as many
    for a p99), spread over `verify_seconds`. The profile of a machine times `profile_calls` calls of each encoder in a
    round. What is noisy is timed again for at most `retry_seconds`.
    """

    verify_seconds: float = option(
        "Seconds over which the rounds that judge the budget are spread.", "effort", 60.0, least=0.0
    )
    verify_rounds: int = option("Rounds that judge the budget.", "effort", 24, least=2)
    verify_calls: int = option("Calls of each model in one of these rounds.", "effort", 40, least=1)
    profile_calls: int = option("Calls of each encoder in a round of the latency profile.", "effort", 24, least=1)
    retry_seconds: float = option("Seconds, at most, to time again what is noisy.", "effort", RETRY_SECONDS, least=0.0)

    def __post_init__(self) -> None:
        check(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TimingSettings:
        """Reads what `dataclasses.asdict` wrote; raises InputError where a field is unknown or none of its values."""
        return cls(**strict_keys(cls, data))
