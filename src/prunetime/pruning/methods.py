"""The pruning methods, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

PruningMethod = Literal["search", "multilevel", "group-lasso", "polarisation", "identity-priors", "auto"]

Criterion = Literal["fisher", "taylor", "magnitude", "movement"]
"""The criterion by which heads and FFN neurons are ordered."""

Pruner = Literal["top-k", "group-lasso", "polarisation", "identity-priors"]

Granularity = Literal["rows", "blocks"]


@dataclass(frozen=True)
class LearnedMethod:
    """A method that learns masks in the place of a search, by `pruner`, one level after the other."""

    pruner: Pruner
    levels: tuple[Granularity, ...]
    of: str
    summary: str


LEARNED: Mapping[str, LearnedMethod] = {
    "multilevel": LearnedMethod(
        "top-k",
        ("rows", "blocks"),
        "heads and rows, then blocks",
        "how much of each is kept is learned as a threshold on learned scores (MLPruning, arXiv 2105.14636)",
    ),
    "group-lasso": LearnedMethod(
        "group-lasso",
        ("blocks",),
        "blocks",
        "small ones were driven to nothing by a reweighted group lasso (arXiv 2009.08065)",
    ),
    "polarisation": LearnedMethod(
        "polarisation",
        ("rows",),
        "heads and rows",
        "soft gates were driven apart, to nothing or one (GDP, arXiv 2109.02220)",
    ),
    "identity-priors": LearnedMethod(
        "identity-priors",
        ("rows",),
        "whole sub-layers",
        "those that add least to their input are left out (SNIP, arXiv 2010.01791)",
    ),
}
