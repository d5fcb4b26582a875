"""What came out of the first layers of candidates, for others with the same first layers to go on from."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np

from prunetime.core.arch import ArchSpec, LayerSpec
from prunetime.inference.engine import HiddenState

Layers = tuple[LayerSpec, ...]


def prefixes_with_states(spec: ArchSpec) -> list[Layers]:
    """The first layers of `spec`, at least one, after which another attention reads all tokens; the shortest first."""
    attend = [index for index, layer in enumerate(spec.layers) if layer.has_attention]
    drop = [index for index, layer in enumerate(spec.layers) if layer.tokens < 1.0]
    return [spec.layers[:count] for count in range(1, min([max(attend, default=0), *drop]) + 1)]


class States:
    """Those that were asked for last, each of `shape`, in `most_bytes`."""

    def __init__(self, shape: tuple[int, int], most_bytes: int) -> None:
        self._shape = shape
        self._most = most_bytes // (4 * math.prod(shape))
        self._kept: OrderedDict[Layers, HiddenState] = OrderedDict()

    def before(self, prefixes: Sequence[Layers]) -> tuple[tuple[int, HiddenState] | None, dict[int, HiddenState]]:
        """For `Engine.logits_between`: the state after the longest of `prefixes` that is there, and arrays for those of
        longer ones, in the place of the states that nobody asked for the longest."""
        known = [prefix for prefix in prefixes if prefix in self._kept]
        for prefix in known:
            self._kept.move_to_end(prefix)
        start = (len(known[-1]), self._kept[known[-1]]) if known else None
        after = start[0] if start else 0
        missing = [len(prefix) for prefix in prefixes if len(prefix) > after][: max(0, self._most - len(known[-1:]))]
        freed = []
        while len(self._kept) + len(missing) > self._most:
            freed.append(self._kept.popitem(last=False)[1])
        arrays = freed + [np.empty(self._shape, np.float32) for _ in missing[len(freed) :]]
        return start, dict(zip(missing, arrays, strict=True))

    def keep(self, prefixes: Sequence[Layers], states: Mapping[int, HiddenState]) -> None:
        """Those that `before` gave arrays for, which have been written now."""
        self._kept |= {prefix: states[len(prefix)] for prefix in prefixes if len(prefix) in states}
