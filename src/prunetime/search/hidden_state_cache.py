"""A cache of hidden states, so that candidates with the same first layers compute these once."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np

from prunetime.core.arch import ArchSpec, LayerSpec
from prunetime.inference.engine import HiddenStates

Prefix = tuple[LayerSpec, ...]
"""The first layers of a structure."""


def cacheable_prefixes(spec: ArchSpec) -> list[Prefix]:
    """The first layers of `spec`, at least one, after which another attention reads all tokens; the shortest first."""
    attend = [index for index, layer in enumerate(spec.layers) if layer.has_attention]
    drop = [index for index, layer in enumerate(spec.layers) if layer.tokens < 1.0]
    return [spec.layers[:count] for count in range(1, min([max(attend, default=0), *drop]) + 1)]


class HiddenStateCache:
    """An LRU cache of the hidden states that come out of prefixes of structures, for one batch of tokens.

    Args:
        shape: of a state, (tokens, hidden); states are float32.
        max_bytes: of all states together. The states that were asked for longest ago leave first.
    """

    def __init__(self, shape: tuple[int, int], max_bytes: int) -> None:
        self._shape = shape
        self._capacity = max_bytes // (4 * math.prod(shape))
        self._states: OrderedDict[Prefix, HiddenStates] = OrderedDict()

    def reserve(self, prefixes: Sequence[Prefix]) -> tuple[tuple[int, HiddenStates] | None, dict[int, HiddenStates]]:
        """Looks up the longest of `prefixes` (the shortest first), and makes room for the longer ones.

        Returns:
            The number of its layers and its state, or None where no prefix is cached; and by their numbers of layers
            arrays for the states of longer prefixes, which `Engine.logits_between` writes and `store` takes.
        """
        known = [prefix for prefix in prefixes if prefix in self._states]
        for prefix in known:
            self._states.move_to_end(prefix)
        start = (len(known[-1]), self._states[known[-1]]) if known else None
        after = start[0] if start else 0
        room = self._capacity - len(known[-1:])
        missing = [len(prefix) for prefix in prefixes if len(prefix) > after][: max(0, room)]
        freed = []
        while len(self._states) + len(missing) > self._capacity:
            freed.append(self._states.popitem(last=False)[1])
        arrays = freed + [np.empty(self._shape, np.float32) for _ in missing[len(freed) :]]
        return start, dict(zip(missing, arrays, strict=True))

    def store(self, prefixes: Sequence[Prefix], states: Mapping[int, HiddenStates]) -> None:
        """Adds the `states` that `reserve` gave arrays for, once they are written."""
        self._states |= {prefix: states[len(prefix)] for prefix in prefixes if len(prefix) in states}
