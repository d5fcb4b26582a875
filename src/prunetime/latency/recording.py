"""Recording a latency profile: which encoders are timed, how, and what is read off their sub-layers."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunetime.core.arch import ATTENTION_MATRICES, FFN_MATRICES, ArchSpec, BlockShape, LayerSpec, tokens_kept
from prunetime.core.config import EncoderConfig
from prunetime.core.precision import PrecisionPlan
from prunetime.errors import ProfileError
from prunetime.inference.engine import Engine, ReferenceKernel
from prunetime.inference.ragged import Ragged
from prunetime.latency.measure import RETRY_SECONDS, pinned, time_calls
from prunetime.latency.predictor import BlockCosts, LatencyProfile, TokenShares
from prunetime.latency.sublayers import KINDS, Kind, ProfileKey, Sublayer, ffn_level, level_rows, sublayers
from prunetime.latency.synthetic import random_batch, random_weights

Progress = Callable[[int, int], None]
Units = NDArray[np.float64]
"""One forward pass in units of the reference kernel, [2 * layers + 1]: all but the sub-layers, then each of them."""

DENSITIES = (0.0, 0.1, 0.25, 0.5, 1.0)
"""Shares of the weights kept in blocks at which a sub-layer is measured."""

SHARES = (0.25, 0.5, 0.75)
"""Shares of the tokens at which a sub-layer is measured."""

SETTLED = 0.05
"""The passes of an encoder agree where the middle half of them is within this share of their median."""

_PASSES = 3
_FORWARDS = 12
_OCCURRENCES = 3
_SIZES = 9
_FITS = 24
_POOLED_LEVELS = 9  # a pooled sub-layer is a small part of a pass: the other levels are interpolated


def record(
    key: ProfileKey,
    config: EncoderConfig,
    *,
    plan: PrecisionPlan = PrecisionPlan(),  # noqa: B008 (immutable)
    blocks: BlockShape | None = None,
    tokens: bool = False,
    on_progress: Progress | None = None,
) -> LatencyProfile:
    """Measures a profile: sub-layers inside forward passes of encoders in which every level occurs.

    Timed inside the whole pass, a sub-layer finds the caches as its neighbours left them. `plan` is the key's.
    With `blocks` (rows and columns of one) the profile covers matrices stored so, with `tokens` dropped tokens.
    Encoders whose passes disagree are timed again, for at most half of RETRY_SECONDS (and as long as it took so far).

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
        passes, noisy = settle(measure, len(specs), RETRY_SECONDS / 2, on_progress)
    units = [np.asarray(np.median(taken, axis=0)) for taken in passes]
    profile = fit(key, specs, units, blocks, tokens)
    return replace(profile, reference_us=float(np.median(references)), noisy=noisy)


def settle(
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
    while unsettled := [index for index in range(count) if _spread(passes[index]) > SETTLED]:
        for index in unsettled:
            if time.monotonic() > deadline:
                return passes, True
            passes[index].append(measure(index))
    return passes, False


def fit(
    key: ProfileKey,
    specs: Sequence[ArchSpec],
    units: Sequence[Units],
    blocks: BlockShape | None = None,
    tokens: bool = False,
) -> LatencyProfile:
    """The profile that `units` of `specs` make: those of `dense_specs`, and with `blocks` and `tokens` of theirs."""
    passes = list(zip(specs, units, strict=True))
    dense = [(spec, u) for spec, u in passes if not _is_thinned(spec)]
    profile = LatencyProfile(key, 0.0, (0.0, 0.0), 0.0, (), (), (), ())
    for _ in range(_FITS):
        seen = [(p, float(u[p.slot]) / profile.crowded(spec)) for spec, u in passes for p in sublayers(spec, key)]
        plain = [(part, u) for part, u in seen if part.density is None and not _is_shorter(part, key)]
        tables: Any = {kind: _table(kind, plain, key) for kind in KINDS}
        profile = LatencyProfile(key, 0.0, (0.0, 0.0), 0.0, **tables)
        profile = replace(profile, crowding=_crowding(profile, dense))
    in_blocks = [(part, u) for part, u in seen if part.density is not None]
    shorter = [(part, u) for part, u in seen if _is_shorter(part, key)]
    floor = next(float(u[0]) for spec, u in dense if spec == ArchSpec.floor(key.dims))
    slopes = [(u[0] - floor) / profile.weights_share(spec) for spec, u in dense if spec.weights(key.dims)]
    return replace(
        profile,
        rest=(floor, floor + float(np.median(slopes))),
        blocks=_block_costs(in_blocks, blocks) if blocks else None,
        tokens=_token_shares(profile, shorter) if tokens else None,
    )


def dense_specs(key: ProfileKey, rng: np.random.Generator) -> list[ArchSpec]:
    """Specs in which every level of every sub-layer occurs at least three times, and sizes from floor to full.

    Of the pooled sub-layers, some levels from first to last do.
    """
    dims, specs = key.dims, list[ArchSpec]()
    decks = {kind: _Deck(_some(kind, _levels(kind, key)), rng) for kind in KINDS}
    kinds, tiles = _kinds(key), _levels("ffn", key)
    while any(decks[kind].rounds < _OCCURRENCES for kind in kinds):
        last = dims.layers - 1 if len(specs) % 3 or not key.pooled_row else int(rng.integers(dims.layers))
        specs.append(_drawn(key, decks, last))
    for share in np.linspace(0.0, 1.0, _SIZES):
        rows = level_rows(round(share * len(tiles)), dims)
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
    """Cards drawn at random, each as often as any other."""

    def __init__(self, cards: Sequence[float], rng: np.random.Generator) -> None:
        self._cards, self._rng, self._left = cards, rng, list[float]()
        self.rounds = 0

    def draw(self) -> float:
        if not self._left:
            self._left = self._rng.permutation(self._cards).tolist()
        card = self._left.pop()
        self.rounds += not self._left
        return card


def _levels(kind: Kind, key: ProfileKey) -> range:
    """Every level of a kind."""
    return range(1, 1 + (ffn_level(key.dims.ffn) if kind.endswith("ffn") else key.dims.heads))


def _some(kind: Kind, levels: range) -> Sequence[int]:
    """All levels or, of a pooled kind, some from first to last."""
    if not kind.startswith("pooled"):
        return levels
    return sorted(set(np.linspace(1, len(levels), _POOLED_LEVELS).round().astype(int).tolist()))


def _large_levels(key: ProfileKey, rng: np.random.Generator) -> dict[Kind, _Deck]:
    """Decks of the levels from half up, of which a saving is a larger part."""
    every = {kind: _levels(kind, key) for kind in KINDS}
    return {kind: _Deck(levels[len(levels) // 2 :], rng) for kind, levels in every.items()}


def _kinds(key: ProfileKey) -> set[Kind]:
    """The kinds of sub-layers that unpruned encoders of `key`, and those without their last layers, have."""
    layers = range(1, key.dims.layers + 1) if key.pooled_row else (key.dims.layers,)
    full = ArchSpec.full(key.dims)
    gone = (LayerSpec(0, key.dims.hidden, 0, key.dims.hidden),) * key.dims.layers
    return {part.kind for n in layers for part in sublayers(ArchSpec(full.layers[:n] + gone[n:]), key)}


def _drawn(key: ProfileKey, decks: Mapping[Kind, _Deck], last: int) -> ArchSpec:
    """A spec with levels drawn from `decks`, of which the last attention is that of layer `last`."""
    layers = []
    for index in range(key.dims.layers):
        pools = key.pooled_row and index >= last
        heads = decks[key.attention_of(index, pools)].draw() if index <= last else 0
        tiles = decks["pooled_ffn" if pools else "ffn"].draw()
        layers.append((int(heads), level_rows(int(tiles), key.dims)))
    return ArchSpec.of(key.dims, *zip(*layers, strict=True))


class _Unit:
    """The reference kernel's time of late.

    Its weights fill more than the nearest caches: after a large encoder, or while another core is busy, some calls in
    a row are up to a third slower. The quick ones follow the clock.
    """

    def __init__(self) -> None:
        self._kernel = ReferenceKernel()
        self._recent: deque[NDArray[np.float64]] = deque(maxlen=16)

    def time(self) -> float:
        """Microseconds, of the calls beside the last few encoders and some now."""
        self._recent.append(time_calls(self._kernel.run, 8))
        return float(np.percentile(self._recent, 10))


def _time_engine(engine: Engine, batch: Ragged, unit: _Unit) -> tuple[Units, float]:
    """One pass of `engine`, and the microseconds of the reference kernel beside it."""
    time_calls(partial(engine.timed, batch), 2)
    unit.time()
    passes = np.empty((_FORWARDS, 2 * len(engine.spec.layers) + 1))
    for done in range(_FORWARDS):
        start = time.perf_counter_ns()
        parts = engine.timed(batch)[1][1:-1]
        passes[done] = ((time.perf_counter_ns() - start) / 1e3 - parts.sum(), *parts)
    unit_us = unit.time()
    return np.median(passes, axis=0) / unit_us, unit_us


def _spread(passes: Sequence[Units]) -> float:
    """Width of the middle half of the passes' totals, as a share of their median."""
    low, middle, high = np.percentile(np.sum(passes, axis=1), (25, 50, 75))
    return float((high - low) / middle)


def _table(kind: Kind, seen: Iterable[tuple[Sublayer, float]], key: ProfileKey) -> tuple[float, ...]:
    found = _medians((part.level, units) for part, units in seen if part.kind == kind)
    if not found:
        return ()
    levels = _levels(kind, key)
    return (0.0, *np.interp(levels, list(found), list(found.values())).tolist())


def _crowding(profile: LatencyProfile, dense: Sequence[tuple[ArchSpec, Units]]) -> float:
    """How much more than the tables say, to scale, sub-layers take for every weight that is kept."""
    sums = np.array([sum(map(profile.units_of, sublayers(spec, profile.key))) for spec, _ in dense])
    shares = np.array([profile.weights_share(spec) for spec, _ in dense])
    measured = np.array([u[1:].sum() for _, u in dense])
    scale, more = np.linalg.lstsq(np.stack((sums, sums * shares), axis=1), measured, rcond=None)[0]
    return float(more / scale)


def _is_thinned(spec: ArchSpec) -> bool:
    return any(layer.blocks or layer.tokens < 1.0 for layer in spec.layers)


def _is_shorter(part: Sublayer, key: ProfileKey) -> bool:
    """Whether a sub-layer runs on fewer tokens than it would if none were dropped."""
    return part.drops or (part.kind != "pooled_ffn" and part.tokens < key.tokens)


def _block_costs(seen: Iterable[tuple[Sublayer, float]], block_shape: BlockShape) -> BlockCosts:
    each: dict[str, dict[float, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for part, units in seen:
        density = part.density or 0.0
        nearest = min(DENSITIES, key=lambda other: abs(other - density))
        each[part.kind][nearest].append((density, units / part.level))
    tables = {}
    for kind, by_density in each.items():
        points = np.array([np.median(by_density[density], axis=0) for density in sorted(by_density)])
        tables[kind] = tuple(np.interp(DENSITIES, points[:, 0], points[:, 1]).tolist())
    return BlockCosts(*block_shape, DENSITIES, tables)


def _token_shares(profile: LatencyProfile, seen: Sequence[tuple[Sublayer, float]]) -> TokenShares:
    every = profile.key.tokens
    counts = (0, *sorted({part.tokens for part, _ in seen} | {every}))
    share: dict[str, tuple[float, ...]] = {}
    for kind in ("attention", "ffn", "pooled_attention"):
        ratios = [
            (part.tokens, units / profile.units_of(part))
            for part, units in seen
            if part.kind == kind and not part.drops
        ]
        known = {0: 0.0} | _medians(ratios) | {every: 1.0}
        share[kind] = tuple(np.interp(counts, list(known), list(known.values())).tolist())
    shares = TokenShares(counts, share, drop_cost=0.0, drop_saves=0.0)
    profile = replace(profile, tokens=shares)
    drops = [
        (1.0 - part.kept / part.tokens, units / profile.units_of(part) - 1.0) for part, units in seen if part.drops
    ]
    if not drops:
        return shares
    dropped, more = np.array(drops).T
    cost, slope = np.linalg.lstsq(np.stack((np.ones_like(dropped), dropped), axis=1), more, rcond=None)[0]
    return replace(shares, drop_cost=float(cost), drop_saves=float(-slope))


def _medians(points: Iterable[tuple[float, float]]) -> dict[float, float]:
    """Median of the values at each place, places ascending."""
    values: dict[float, list[float]] = defaultdict(list)
    for place, value in points:
        values[place].append(value)
    return {place: float(np.median(values[place])) for place in sorted(values)}
