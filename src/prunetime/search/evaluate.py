"""Scorers of candidates: by how far sub-networks of an elastic encoder agree with the teacher.

A score is an agreement and not the metric of the task, because labels are few and noisy: on 300 random sub-networks of
MiniLM-L6 on Home Depot, agreement on 500 rows orders AUC on other rows as well as AUC on 2,000 does, and a search for
AUC on 2,000 rows gains nothing on others (docs/explanation/search.md).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np

from prunetime.core.arch import ArchSpec, LayerSpec
from prunetime.core.arrays import Float32Array, Float64Array, Int32Array, Weights
from prunetime.core.config import EncoderConfig
from prunetime.core.machine import memory_bytes
from prunetime.core.precision import PrecisionPlan
from prunetime.core.task_kind import Choice
from prunetime.inference.engine import Engine, HiddenStates
from prunetime.inference.ragged import Ragged
from prunetime.models.compact import compact, prefix_mask
from prunetime.pruning.prefix_repair import PrefixRepair

Scorer = Callable[[Sequence[ArchSpec]], Iterable[float]]
"""Returns the quality of each spec, higher is better, in their order; may yield each as soon as it is known."""


@dataclass(frozen=True)
class ScoringRows:
    """The rows that candidates are scored on.

    `tokens` are [rows] sequences; `expected` are the teacher's logits, [rows, outputs], or [tokens, outputs] with a row
    of logits per token. `choice` is what the logits choose among.
    """

    tokens: Ragged
    expected: Float32Array
    choice: Choice = "outputs"


ScorerFor = Callable[[ScoringRows], Scorer]
"""Scores the sub-networks of one encoder on these rows."""


def agreement(
    logits: Float32Array, expected: Float32Array, offsets: Int32Array | None = None, *, choice: Choice = "outputs"
) -> float:
    """Returns the correlation, -1 to 1, of two models' logits [rows, outputs]; with two classes, of their log odds.

    It is Pearson's, of all logits less the mean of their row (which a softmax does not see; not where every output is a
    `choice` between yes and no, or there is one output) and of their output; 0 where a model gives every row the same,
    as one without any attention does.

    Of logits [tokens, outputs] at `offsets` (see `Ragged`), it is the mean of each sequence's tokens that is left out.
    """
    of_row = logits.shape[1] > 1 and choice != "yes-no"
    centred = partial(_centred, of_row=of_row) if offsets is None else partial(_centred_by_sequence, offsets=offsets)
    a, b = centred(logits), centred(expected)
    sizes = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.vdot(a, b)) / sizes if sizes else 0.0


def _centred(logits: Float32Array, *, of_row: bool) -> Float64Array:
    """The logits less the mean of their output and, before, that `of_row`."""
    logits = logits.astype(np.float64)
    if of_row:
        logits -= logits.mean(axis=1, keepdims=True)
    centred: Float64Array = logits - logits.mean(axis=0)
    # What is left of equal rows is rounding.
    return np.where(np.abs(centred).max(initial=0.0) > 1e-6 * np.abs(logits).max(initial=0.0), centred, 0.0)


def _centred_by_sequence(logits: Float32Array, offsets: Int32Array) -> Float64Array:
    lengths = np.diff(offsets)[:, None]
    means = np.add.reduceat(logits.astype(np.float64), offsets[:-1], axis=0) / lengths
    return np.asarray(logits - np.repeat(means, lengths[:, 0], axis=0))


CACHE_SHARE = 1 / 4
"""The share of the memory for the hidden states that scorers cache."""


@dataclass(frozen=True)
class Elastic:
    """An encoder whose prefixes are sub-networks, run by `plan` on so many `threads`; `weights` have heads and rows in
    order of importance. `isa` as for `Engine`. With a `repair` the output matrices of sub-networks are solved for them.
    """

    config: EncoderConfig
    weights: Weights
    threads: int = 1
    plan: PrecisionPlan = field(default_factory=PrecisionPlan)
    isa: str | None = None
    repair: PrefixRepair | None = None

    @cached_property
    def engine(self) -> Engine:
        """The engine of the whole encoder, which can `select` any sub-network without blocks."""
        return Engine(self.config, self.weights, self.threads, self.isa, plan=self.plan)

    def part(self, spec: ArchSpec) -> Engine:
        """Returns the engine of one sub-network, which may have blocks, on weights of its own."""
        dims = self.config.dims
        weights = compact(self.weights, prefix_mask(self.weights, spec, dims), dims)
        if self.repair:
            weights = self.repair.applied(weights)
        return Engine(self.config, weights, self.threads, self.isa, spec=spec, plan=self.plan)


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


class ElasticScorer:
    """Scores sub-networks of an elastic encoder: prefixes of weights packed once, or packed one by one where they are
    repaired or in blocks.

    A candidate whose first layers are those of one that was scored before goes on from their cached hidden states. A
    search changes a few genes at a time, so that this saves half of the work (docs/benchmarks.md).
    """

    def __init__(self, elastic: Elastic, rows: ScoringRows, cache_bytes: int | None = None) -> None:
        """Hidden states are cached in at most `cache_bytes`, by default a quarter of the memory."""
        self._elastic = elastic
        self._rows = rows
        max_bytes = int(CACHE_SHARE * memory_bytes()) if cache_bytes is None else cache_bytes
        self._cache = HiddenStateCache((rows.tokens.ids.size, elastic.config.dims.hidden), max_bytes)

    def __call__(self, specs: Sequence[ArchSpec]) -> Iterator[float]:
        """Yields the agreement of the engine's logits of each spec with those expected."""
        offsets = self._rows.tokens.offsets if self._rows.choice == "tokens" else None
        for spec in specs:
            in_blocks = any(layer.blocks for layer in spec.layers)
            logits = self._elastic.part(spec).logits(self._rows.tokens) if in_blocks else self._logits(spec)
            yield agreement(logits, self._rows.expected, offsets, choice=self._rows.choice)

    def _logits(self, spec: ArchSpec) -> Float32Array:
        if self._elastic.repair:
            engine = self._elastic.part(spec)
        else:
            engine = self._elastic.engine
            engine.select(spec)
        prefixes = cacheable_prefixes(spec)
        start, leave = self._cache.reserve(prefixes)
        logits = engine.logits_between(self._rows.tokens, start, leave)
        self._cache.store(prefixes, leave)
        return logits
