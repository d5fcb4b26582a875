"""Callbacks by which long work reports to whoever waits for it."""

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""A callback that gets how much of the work is done, and how much there is in all."""

Say = Callable[[str], None]
"""A callback that gets one line about what was found or decided."""


def half_of(progress: Progress, number: int) -> Progress:
    """Returns the progress of the first (0) or the second (1) of two halves of the work."""
    return lambda done, of: progress(number * of + done, 2 * of)
