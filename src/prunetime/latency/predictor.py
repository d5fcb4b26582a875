"""The latency model: a table of the engine's fused sub-layers, what it predicts of a spec, and how it is fitted.

The model is linear in what is measured. Of a spec that keeps a share w of the dense encoder's weights a pass takes

    fixed_overhead[0] (1 - w) + fixed_overhead[1] w + (1 + cache_pressure w) x the sum of its sub-layers,

all in units of a reference kernel that is timed right beside it, so that a drifting clock cancels out.
`prunetime.latency.recording` measures the passes that `fit` reads the table off.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from prunetime.core.arch import ArchSpec, BlockShape, Dims
from prunetime.core.arrays import Float64Array
from prunetime.core.budget import Budget
from prunetime.core.record import Record, strict_keys
from prunetime.errors import ProfileError
from prunetime.latency.sublayers import (
    FILE_NAMES,
    SUBLAYER_KINDS,
    ProfileKey,
    Sublayer,
    SublayerKind,
    levels_of,
    renamed,
    sublayers,
)

Units = Float64Array
"""One forward pass in units of the reference kernel, [2 * layers + 1]: all but the sub-layers, then each of them."""

DENSITIES = (0.0, 0.1, 0.25, 0.5, 1.0)
"""Shares of the weights kept in blocks at which a sub-layer is measured."""

_FITS = 24

CHANNELS_SAVE = 0.8
"""The share of the products of a pruned output channel that is saved; the rest goes into scattering the channels that
stay. MiniLM-L6 on AVX2: 0.5 to 0.9, measured by hand."""


@dataclass(frozen=True)
class BlockCosts(Record):
    """The time of a sub-layer whose matrices are stored in blocks of `rows` x `columns`.

    `each[kind][i]` are the units of every head, or of every tile of FFN neurons, where `densities[i]` (ascending) of
    its weights are kept; all of them take the same, however many there are.
    """

    rows: int
    columns: int
    densities: tuple[float, ...]
    each: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class TokenShares(Record):
    """The time of a sub-layer on fewer tokens.

    `share[kind][i]` is its time where each sequence comes in with `counts[i]` tokens (ascending), as a share of that
    on all of them. An attention that drops tokens takes `drop_cost` of the time that it takes dense on those that came
    in for choosing; and dropping a share x of them saves x times `drop_saves` of its time, because what follows the
    choice runs on those left.
    """

    counts: tuple[int, ...]
    share: Mapping[str, tuple[float, ...]]
    drop_cost: float
    drop_saves: float


@dataclass(frozen=True)
class LatencyProfile:
    """The latency of every fused sub-layer at every level, in units of the reference kernel, on one machine.

    `attention[h]` is the attention sub-layer with h heads (0..dims.heads), `sliding_window_attention[h]` the same with
    sliding-window attention, `ffn[t]` the feed-forward sub-layer at level t (t tiles of neurons, the last level being
    all of them), all on all tokens; `pooled_attention` and `pooled_ffn` are the same where only the first token's row
    is computed. A kind that cannot occur has an empty table. The more weights a pass reads, the fewer of them it still
    finds in the caches: with a share w of the dense encoder's, every sub-layer takes 1 + `cache_pressure` x w times
    what the tables say. `fixed_overhead` is what a pass takes besides (embeddings, head and the call itself) at w = 0
    and at w = 1.

    `blocks` and `tokens` are there where they were recorded. `reference_us` is the reference kernel's time then.
    `noisy`: measurements disagreed with one another although they were repeated.

    `measured_us` holds what the floor (all layers gone) and the dense encoder took when timed whole, by setting
    (`ids/hot/p50`: scope, condition, statistic): it turns units into microseconds of that setting.
    """

    key: ProfileKey
    reference_us: float
    fixed_overhead: tuple[float, float]
    cache_pressure: float
    attention: tuple[float, ...]
    ffn: tuple[float, ...]
    pooled_attention: tuple[float, ...]
    pooled_ffn: tuple[float, ...]
    sliding_window_attention: tuple[float, ...] = ()
    blocks: BlockCosts | None = None
    tokens: TokenShares | None = None
    noisy: bool = False
    measured_us: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def predict(self, spec: ArchSpec, budget: Budget) -> float:
        """The latency of `spec` in microseconds, in the setting of `budget`.

        Output channels were not timed: one that is pruned saves most of its part of the products of its sub-layer.

        Raises:
            ProfileError: `spec` has blocks, or drops tokens, and the profile was recorded without.
        """
        floor_us, dense_us = self.floor_and_dense(budget)
        floor, dense = self._floor_and_dense_units
        return floor_us + (dense_us - floor_us) * (self.units(spec) - floor) / (dense - floor)

    def parts(self, spec: ArchSpec, budget: Budget) -> dict[int, float]:
        """The parts of the predicted latency: microseconds by slot of `Engine.timed`; slot 0 has all but sub-layers."""
        floor_us, dense_us = self.floor_and_dense(budget)
        floor, dense = self._floor_and_dense_units
        us = self.slowdown(spec) * (dense_us - floor_us) / (dense - floor)
        found = {sublayer.slot: us * self.units_of(sublayer) for sublayer in sublayers(spec, self.key)}
        return {0: self.predict(spec, budget) - sum(found.values())} | found

    def floor_and_dense(self, budget: Budget) -> tuple[float, float]:
        """Measured microseconds of the floor and of the dense encoder in the setting of `budget`.

        Raises:
            ProfileError: the profile was recorded without that setting.
        """
        name = setting_name(budget.scope, budget.condition, budget.statistic)
        if name not in self.measured_us:
            raise ProfileError(f"the latency profile has no {name}: record it again with `prunetime profile`")
        return self.measured_us[name]

    def units(self, spec: ArchSpec) -> float:
        """Hot median of one forward pass of `spec`, ids to logits, in units of the reference kernel.

        Raises:
            ProfileError: `spec` has blocks, or drops tokens, and the profile was recorded without.
        """
        self._check_covers(spec)
        share = self.weights_share(spec)
        overhead = (1.0 - share) * self.fixed_overhead[0] + share * self.fixed_overhead[1]
        return overhead + self.slowdown(spec) * sum(self.units_of(sublayer) for sublayer in sublayers(spec, self.key))

    def slowdown(self, spec: ArchSpec) -> float:
        """The factor by which a sub-layer of `spec` is slower than the tables say."""
        return 1.0 + self.cache_pressure * self.weights_share(spec)

    def weights_share(self, spec: ArchSpec) -> float:
        """Weights that `spec` keeps in its layers, as a share of the dense encoder's."""
        return spec.weights(self.key.dims) / self._dense_weights

    def units_of(self, sublayer: Sublayer) -> float:
        """One sub-layer in units of the reference kernel, in an encoder that fits into the caches."""
        kind, tokens = sublayer.kind, sublayer.tokens
        table: tuple[float, ...] = getattr(self, kind)
        share = multiplied = 1.0
        if self.tokens and kind in self.tokens.share and tokens < self.key.tokens:
            share = float(np.interp(tokens, self.tokens.counts, self.tokens.share[kind]))
            # Of an attention, the products with weights are proportional to tokens; the scores grow with their square.
            multiplied = tokens / self.key.tokens if kind == "attention" else share
        half = sublayer.level // 2
        per_level = (table[sublayer.level] - table[half]) / max(1, sublayer.level - half)
        saved_by_channels = CHANNELS_SAVE * (1.0 - sublayer.channels) * per_level * sublayer.level * multiplied
        dense = units = table[sublayer.level] * share - saved_by_channels
        if self.blocks and sublayer.density is not None:
            each = float(np.interp(sublayer.density, self.blocks.densities, self.blocks.each[kind]))
            units -= (table[sublayer.level] - each * sublayer.level) * multiplied * sublayer.channels
        if self.tokens and sublayer.drops:
            units += self.tokens.drop_cost * dense - self.tokens.drop_saves * units * (1.0 - sublayer.kept / tokens)
        return units

    @cached_property
    def _floor_and_dense_units(self) -> tuple[float, float]:
        return self.units(ArchSpec.floor(self.key.dims)), self.units(ArchSpec.full(self.key.dims))

    @cached_property
    def _dense_weights(self) -> int:
        return ArchSpec.full(self.key.dims).weights(self.key.dims)

    def check_covers(self, blocks: BlockShape | None, tokens: bool) -> None:
        """Raises ProfileError where matrices in `blocks` (rows and columns) or dropped `tokens` were not timed."""
        if blocks is not None and (self.blocks is None or blocks != (self.blocks.rows, self.blocks.columns)):
            found = f"blocks of {self.blocks.rows}x{self.blocks.columns}" if self.blocks else "no blocks"
            size = "x".join(map(str, blocks))
            raise ProfileError(
                f"matrices are in blocks of {size}, and the latency profile has {found}: record it with "
                f"`prunetime profile --blocks {size}{' --tokens' if tokens else ''}`"
            )
        if tokens and self.tokens is None:
            raise ProfileError(
                "tokens are dropped, and the latency profile was recorded with all of them only: record it with "
                f"`prunetime profile --tokens{f' --blocks {blocks[0]}x{blocks[1]}' if blocks else ''}`"
            )

    def _check_covers(self, spec: ArchSpec) -> None:
        for index, layer in enumerate(spec.layers):
            try:
                for block in layer.blocks:
                    self.check_covers((block.rows, block.columns), tokens=False)
                self.check_covers(None, layer.tokens < 1.0)
            except ProfileError as error:
                raise ProfileError(f"layer {index}: {error}") from error

    def to_json(self) -> dict[str, Any]:
        return dict(json.loads(json.dumps(renamed(asdict(self), FILE_NAMES))))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LatencyProfile:
        values = strict_keys(cls, renamed(data, {name: field for field, name in FILE_NAMES.items()}))
        key = strict_keys(ProfileKey, values["key"])
        key |= {"dims": Dims.from_json(key["dims"]), "attention_spans": tuple(map(int, key.get("attention_spans", ())))}
        values["key"] = ProfileKey(**key)
        floor, dense = values["fixed_overhead"]
        values["fixed_overhead"] = (float(floor), float(dense))
        values |= {kind: _floats(values.get(kind, ())) for kind in SUBLAYER_KINDS}
        if (blocks := values.get("blocks")) is not None:
            tables = {"densities": _floats(blocks["densities"]), "each": _by_kind(blocks["each"])}
            values["blocks"] = BlockCosts.from_json({**blocks, **tables})
        if (tokens := values.get("tokens")) is not None:
            tables = {"counts": tuple(map(int, tokens["counts"])), "share": _by_kind(tokens["share"])}
            values["tokens"] = TokenShares.from_json({**tokens, **tables})
        measured = values.get("measured_us", {})
        values["measured_us"] = {name: (float(pair[0]), float(pair[1])) for name, pair in measured.items()}
        return cls(**values)


def setting_name(scope: str, condition: str, statistic: str) -> str:
    return f"{scope}/{condition}/{statistic}"


def _floats(values: Sequence[Any]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _by_kind(data: Mapping[str, Sequence[Any]]) -> dict[str, tuple[float, ...]]:
    return {kind: _floats(values) for kind, values in data.items()}


def fit(
    key: ProfileKey,
    specs: Sequence[ArchSpec],
    units: Sequence[Units],
    blocks: BlockShape | None = None,
    tokens: bool = False,
) -> LatencyProfile:
    """Fits a profile to passes over `specs` that took `units`.

    The specs are those of `recording.dense_specs`, and with `blocks` and `tokens` of `block_specs` and `token_specs`.
    Tables and cache pressure depend on each other, so each is fitted to the other in turns.
    """
    passes = list(zip(specs, units, strict=True))
    dense = [(spec, u) for spec, u in passes if not any(layer.blocks or layer.tokens < 1.0 for layer in spec.layers)]
    profile = LatencyProfile(key, 0.0, (0.0, 0.0), 0.0, (), (), (), ())
    for _ in range(_FITS):
        seen = [(p, float(u[p.slot]) / profile.slowdown(spec)) for spec, u in passes for p in sublayers(spec, key)]
        plain = [(part, u) for part, u in seen if part.density is None and not _is_shorter(part, key)]
        tables: Any = {kind: _table(kind, plain, key) for kind in SUBLAYER_KINDS}
        profile = LatencyProfile(key, 0.0, (0.0, 0.0), 0.0, **tables)
        profile = replace(profile, cache_pressure=_cache_pressure(profile, dense))
    in_blocks = [(part, u) for part, u in seen if part.density is not None]
    shorter = [(part, u) for part, u in seen if _is_shorter(part, key)]
    floor = next(float(u[0]) for spec, u in dense if spec == ArchSpec.floor(key.dims))
    slopes = [(u[0] - floor) / profile.weights_share(spec) for spec, u in dense if spec.weights(key.dims)]
    return replace(
        profile,
        fixed_overhead=(floor, floor + float(np.median(slopes))),
        blocks=_block_costs(in_blocks, blocks) if blocks else None,
        tokens=_token_shares(profile, shorter) if tokens else None,
    )


def _table(kind: SublayerKind, seen: Iterable[tuple[Sublayer, float]], key: ProfileKey) -> tuple[float, ...]:
    found = _medians((part.level, units) for part, units in seen if part.kind == kind)
    if not found:
        return ()
    levels = levels_of(kind, key)
    return (0.0, *np.interp(levels, list(found), list(found.values())).tolist())


def _cache_pressure(profile: LatencyProfile, dense: Sequence[tuple[ArchSpec, Units]]) -> float:
    """The cache pressure that makes the model's sums of sub-layers, to scale, fit the measured ones best."""
    sums = np.array([sum(map(profile.units_of, sublayers(spec, profile.key))) for spec, _ in dense])
    shares = np.array([profile.weights_share(spec) for spec, _ in dense])
    measured = np.array([u[1:].sum() for _, u in dense])
    scale, more = np.linalg.lstsq(np.stack((sums, sums * shares), axis=1), measured, rcond=None)[0]
    return float(more / scale)


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
        whole = ((part, units) for part, units in seen if part.kind == kind and not part.drops)
        ratios = _medians((part.tokens, units / profile.units_of(part)) for part, units in whole)
        known = {0: 0.0} | ratios | {every: 1.0}
        share[kind] = tuple(np.interp(counts, list(known), list(known.values())).tolist())
    shares = TokenShares(counts, share, drop_cost=0.0, drop_saves=0.0)
    profile = replace(profile, tokens=shares)
    drops = [(1 - part.kept / part.tokens, units / profile.units_of(part) - 1) for part, units in seen if part.drops]
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
