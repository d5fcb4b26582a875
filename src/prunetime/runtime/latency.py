"""Predicting latency: a table of the engine's fused sub-layers, measured inside whole forward passes on this machine.

Every entry is in units of a reference kernel that is timed right beside it, so that a drifting clock cancels out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunetime.arch import TILE, ArchSpec, Dims, strict_keys
from prunetime.artifact import weight_shapes
from prunetime.blocks import to_blocks
from prunetime.budget import Budget
from prunetime.config import EncoderConfig
from prunetime.errors import ProfileError
from prunetime.machine import this_machine
from prunetime.runtime.engine import Engine, ReferenceKernel, engine_build
from prunetime.runtime.measure import pinned, time_calls
from prunetime.runtime.ragged import Ragged

Progress = Callable[[int, int], None]

_PASSES = 3
_FORWARDS = 12


@dataclass(frozen=True)
class ProfileKey:
    """What a latency table holds for: it is refused anywhere else. `tokens` is the length of each sequence."""

    machine: str
    engine: str
    isa: str
    family: str
    dims: Dims
    threads: int
    batch: int
    tokens: int
    precision: str = "fp32"
    pooled_row: bool = False

    @classmethod
    def here(cls, config: EncoderConfig, threads: int, batch: int, tokens: int) -> ProfileKey:
        """The key of a profile recorded now, on this machine."""
        isa = Engine(config, random_weights(config, ArchSpec.floor(config.dims)), threads).isa
        machine = this_machine().id
        return cls(machine, engine_build(), isa, config.family, config.dims, threads, batch, tokens)

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
class LatencyProfile:
    """Latency of every fused sub-layer at every level, in units of the reference kernel.

    `attention[h]` is the attention sub-layer with h heads (0..dims.heads), `ffn[t]` the feed-forward sub-layer at
    level t (t tiles of rows, the last level being all rows), `rest` embeddings, head and the call itself.
    `reference_us` is the reference kernel's time when this was recorded.

    `measured_us` holds what the floor (all layers gone) and the dense encoder took when timed whole, by setting
    (`ids/hot/p50`: scope, condition, statistic): it turns units into microseconds of that setting.
    """

    key: ProfileKey
    reference_us: float
    rest: float
    attention: tuple[float, ...]
    ffn: tuple[float, ...]
    measured_us: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def predict(self, spec: ArchSpec, budget: Budget) -> float:
        """Microseconds of `spec` in the setting of `budget`, every output row kept."""
        floor_us, dense_us = self.floor_and_dense(budget)
        floor, dense = self.units(ArchSpec.floor(self.key.dims)), self.units(ArchSpec.full(self.key.dims))
        return floor_us + (dense_us - floor_us) * (self.units(spec) - floor) / (dense - floor)

    def floor_and_dense(self, budget: Budget) -> tuple[float, float]:
        """Measured microseconds of the floor and of the dense encoder in the setting of `budget`."""
        return self.measured_us[setting_name(budget.scope, budget.condition, budget.statistic)]

    def units(self, spec: ArchSpec) -> float:
        """Hot median of one forward pass of `spec`, ids to logits, in units of the reference kernel."""
        total = self.rest
        for layer in spec.layers:
            if layer.has_attention:
                total += self.attention[layer.heads]
            if layer.has_ffn:
                total += self.ffn[ffn_level(layer.ffn)]
        return total

    def to_json(self) -> dict[str, Any]:
        measured = {name: list(pair) for name, pair in self.measured_us.items()}
        return asdict(self) | {"attention": list(self.attention), "ffn": list(self.ffn), "measured_us": measured}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LatencyProfile:
        values = strict_keys(cls, data)
        key_values = strict_keys(ProfileKey, values["key"])
        key = ProfileKey(**{**key_values, "dims": Dims.from_json(key_values["dims"])})
        measured = {name: (float(pair[0]), float(pair[1])) for name, pair in values.get("measured_us", {}).items()}
        attention, ffn = tuple(values["attention"]), tuple(values["ffn"])
        return cls(**{**values, "key": key, "attention": attention, "ffn": ffn, "measured_us": measured})


def setting_name(scope: str, condition: str, statistic: str) -> str:
    return f"{scope}/{condition}/{statistic}"


def ffn_level(rows: int) -> int:
    """Level of a number of FFN rows: whole tiles, a last part of one counting as a tile."""
    return -(-rows // TILE)


def level_rows(level: int, dims: Dims) -> int:
    """FFN rows of a level."""
    return min(level * TILE, dims.ffn)


def record(key: ProfileKey, config: EncoderConfig, on_progress: Progress | None = None) -> LatencyProfile:
    """Measures a profile: sub-layers inside forward passes of encoders in which every level occurs.

    Timed inside the whole pass, a sub-layer finds the caches as its neighbours left them. Takes some ten seconds for
    a MiniLM-L6 at 48 tokens.
    """
    specs = _covering_specs(key.dims, np.random.default_rng(0))
    attention: dict[int, list[float]] = {level: [] for level in range(1, key.dims.heads + 1)}
    ffn: dict[int, list[float]] = {level: [] for level in range(1, ffn_level(key.dims.ffn) + 1)}
    rest: list[float] = []
    references: list[float] = []
    batch = random_batch(config, key.batch, key.tokens)
    with pinned(key.threads):
        reference = ReferenceKernel()
        for done, spec in enumerate(specs * _PASSES):
            sample = _time_spec(Engine(config, random_weights(config, spec), key.threads), batch, reference)
            references.append(sample.reference_us)
            parts = sample.parts
            for index, layer in enumerate(spec.layers):
                if layer.has_attention:
                    attention[layer.heads].append(parts[1 + 2 * index])
                if layer.has_ffn:
                    ffn[ffn_level(layer.ffn)].append(parts[2 + 2 * index])
            rest.append(sample.total - parts[1:-1].sum())
            if on_progress:
                on_progress(done + 1, len(specs) * _PASSES)
    return LatencyProfile(
        key,
        reference_us=float(np.median(references)),
        rest=float(np.median(rest)),
        attention=(0.0, *(float(np.median(attention[level])) for level in sorted(attention))),
        ffn=(0.0, *(float(np.median(ffn[level])) for level in sorted(ffn))),
    )


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


@dataclass(frozen=True)
class _Sample:
    """One encoder's forward pass in units of the reference kernel; `parts` [2 * layers + 2] as `Engine.timed`."""

    parts: NDArray[np.float64]
    total: float
    reference_us: float


def _time_spec(engine: Engine, batch: Ragged, reference: ReferenceKernel) -> _Sample:
    time_calls(partial(engine.timed, batch), 2)
    before = time_calls(reference.run, 4)
    passes = np.empty((_FORWARDS, 2 * len(engine.spec.layers) + 3))
    for done in range(_FORWARDS):
        start = time.perf_counter_ns()
        parts = engine.timed(batch)[1]
        passes[done] = (*parts, (time.perf_counter_ns() - start) / 1e3)
    unit = float(np.median(np.concatenate((before, time_calls(reference.run, 4)))))
    units = np.median(passes, axis=0) / unit
    return _Sample(units[:-1], float(units[-1]), unit)


def _covering_specs(dims: Dims, rng: np.random.Generator) -> list[ArchSpec]:
    """Specs in which every level of every sub-layer occurs at least three times, and the sizes from floor to full."""
    levels = ffn_level(dims.ffn)
    count = -(-3 * max(levels, dims.heads) // dims.layers)
    heads = (1 + _shuffled_levels(dims.heads, count * dims.layers, rng)).reshape(count, dims.layers).tolist()
    ffn = (1 + _shuffled_levels(levels, count * dims.layers, rng)).reshape(count, dims.layers).tolist()
    specs = [ArchSpec.of(dims, h, [level_rows(t, dims) for t in f]) for h, f in zip(heads, ffn, strict=True)]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        rows = level_rows(round(share * levels), dims)
        specs.append(ArchSpec.of(dims, [round(share * dims.heads)] * dims.layers, [rows] * dims.layers))
    return specs


def _shuffled_levels(levels: int, slots: int, rng: np.random.Generator) -> NDArray[np.int64]:
    repeats = -(-slots // levels)
    return np.concatenate([rng.permutation(levels) for _ in range(repeats)])[:slots]


def _noise(count: int) -> NDArray[np.float32]:
    """`count` values of the size that trained weights have, from a short stretch of random ones."""
    stretch = np.random.default_rng(0).normal(0.0, 0.05, 65_521).astype(np.float32)
    return np.resize(stretch, count)
