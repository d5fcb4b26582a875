"""Recording a latency profile: which encoders are timed, and how. `predictor.fit` reads the profile off the passes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from prunetime.core.arch import ATTENTION_MATRICES, FFN_MATRICES, ArchSpec, BlockShape, LayerSpec, tokens_kept
from prunetime.core.arrays import Float64Array
from prunetime.core.config import EncoderConfig
from prunetime.core.precision import PrecisionPlan
from prunetime.core.progress import Progress
from prunetime.errors import ProfileError
from prunetime.inference.engine import Engine, ReferenceKernel
from prunetime.inference.ragged import Ragged
from prunetime.latency.measure import pinned, time_calls
from prunetime.latency.passes import time_parts
from prunetime.latency.predictor import DENSITIES, LatencyProfile, Units, fit
from prunetime.latency.sublayers import SUBLAYER_KINDS, ProfileKey, SublayerKind, level_neurons, levels_of, sublayers
from prunetime.latency.synthetic import random_batch, random_weights

SHARES = (0.25, 0.5, 0.75)
"""Shares of the tokens at which a sub-layer is measured."""

AGREES_WITHIN = 0.05
"""The passes of an encoder agree where the middle half of them is within this share of their median."""

_PASSES = 3
_FORWARDS = 12
_OCCURRENCES = 3
_SIZES = 9
_POOLED_LEVELS = 9  # a pooled sub-layer is a small part of a pass: the other levels are interpolated


def record(
    key: ProfileKey,
    config: EncoderConfig,
    *,
    plan: PrecisionPlan = PrecisionPlan(),
    blocks: BlockShape | None = None,
    tokens: bool = False,
    retry_seconds: float = 30.0,
    on_progress: Progress | None = None,
) -> LatencyProfile:
    """Measures a profile: sub-layers inside forward passes of encoders in which every level occurs.

    Timed inside the whole pass, a sub-layer finds the caches as its neighbours left them. `plan` is the key's.
    With `blocks` (rows and columns of one) the profile covers matrices stored so, with `tokens` dropped tokens.
    Encoders whose passes disagree are timed again, for at most `retry_seconds` (and as long as it took so far).

    Raises:
        ProfileError: `tokens` for a head that reads every token's row.
    """
    if tokens and not key.pooled_row:
        raise ProfileError(
            "the head reads every token's row, so none can be dropped: record the profile without tokens"
        )
    rng = np.random.default_rng(0)
    specs = dense_specs(key, rng)
    specs += block_specs(key, blocks, rng) if blocks else []
    specs += token_specs(key, rng) if tokens else []
    batch = random_batch(config, key.batch, key.tokens)
    references: list[float] = []

    def measure(index: int) -> Units:
        spec = specs[index]
        engine = Engine(config, random_weights(config, spec), key.threads, spec=spec, plan=plan)
        units, reference_us = _time_engine(engine, batch, unit)
        references.append(reference_us)
        return units

    with pinned(key.threads):
        unit = _Unit()
        passes, noisy = measure_until_conclusive(measure, len(specs), retry_seconds, on_progress)
    units = [np.asarray(np.median(taken, axis=0)) for taken in passes]
    profile = fit(key, specs, units, blocks, tokens)
    return replace(profile, reference_us=float(np.median(references)), noisy=noisy)


def measure_until_conclusive(
    measure: Callable[[int], Units], count: int, seconds: float, on_progress: Progress | None = None
) -> tuple[list[list[Units]], bool]:
    """Three or more passes of `measure` over 0..count, and whether they are noisy.

    What does not agree with itself is measured again, for at most `seconds` and as long as the three passes took; it is
    noisy where that does not help.
    """
    start = time.monotonic()
    passes: list[list[Units]] = [[] for _ in range(count)]
    for done in range(_PASSES * count):
        passes[done % count].append(measure(done % count))
        if on_progress:
            on_progress(done + 1, _PASSES * count)
    deadline = time.monotonic() + min(seconds, time.monotonic() - start)
    while inconclusive := [index for index in range(count) if _spread(passes[index]) > AGREES_WITHIN]:
        for index in inconclusive:
            if time.monotonic() > deadline:
                return passes, True
            passes[index].append(measure(index))
    return passes, False


def dense_specs(key: ProfileKey, rng: np.random.Generator) -> list[ArchSpec]:
    """Specs in which every level of every sub-layer occurs at least three times, and sizes from floor to full.

    Of the pooled sub-layers, some levels from first to last do.
    """
    dims, specs = key.dims, list[ArchSpec]()
    decks = {kind: _Deck(_some(kind, levels_of(kind, key)), rng) for kind in SUBLAYER_KINDS}
    kinds, tiles = _kinds(key), levels_of("ffn", key)
    while any(decks[kind].rounds < _OCCURRENCES for kind in kinds):
        last = dims.layers - 1 if len(specs) % 3 or not key.pooled_row else int(rng.integers(dims.layers))
        specs.append(_drawn(key, decks, last))
    for share in np.linspace(0.0, 1.0, _SIZES):
        rows = level_neurons(round(share * len(tiles)), dims)
        specs.append(ArchSpec.of(dims, [round(share * dims.heads)] * dims.layers, [rows] * dims.layers))
    return specs


def block_specs(key: ProfileKey, block_shape: BlockShape, rng: np.random.Generator) -> list[ArchSpec]:
    """Specs in blocks of `block_shape`: every density of every kind of sub-layer occurs at least three times."""
    levels, specs = _large_levels(key, rng), []
    decks = {kind: _Deck(DENSITIES, rng) for kind in _kinds(key)}
    while any(deck.rounds < _OCCURRENCES for deck in decks.values()):
        spec = _drawn(key, levels, key.dims.layers - 1)
        density = {part.slot: decks[part.kind].draw() for part in sublayers(spec, key)}
        for index, layer in enumerate(spec.layers):
            places = ((1 + 2 * index, ATTENTION_MATRICES), (2 + 2 * index, FFN_MATRICES))
            shares = {matrix: density[slot] for slot, matrices in places if slot in density for matrix in matrices}
            spec = spec.with_layer(index, blocks=layer.in_blocks(key.dims, block_shape, shares.__getitem__).blocks)
        specs.append(spec)
    return specs


def token_specs(key: ProfileKey, rng: np.random.Generator) -> list[ArchSpec]:
    """Specs whose sub-layers run on `SHARES` of the tokens, dropped at once or layer by layer."""
    levels, specs = _large_levels(key, rng), []
    counts = sorted({tokens_kept(share, key.tokens) for share in SHARES} - {key.tokens}, reverse=True)
    stairs = dict(enumerate(counts[: key.dims.layers - 1]))
    for kept_after in [*({0: count} for count in counts), stairs] * _OCCURRENCES:
        if key.dims.layers == 1 or not counts:
            break
        spec, tokens = _drawn(key, levels, key.dims.layers - 1), key.tokens
        for index, count in kept_after.items():
            spec = spec.with_layer(index, tokens=(count - 0.5) / tokens)
            tokens = count
        specs.append(spec)
    return specs


class _Deck:
    def __init__(self, cards: Sequence[float], rng: np.random.Generator) -> None:
        self._cards, self._rng, self._left = cards, rng, list[float]()
        self.rounds = 0

    def draw(self) -> float:
        if not self._left:
            self._left = self._rng.permutation(self._cards).tolist()
        card = self._left.pop()
        self.rounds += not self._left
        return card


def _some(kind: SublayerKind, levels: range) -> Sequence[int]:
    """All levels or, of a pooled kind, some from first to last."""
    if not kind.startswith("pooled"):
        return levels
    return sorted(set(np.linspace(1, len(levels), _POOLED_LEVELS).round().astype(int).tolist()))


def _large_levels(key: ProfileKey, rng: np.random.Generator) -> dict[SublayerKind, _Deck]:
    """Decks of the levels from half up, of which a saving is a larger part."""
    every = {kind: levels_of(kind, key) for kind in SUBLAYER_KINDS}
    return {kind: _Deck(levels[len(levels) // 2 :], rng) for kind, levels in every.items()}


def _kinds(key: ProfileKey) -> set[SublayerKind]:
    """The kinds of sub-layers that unpruned encoders of `key`, and those without their last layers, have."""
    layers = range(1, key.dims.layers + 1) if key.pooled_row else (key.dims.layers,)
    full = ArchSpec.full(key.dims)
    gone = (LayerSpec(0, key.dims.hidden, 0, key.dims.hidden),) * key.dims.layers
    return {part.kind for n in layers for part in sublayers(ArchSpec(full.layers[:n] + gone[n:]), key)}


def _drawn(key: ProfileKey, decks: Mapping[SublayerKind, _Deck], last: int) -> ArchSpec:
    """A spec with levels drawn from `decks`, of which the last attention is that of layer `last`."""
    layers = []
    for index in range(key.dims.layers):
        pools = key.pooled_row and index >= last
        heads = decks[key.attention_of(index, pools)].draw() if index <= last else 0
        tiles = decks["pooled_ffn" if pools else "ffn"].draw()
        layers.append((int(heads), level_neurons(int(tiles), key.dims)))
    return ArchSpec.of(key.dims, *zip(*layers, strict=True))


class _Unit:
    """The reference kernel's time of late.

    Its weights fill more than the nearest caches: after a large encoder, or while another core is busy, some calls in
    a row are up to a third slower. The quick ones follow the clock.
    """

    def __init__(self) -> None:
        self._kernel = ReferenceKernel()
        self._recent: deque[Float64Array] = deque(maxlen=16)

    def time(self) -> float:
        """Microseconds, of the calls beside the last few encoders and some now."""
        self._recent.append(time_calls(self._kernel.run, 8).own_us)
        return float(np.percentile(self._recent, 10))


def _time_engine(engine: Engine, batch: Ragged, unit: _Unit) -> tuple[Units, float]:
    unit.time()
    parts = time_parts(engine, batch, _FORWARDS)
    unit_us = unit.time()
    return parts / unit_us, unit_us


def _spread(passes: Sequence[Units]) -> float:
    """Width of the middle half of the passes' totals, as a share of their median."""
    low, middle, high = np.percentile(np.sum(passes, axis=1), (25, 50, 75))
    return float((high - low) / middle)
