"""Memory of models that are gone goes back to the system: of glibc, which has to be asked for it."""

from __future__ import annotations

import ctypes
from contextlib import suppress

M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_ARENA_MAX, LARGE_BLOCK = -3, -1, -8, 128 << 10
"""Options of mallopt(3), and bytes."""


def give_back_large_blocks() -> None:
    """From now on, as they are freed. Else glibc keeps them once some were (mallopt(3): the threshold is dynamic until
    it is set), and what an unloaded model had would stay."""
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        for option, value in ((M_MMAP_THRESHOLD, LARGE_BLOCK), (M_TRIM_THRESHOLD, LARGE_BLOCK), (M_ARENA_MAX, 1)):
            mallopt(option, value)


def give_back_small_blocks() -> None:
    """Whole pages of them that are free now (malloc_trim(3)): what a tokenizer was, and a file that was refused."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
