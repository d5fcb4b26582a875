"""Scoring candidates: the interface the search sees, and scoring by importance masks without retraining."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from prunetime.arch import ArchSpec


class Scorer(Protocol):
    """Quality of architectures, higher is better."""

    def __call__(self, specs: Sequence[ArchSpec]) -> Iterable[float]:
        """The score of each spec, in their order; may yield each as soon as it is known."""
        ...
