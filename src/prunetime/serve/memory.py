"""Returns the memory of unloaded models to the system, for which glibc has to be asked."""

from __future__ import annotations

import ctypes
from contextlib import suppress

M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_ARENA_MAX, LARGE_BLOCK = -3, -1, -8, 128 << 10
"""The options of mallopt(3), and a size in bytes."""


def give_back_large_blocks() -> None:
    """Makes glibc return large blocks when they are freed. By default its threshold rises once such blocks were freed
    (mallopt(3)), and the memory of an unloaded model would stay."""
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        for option, value in ((M_MMAP_THRESHOLD, LARGE_BLOCK), (M_TRIM_THRESHOLD, LARGE_BLOCK), (M_ARENA_MAX, 1)):
            mallopt(option, value)


def give_back_small_blocks() -> None:
    """Returns pages of small blocks that are free now (malloc_trim(3)), such as those of an unloaded tokenizer."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
