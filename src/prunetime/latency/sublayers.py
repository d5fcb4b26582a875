"""The fused sub-layers of a structure, as far as their time depends on it, and the setting that they are timed in."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from prunetime.core.arch import ATTENTION_MATRICES, FFN_MATRICES, MATRICES, TILE, ArchSpec, Dims, LayerSpec
from prunetime.core.config import EncoderConfig
from prunetime.core.machine import this_machine
from prunetime.core.precision import MatrixPlan, PrecisionPlan
from prunetime.errors import ProfileError
from prunetime.inference.engine import Engine, engine_build
from prunetime.latency.synthetic import random_weights

SublayerKind = Literal["attention", "sliding_window_attention", "ffn", "pooled_attention", "pooled_ffn"]
"""The kinds of sub-layers. The pooled ones are the last attention, of which only the first token's row is computed, and
every feed-forward sub-layer from there on, which runs on that row alone."""

SUBLAYER_KINDS: tuple[SublayerKind, ...] = get_args(SublayerKind)

FILE_NAMES = {
    "fixed_overhead": "rest",
    "cache_pressure": "crowding",
    "sliding_window_attention": "near_attention",
    "attention_spans": "near",
}
"""Fields of a latency profile whose names in files are older."""


@dataclass(frozen=True)
class ProfileKey:
    """The identity of a latency table: machine, engine, model and setting. It is refused for any other.

    `tokens` is the length of each sequence, `precision` what `precision_name` says of the plan, `pooled_row` whether
    the head reads only the first token's row. `attention_spans` has the most tokens that one attends to, layer by
    layer, where some layer has sliding-window attention; else it is empty.
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
    attention_spans: tuple[int, ...] = ()

    @classmethod
    def here(
        cls, config: EncoderConfig, threads: int, batch: int, tokens: int, plan: PrecisionPlan = PrecisionPlan()
    ) -> ProfileKey:
        """The key of a profile recorded now, on this machine, of encoders run by `plan`.

        Raises:
            ProfileError: `plan` differs between layers.
        """
        isa = Engine(config, random_weights(config, ArchSpec.floor(config.dims)), threads).isa
        setting = (config.family, config.dims, threads, batch, tokens)
        precision = precision_name(plan, config.dims.layers)
        pooled, spans = config.reads_one_token, tokens_attended(config, tokens)
        return cls(this_machine().id, engine_build(), isa, *setting, precision, pooled, spans)

    def to_json(self) -> dict[str, Any]:
        return dict(renamed(asdict(self), FILE_NAMES))

    def attention_of(self, layer: int, pools: bool) -> SublayerKind:
        """The kind of a layer's attention, of which with `pools` only the first token's row is computed."""
        if pools:
            return "pooled_attention"
        slides = self.attention_spans and self.attention_spans[layer] < self.tokens
        return "sliding_window_attention" if slides else "attention"

    def check_is(self, expected: ProfileKey) -> None:
        """Raises ProfileError naming the first field in which this profile is not what is `expected`."""
        for name, value in expected.to_json().items():
            found = self.to_json()[name]
            if found != value:
                option = _OPTIONS.get(name, lambda _: "")(value)
                raise ProfileError(
                    f"the latency profile is stale: its {name} is {found}, here it is {value}; "
                    f"record it again with `prunetime profile{option}`"
                )


_OPTIONS: Mapping[str, Callable[[Any], str]] = {
    "tokens": lambda tokens: f" --seq-len {tokens}",
    "batch": lambda batch: f" --batch {batch}",
    "threads": lambda threads: f" --threads {threads}",
    "pooled_row": lambda pooled: f" --rows {'pooled' if pooled else 'tokens'}",
}
"""The options of `prunetime profile` that give a key such values."""


@dataclass(frozen=True)
class Sublayer:
    """One sub-layer of a spec, as far as its time depends on it.

    `slot` is its place in `Engine.timed`, `level` its heads or its tiles of FFN neurons, `density` the share of its
    weights in kept blocks (None: no matrix of it is in blocks); of a pooled attention those of key and value, which
    alone are multiplied by every token. `channels` is the share of its products that the output channels kept leave.
    `tokens` of each sequence come in and `kept` are left.
    """

    slot: int
    kind: SublayerKind
    level: int
    density: float | None
    channels: float
    tokens: int
    kept: int

    @property
    def drops(self) -> bool:
        """Whether tokens are chosen and dropped."""
        return self.kind == "attention" and self.kept < self.tokens


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
            # Beside the four matrices, `hidden` weights wide for every channel of a head, there are scores and values.
            attended = min(tokens, key.attention_spans[index]) if key.attention_spans else tokens
            products = 4.0 * key.dims.hidden + 2.0 * attended
            channels = 1.0 if pools else 1.0 - (key.dims.hidden - layer.attention_rows) / products
            yield Sublayer(1 + 2 * index, kind, layer.heads, density, channels, tokens, kept)
            tokens = kept
        if layer.has_ffn:
            density = _density(layer, FFN_MATRICES, key.dims)
            kind, channels = "ffn" if index < last else "pooled_ffn", (1.0 + layer.ffn_rows / key.dims.hidden) / 2.0
            yield Sublayer(2 + 2 * index, kind, ffn_level(layer.ffn), density, channels, tokens, tokens)


def tokens_attended(config: EncoderConfig, tokens: int) -> tuple[int, ...]:
    """To how many of `tokens` one attends at most, in every layer; nothing where it is to all of them in all layers."""
    windows = (layer.window for layer in config.rotary)
    attended = tuple(tokens if window is None else min(tokens, 2 * window + 1) for window in windows)
    return attended if set(attended) - {tokens} else ()


def precision_name(plan: PrecisionPlan, layers: int) -> str:
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


def ffn_level(neurons: int) -> int:
    """Level of a number of FFN neurons: whole tiles, a last part of one counting as a tile."""
    return -(-neurons // TILE)


def level_neurons(level: int, dims: Dims) -> int:
    """FFN neurons of a level."""
    return min(level * TILE, dims.ffn)


def renamed(data: Any, names: Mapping[str, str]) -> Any:
    """`data` whose objects have other keys for those in `names`, however deep."""
    if not isinstance(data, Mapping):
        return data
    return {names.get(key, key): renamed(value, names) for key, value in data.items()}


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


def levels_of(kind: SublayerKind, key: ProfileKey) -> range:
    """Every level that sub-layers of a kind can have but 0, at which they are gone."""
    return range(1, 1 + (ffn_level(key.dims.ffn) if kind.endswith("ffn") else key.dims.heads))
