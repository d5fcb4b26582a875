"""Waiting for what must happen, however busy the machine is."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 300.0
"""Seconds after which what a test waits for is not going to happen. A test that passes waits for far less."""


def eventually(true: Callable[[], bool]) -> None:
    """Returns once `true()`; fails after PATIENCE."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)
