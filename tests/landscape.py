"""A small space with a made-up latency and quality, of which the best is known not to be uniform."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from prunetime.core.arch import ArchSpec, Dims
from prunetime.search.mutate import ReinforcedMutator
from prunetime.search.policy import Policy, PolicySettings
from prunetime.search.space import Genome, Space

SPACE = Space(Dims(layers=4, hidden=64, heads=8, head_dim=8, ffn=512, vocabulary=50, positions=32))


def predict(spec: ArchSpec) -> float:
    """Microseconds: a floor, and a cost for every sub-layer, head and tile; the last layer is cheaper."""
    us = 20.0
    for index, layer in enumerate(spec.layers):
        share = 0.4 if index == len(spec.layers) - 1 else 1.0
        us += share * (4.0 * layer.has_attention + 3.0 * layer.heads + 2.0 * layer.has_ffn + layer.ffn / 16)
    return us


def latency(genome: Genome) -> float:
    return predict(SPACE.spec(genome))


class Uneven:
    """Layers are worth more or less, with diminishing returns, so that the best spec is not uniform."""

    def __init__(self) -> None:
        self.scored: list[ArchSpec] = []

    def __call__(self, specs: Sequence[ArchSpec]) -> Iterator[float]:
        for spec in specs:
            self.scored.append(spec)
            worth = [(3.0, 0.2), (0.3, 2.0), (1.0, 0.5), (0.2, 3.0)]
            yield sum(
                head_worth * math.sqrt(layer.heads) + ffn_worth * math.sqrt(layer.ffn / 64)
                for layer, (head_worth, ffn_worth) in zip(spec.layers, worth, strict=True)
            )


IMPORTANCE = [{"heads": np.arange(8.0, 0.0, -1.0), "ffn": np.linspace(2.0, 0.0, 512)} for _ in range(4)]


def reinforced(seed: int = 0) -> ReinforcedMutator:
    return ReinforcedMutator(Policy.fresh(SPACE.genes(latency, IMPORTANCE), PolicySettings(), seed), latency)
