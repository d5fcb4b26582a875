"""Predicting latency: a table of the engine's fused sub-layers, measured inside whole forward passes on this machine.

Every entry is in units of a reference kernel that is timed right beside it, so that a drifting clock cancels out.
`prunetime.runtime.recording` measures it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from prunetime.arch import (
    ATTENTION_MATRICES,
    FFN_MATRICES,
    MATRICES,
    TILE,
    ArchSpec,
    Dims,
    LayerSpec,
    strict_keys,
)
from prunetime.artifact import weight_shapes
from prunetime.blocks import to_blocks
from prunetime.budget import Budget
from prunetime.config import EncoderConfig
from prunetime.errors import ProfileError
from prunetime.machine import this_machine
from prunetime.plan import MatrixPlan, Plan
from prunetime.runtime.engine import Engine, engine_build
from prunetime.runtime.ragged import Ragged

Kind = Literal["attention", "near_attention", "ffn", "pooled_attention", "pooled_ffn"]
"""Of a sub-layer. Near: attention to the tokens in a window only. The pooled ones: the last attention, of which only
the first token's row is computed, and every feed-forward sub-layer from there on, which runs on that row alone."""


ROWS_SAVE = 0.8
"""Of the products of an output row that is pruned; the rest goes into scattering those that stay. MiniLM-L6 on AVX2:
0.5 to 0.9 (docs/STATUS.md, "Measured")."""


@dataclass(frozen=True)
class ProfileKey:
    """What a latency table holds for: it is refused anywhere else.

    `tokens` is the length of each sequence, `precision` what `precision_name` says of the plan, `pooled_row` whether
    the head reads only the first token's row. `near` are the tokens to which one attends, layer by layer, where that
    is not always all of them.
    """

    machine: str
    engine: str
    isa: str
    family: str
    dims: Dims
    threads: int
    batch: int
    tokens: int
    precision: str = "fp32"
    pooled_row: bool = True
    near: tuple[int, ...] = ()

    @classmethod
    def here(
        cls,
        config: EncoderConfig,
        threads: int,
        batch: int,
        tokens: int,
        plan: Plan = Plan(),  # noqa: B008 (immutable)
    ) -> ProfileKey:
        """The key of a profile recorded now, on this machine, of encoders run by `plan`.

        Raises:
            ProfileError: `plan` differs between layers.
        """
        isa = Engine(config, random_weights(config, ArchSpec.floor(config.dims)), threads).isa
        setting = (config.family, config.dims, threads, batch, tokens)
        precision = precision_name(plan, config.dims.layers)
        pooled, near = config.first_token_only, tokens_attended(config, tokens)
        return cls(this_machine().id, engine_build(), isa, *setting, precision, pooled, near)

    def attention_of(self, layer: int, pools: bool) -> Kind:
        """The kind of a layer's attention, of which with `pools` only the first token's row is computed."""
        if pools:
            return "pooled_attention"
        return "near_attention" if self.near and self.near[layer] < self.tokens else "attention"

    def check_is(self, expected: ProfileKey) -> None:
        """Raises ProfileError naming the first field in which this profile is not what is `expected`."""
        for name, value in asdict(expected).items():
            found = asdict(self)[name]
            if found != value:
                raise ProfileError(
                    f"the latency profile is stale: its {name} is {found}, here it is {value}; "
                    "record it again with `prunetime profile`"
                )


@dataclass(frozen=True)
class BlockSavings:
    """What a sub-layer saves whose matrices are stored in blocks of `rows` x `columns`.

    `saved[kind][i]` are the units saved by every head, or every tile of FFN rows, where `densities[i]` (ascending) of
    its weights are kept; all of them save the same, however many there are.
    """

    rows: int
    columns: int
    densities: tuple[float, ...]
    saved: Mapping[str, tuple[float, ...]]


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
    blocks: BlockSavings | None = None
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
        """Measured microseconds of the floor and of the dense encoder in the setting of `budget`."""
        return self.measured_us[setting_name(budget.scope, budget.condition, budget.statistic)]

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
            saved = np.interp(sublayer.density, self.blocks.densities, self.blocks.saved[kind])
            units -= float(saved) * sublayer.level * multiplied * sublayer.rows
        if self.tokens and sublayer.drops:
            units += self.tokens.drop_cost * dense - self.tokens.drop_saves * units * (1.0 - sublayer.kept / tokens)
        return units

    @cached_property
    def _floor_and_dense_units(self) -> tuple[float, float]:
        return self.units(ArchSpec.floor(self.key.dims)), self.units(ArchSpec.full(self.key.dims))

    @cached_property
    def _dense_weights(self) -> int:
        return ArchSpec.full(self.key.dims).weights(self.key.dims)

    def _check_covers(self, spec: ArchSpec) -> None:
        for index, layer in enumerate(spec.layers):
            for block in layer.blocks:
                if self.blocks is None or (block.rows, block.columns) != (self.blocks.rows, self.blocks.columns):
                    found = f"blocks of {self.blocks.rows}x{self.blocks.columns}" if self.blocks else "no blocks"
                    raise ProfileError(
                        f"layer {index} has {block.matrix} in blocks of {block.rows}x{block.columns}, the latency "
                        f"profile has {found}: record it with `prunetime profile --blocks {block.rows}x{block.columns}`"
                    )
            if layer.tokens < 1.0 and self.tokens is None:
                raise ProfileError(
                    f"layer {index} keeps {layer.tokens:.0%} of its tokens, the latency profile was recorded with all "
                    "of them only: record it with `prunetime profile --tokens`"
                )

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
            blocks = strict_keys(BlockSavings, values["blocks"])
            blocks |= {"densities": _floats(blocks["densities"]), "saved": _by_kind(blocks["saved"])}
            values["blocks"] = BlockSavings(**blocks)
        if values.get("tokens") is not None:
            tokens = strict_keys(TokenShares, values["tokens"])
            tokens |= {"counts": tuple(map(int, tokens["counts"])), "share": _by_kind(tokens["share"])}
            values["tokens"] = TokenShares(**tokens)
        measured = values.get("measured_us", {})
        values["measured_us"] = {name: (float(pair[0]), float(pair[1])) for name, pair in measured.items()}
        return cls(**values)


@dataclass(frozen=True)
class Sublayer:
    """One sub-layer of a spec, as far as its time depends on it.

    `slot` is its place in `Engine.timed`, `level` its heads or its tiles of FFN rows, `density` the share of its
    weights in kept blocks (None: no matrix of it is in blocks); of a pooled attention those of key and value, which
    alone are multiplied by every token. `rows` is the share of its products that the output rows kept leave. `tokens`
    of each sequence come in and `kept` are left.
    """

    slot: int
    kind: Kind
    level: int
    density: float | None
    rows: float
    tokens: int
    kept: int

    @property
    def drops(self) -> bool:
        """Whether tokens are chosen and dropped."""
        return self.kind == "attention" and self.kept < self.tokens


KINDS: tuple[Kind, ...] = get_args(Kind)


def sublayers(spec: ArchSpec, key: ProfileKey) -> Iterator[Sublayer]:
    """The sub-layers that `spec` has, in the order of the forward pass in the setting of `key`."""
    last = max((i for i, layer in enumerate(spec.layers) if layer.has_attention), default=-1)
    if not key.pooled_row:
        last = len(spec.layers)
    tokens = 1 if last < 0 else key.tokens
    for index, layer in enumerate(spec.layers):
        if layer.has_attention:
            pools = index == last
            kept = 1 if pools else layer.tokens_kept(tokens)
            kind = key.attention_of(index, pools)
            density = _density(layer, ("key", "value") if pools else ATTENTION_MATRICES, key.dims)
            # Beside the four matrices, of `hidden` columns a head's row each, there are scores and what they weigh.
            products = 4.0 * key.dims.hidden + 2.0 * (min(tokens, key.near[index]) if key.near else tokens)
            rows = 1.0 if pools else 1.0 - (key.dims.hidden - layer.attention_rows) / products
            yield Sublayer(1 + 2 * index, kind, layer.heads, density, rows, tokens, kept)
            tokens = kept
        if layer.has_ffn:
            density = _density(layer, FFN_MATRICES, key.dims)
            kind, rows = "ffn" if index < last else "pooled_ffn", (1.0 + layer.ffn_rows / key.dims.hidden) / 2.0
            yield Sublayer(2 + 2 * index, kind, ffn_level(layer.ffn), density, rows, tokens, tokens)


def tokens_attended(config: EncoderConfig, tokens: int) -> tuple[int, ...]:
    """To how many of `tokens` one attends at most, in every layer; nothing where it is to all of them in all layers."""
    windows = [layer.window for layer in config.rotary]
    if all(window is None or window + 1 >= tokens for window in windows):
        return ()
    return tuple(tokens if window is None else min(tokens, 2 * window + 1) for window in windows)


def precision_name(plan: Plan, layers: int) -> str:
    """`fp32`, `bf16` or `int8` where every matrix of the `layers` is run so, block by block; else a digest of `plan`.

    Raises:
        ProfileError: the plan differs between layers: a profile has one table for all of them.
    """
    of_layer = [tuple(plan.of(layer, matrix) for matrix in MATRICES) for layer in range(layers)]
    for layer, found in enumerate(of_layer):
        if found != of_layer[0]:
            raise ProfileError(
                f"the plan runs layer {layer} unlike layer 0, and a latency profile has one table for all layers: "
                "record it for a plan in which all layers are alike"
            )
    run = (plan.default, *of_layer[0])
    if set(run) == {MatrixPlan(plan.default.precision)}:
        return plan.default.precision
    return hashlib.sha256(json.dumps([matrix.to_json() for matrix in run]).encode()).hexdigest()[:12]


def setting_name(scope: str, condition: str, statistic: str) -> str:
    return f"{scope}/{condition}/{statistic}"


def ffn_level(rows: int) -> int:
    """Level of a number of FFN rows: whole tiles, a last part of one counting as a tile."""
    return -(-rows // TILE)


def level_rows(level: int, dims: Dims) -> int:
    """FFN rows of a level."""
    return min(level * TILE, dims.ffn)


def random_weights(config: EncoderConfig, spec: ArchSpec) -> dict[str, NDArray[Any]]:
    """Weights of the right shapes and ordinary size, for timing: speed does not depend on the values.

    The kept blocks of a matrix are drawn uniformly.
    """
    shapes = weight_shapes(config, ArchSpec(tuple(replace(layer, blocks=()) for layer in spec.layers)))
    largest = max(int(np.prod(shape)) for shape in shapes.values())
    values = _noise(largest)
    weights: dict[str, NDArray[Any]] = {}
    for name, shape in shapes.items():
        if name.endswith("_rows"):
            weights[name] = np.arange(shape[0], dtype=np.int32)
        elif name.endswith("norm.weight"):
            weights[name] = np.ones(shape, np.float32)
        else:
            weights[name] = values[: int(np.prod(shape))].reshape(shape)
    rng = np.random.default_rng(0)
    for index, layer in enumerate(spec.layers):
        for block in layer.blocks:
            name = f"layers.{index}.{block.matrix}"
            weight = weights.pop(f"{name}.weight")
            grid = block.grid(weight.shape)
            kept = rng.permutation(math.prod(grid)).reshape(grid) < block.kept
            arrays = to_blocks(weight, kept, block.rows, block.columns)
            weights[f"{name}.blocks"], weights[f"{name}.block_index"] = arrays
    return weights


def random_batch(config: EncoderConfig, batch: int, tokens: int) -> Ragged:
    """`batch` sequences of `tokens` random ids each."""
    ids = np.random.default_rng(0).integers(0, config.dims.vocabulary, (batch, tokens))
    return Ragged.of(ids.tolist())


def _density(layer: LayerSpec, matrices: tuple[str, ...], dims: Dims) -> float | None:
    """Share of the weights of `matrices` that lie in kept blocks, or None where all of them are dense."""
    if all(block.matrix not in matrices for block in layer.blocks):
        return None
    shapes = {name: shape for name, shape in layer.matrix_shapes(dims).items() if name in matrices}
    kept = 0.0
    for name, shape in shapes.items():
        block = layer.blocks_of(name)
        kept += math.prod(shape) * (1.0 if block is None else block.kept / math.prod(block.grid(shape)))
    return kept / sum(math.prod(shape) for shape in shapes.values())


def _noise(count: int) -> NDArray[np.float32]:
    """`count` values of the size that trained weights have, from a short stretch of random ones."""
    stretch = np.random.default_rng(0).normal(0.0, 0.05, 65_521).astype(np.float32)
    return np.resize(stretch, count)


def _floats(values: Sequence[Any]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _by_kind(data: Mapping[str, Sequence[Any]]) -> dict[str, tuple[float, ...]]:
    return {kind: _floats(values) for kind, values in data.items()}
