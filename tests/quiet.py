"""A run in the process of its test: it says nothing, and times few calls by counted time."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import counted_time
import pytest

from prunetime.latency.settings import TimingSettings

TIMING = TimingSettings(verify_seconds=0.0, verify_rounds=4, verify_calls=8, profile_calls=2)


class Quiet:
    """A reporter that keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.stages: list[str] = []

    def stage(self, title: str) -> Any:
        self.stages.append(title)
        return nullcontext(lambda _done, _of: None)

    def say(self, message: str) -> None:
        self.said.append(message)


def count_time(patch: pytest.MonkeyPatch) -> None:
    """Makes this process count time, and those that it starts."""
    counted_time.install(patch.setattr)
    patch.setenv("PYTHONPATH", counted_time.python_path())
