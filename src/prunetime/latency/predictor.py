"""Predicting latency: a table of the engine's fused sub-layers, measured inside whole forward passes on this machine.

Every entry is in units of a reference kernel that is timed right beside it, so that a drifting clock cancels out.
`prunetime.latency.recording` measures it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from prunetime.core.arch import (
    ArchSpec,
    BlockShape,
    Dims,
    strict_keys,
)
from prunetime.core.budget import Budget
from prunetime.errors import ProfileError
from prunetime.latency.sublayers import KINDS, ProfileKey, Sublayer, sublayers

ROWS_SAVE = 0.8
"""Of the products of an output row that is pruned; the rest goes into scattering those that stay. MiniLM-L6 on AVX2:
0.5 to 0.9 (docs/STATUS.md, "Measured")."""


@dataclass(frozen=True)
class BlockCosts:
    """What a sub-layer takes whose matrices are stored in blocks of `rows` x `columns`.

    `each[kind][i]` are the units of every head, or every tile of FFN rows, where `densities[i]` (ascending) of its
    weights are kept; all of them take the same, however many there are.
    """

    rows: int
    columns: int
    densities: tuple[float, ...]
    each: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class TokenShares:
    """What a sub-layer takes on fewer tokens.

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
    """Latency of every fused sub-layer at every level, in units of the reference kernel.

    `attention[h]` is the attention sub-layer with h heads (0..dims.heads), `near_attention[h]` the same where it is to
    a window, `ffn[t]` the feed-forward sub-layer at level t (t tiles of rows, the last level being all rows), all on
    all tokens; `pooled_attention` and `pooled_ffn` are the same where only the first token's row is computed. A kind
    that cannot occur has an empty table. The more weights a pass reads, the fewer of them it still finds in the caches:
    with a share w of the dense encoder's, every sub-layer takes 1 + `crowding` x w times what the tables say. `rest` is
    what a pass takes besides (embeddings, head and the call itself) at w = 0 and at w = 1.

    `blocks` and `tokens` are there where they were recorded. `reference_us` is the reference kernel's time then.
    `noisy`: measurements disagreed with one another although they were repeated.

    `measured_us` holds what the floor (all layers gone) and the dense encoder took when timed whole, by setting
    (`ids/hot/p50`: scope, condition, statistic): it turns units into microseconds of that setting.
    """

    key: ProfileKey
    reference_us: float
    rest: tuple[float, float]
    crowding: float
    attention: tuple[float, ...]
    ffn: tuple[float, ...]
    pooled_attention: tuple[float, ...]
    pooled_ffn: tuple[float, ...]
    near_attention: tuple[float, ...] = ()
    blocks: BlockCosts | None = None
    tokens: TokenShares | None = None
    noisy: bool = False
    measured_us: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def predict(self, spec: ArchSpec, budget: Budget) -> float:
        """Microseconds of `spec` in the setting of `budget`.

        Output rows were not timed: what is pruned of them saves most of its part of the products of its sub-layer.

        Raises:
            ProfileError: `spec` has blocks, or drops tokens, and the profile was recorded without.
        """
        floor_us, dense_us = self.floor_and_dense(budget)
        floor, dense = self._floor_and_dense_units
        return floor_us + (dense_us - floor_us) * (self.units(spec) - floor) / (dense - floor)

    def parts(self, spec: ArchSpec, budget: Budget) -> dict[int, float]:
        """What `predict` is made of: microseconds by slot of `Engine.timed`; 0, the first, has all but sub-layers."""
        floor_us, dense_us = self.floor_and_dense(budget)
        floor, dense = self._floor_and_dense_units
        us = self.crowded(spec) * (dense_us - floor_us) / (dense - floor)
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
        rest = (1.0 - share) * self.rest[0] + share * self.rest[1]
        return rest + self.crowded(spec) * sum(self.units_of(sublayer) for sublayer in sublayers(spec, self.key))

    def crowded(self, spec: ArchSpec) -> float:
        """How many times what the tables say a sub-layer of `spec` takes."""
        return 1.0 + self.crowding * self.weights_share(spec)

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
        saved_by_rows = ROWS_SAVE * (1.0 - sublayer.rows) * per_level * sublayer.level * multiplied
        dense = units = table[sublayer.level] * share - saved_by_rows
        if self.blocks and sublayer.density is not None:
            each = float(np.interp(sublayer.density, self.blocks.densities, self.blocks.each[kind]))
            units -= (table[sublayer.level] - each * sublayer.level) * multiplied * sublayer.rows
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
        data: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LatencyProfile:
        values = strict_keys(cls, data)
        key = strict_keys(ProfileKey, values["key"])
        key |= {"dims": Dims.from_json(key["dims"]), "near": tuple(map(int, key.get("near", ())))}
        values["key"] = ProfileKey(**key)
        floor, dense = values["rest"]
        values["rest"] = (float(floor), float(dense))
        for kind in KINDS:
            values[kind] = _floats(values.get(kind, ()))
        if values.get("blocks") is not None:
            blocks = strict_keys(BlockCosts, values["blocks"])
            blocks |= {"densities": _floats(blocks["densities"]), "each": _by_kind(blocks["each"])}
            values["blocks"] = BlockCosts(**blocks)
        if values.get("tokens") is not None:
            tokens = strict_keys(TokenShares, values["tokens"])
            tokens |= {"counts": tuple(map(int, tokens["counts"])), "share": _by_kind(tokens["share"])}
            values["tokens"] = TokenShares(**tokens)
        measured = values.get("measured_us", {})
        values["measured_us"] = {name: (float(pair[0]), float(pair[1])) for name, pair in measured.items()}
        return cls(**values)


def setting_name(scope: str, condition: str, statistic: str) -> str:
    return f"{scope}/{condition}/{statistic}"


def _floats(values: Sequence[Any]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _by_kind(data: Mapping[str, Sequence[Any]]) -> dict[str, tuple[float, ...]]:
    return {kind: _floats(values) for kind, values in data.items()}
