"""How many examples of a property are tried."""

import os

from hypothesis import settings

SANITIZED = "SANITIZED_ENGINE" in os.environ


def examples(count: int) -> settings:
    """A quarter of them on an engine with a sanitizer: it is many times slower, and looks for wild reads, not for
    wrong numbers."""
    return settings(deadline=None, max_examples=max(1, count // 4) if SANITIZED else count)
