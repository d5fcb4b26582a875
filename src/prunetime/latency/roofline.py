"""The roofline: how far every sub-layer is from what one core's arithmetic and memory allow.

The floor of a matrix product is the larger of its operations over the rate of that arithmetic, and its weights over the
rate of the nearest cache that holds the weights of all matrices (Williams, Waterman, Patterson: "Roofline", CACM 52(4),
2009). Beside it stands the vector floor: GELU, softmax, LayerNorm and rounding at the rate of the engine's own code on
data in the L1 cache. Weights that almost fit a cache are partly read from it, which no floor here knows.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import prunetime._engine as _engine
from prunetime.core.arrays import Float64Array
from prunetime.core.precision import PRECISIONS
from prunetime.core.record import Record
from prunetime.inference.engine import Engine
from prunetime.inference.ragged import Ragged
from prunetime.latency.measure import Samples, calls_within, summarise, time_calls
from prunetime.latency.work import SublayerWork, work

_MEMORY_BYTES = 256 << 20
_ROUNDS, _SECONDS, _MOST_CALLS = 16, 0.1, 50


@dataclass(frozen=True)
class CacheLevel:
    """A cache of `size` bytes, or the memory (None), and the bytes per second at which it is read."""

    name: str
    size: int | None
    bytes_per_second: float


@dataclass(frozen=True)
class Peaks(Record):
    """The most that one core does in a second.

    `operations` are multiplications and additions by precision, `numbers` vector work by kind (as in `SublayerWork`),
    and `levels` the caches, smallest first, and the memory.
    """

    isa: str
    operations: Mapping[str, float]
    numbers: Mapping[str, float]
    levels: tuple[CacheLevel, ...]

    def level(self, size: int) -> CacheLevel:
        """The first level that holds `size` bytes."""
        return next(level for level in self.levels if level.size is None or size <= level.size)


@dataclass(frozen=True)
class RooflineRow:
    """Microseconds of a sub-layer, and the floors of its products with weights, of attention's core and of vector work.

    `bound` is what limits the products most: a precision, or the level from which weights are read.
    """

    name: str
    us: float
    products_us: float
    core_us: float
    vector_us: float
    bound: str

    @property
    def floor_us(self) -> float:
        return self.products_us + self.core_us

    @property
    def ratio(self) -> float | None:
        """Time over floor; none where nothing is multiplied."""
        return self.us / self.floor_us if self.floor_us else None

    @property
    def ratio_with_vector(self) -> float:
        """Time over the floor and the vector floor."""
        return self.us / (self.floor_us + self.vector_us)

    def to_json(self) -> dict[str, Any]:
        ratios = {"ratio": self.ratio, "ratio_with_vector": self.ratio_with_vector}
        return asdict(self) | {"floor_us": self.floor_us} | ratios


@dataclass(frozen=True)
class Roofline:
    """A row for each sub-layer that is there, and their `total`; `noisy` is as in `LatencySummary`, of whole passes.

    `every_token` is the total's time beside a floor that knows nothing of sub-layers: all tokens in all layers, and the
    larger of all their operations and all their weights, with the same vector floor. Attention's core counts there in
    the faster of fp32 and bf16, unless all matrices are fp32.
    """

    rows: tuple[RooflineRow, ...]
    total: RooflineRow
    every_token: RooflineRow
    noisy: bool

    def to_json(self) -> dict[str, Any]:
        totals = {"total": self.total.to_json(), "every_token": self.every_token.to_json()}
        return {"rows": [row.to_json() for row in self.rows], **totals, "noisy": self.noisy}


def measure_peaks(isa: str) -> Peaks:
    """The peaks of the instruction set `isa` on the core that this thread runs on; takes about two seconds.

    A cache is read in pieces of half its size, the memory in one of four times the largest cache (at most 256 MiB, and
    at least twice the cache).
    """
    numbers = _engine.peaks(isa)
    operations: dict[str, float] = {precision: 2.0 * numbers.pop(f"multiply_{precision}") for precision in PRECISIONS}
    found = caches()
    largest = max(found.values(), default=_MEMORY_BYTES // 4)
    beyond = max(2 * largest, min(4 * largest, _MEMORY_BYTES))
    levels = [CacheLevel(name, size, _engine.read_peak(isa, size // 2)) for name, size in found.items()]
    return Peaks(isa, operations, numbers, (*levels, CacheLevel("memory", None, _engine.read_peak(isa, beyond))))


def caches() -> dict[str, int]:
    """Bytes of the caches for data by name, smallest first, as Linux describes them; none where it does not."""
    folder = Path(f"/sys/devices/system/cpu/cpu{min(os.sched_getaffinity(0))}/cache")
    found = {}
    for index in folder.glob("index*"):
        level, kind, size = ((index / name).read_text(encoding="ascii").strip() for name in ("level", "type", "size"))
        if kind != "Instruction" and size.endswith("K"):
            found[f"L{level}"] = int(size[:-1]) << 10
    return dict(sorted(found.items(), key=lambda item: item[1]))


def time_passes(engines: Sequence[Engine], batch: Ragged) -> list[Float64Array]:
    """Microseconds of every sub-layer, [rounds, passes, 2 * layers + 2] of each engine, in interleaved rounds."""
    calls = [partial(engine.timed, batch) for engine in engines]
    counts = [calls_within(call, _SECONDS, _MOST_CALLS) for call in calls]
    samples: list[list[list[Float64Array]]] = [[] for _ in engines]
    for _ in range(_ROUNDS):
        for call, count, rounds in zip(calls, counts, samples, strict=True):
            time_calls(call, 2)
            rounds.append([call()[1] for _ in range(count)])
    return [np.array(rounds) for rounds in samples]


def roofline(engine: Engine, batch: Ragged, passes: Float64Array, peaks: Peaks) -> Roofline:
    """The table of `engine` for medians of `passes` of `batch`, which are as `time_passes` gives them."""
    parts = work(engine, batch)
    level = peaks.level(sum(part.weight_bytes for part in parts))
    medians = np.median(passes, axis=(0, 1))
    rows = tuple(_row(part, float(medians[part.slot]), peaks, level) for part in parts)
    us, products_us, core_us, vector_us = (
        sum(getattr(row, name) for row in rows) for name in ("us", "products_us", "core_us", "vector_us")
    )
    bound = max(rows, key=lambda row: row.products_us).bound
    total = RooflineRow("total", us, products_us, core_us, vector_us, bound)
    return Roofline(
        rows, total, _every_token(engine, batch, total, peaks), summarise(Samples.of_wall(passes.sum(axis=2))).noisy
    )


def _row(part: SublayerWork, us: float, peaks: Peaks, level: CacheLevel) -> RooflineRow:
    limits: dict[str, float] = {}
    for product in part.products:
        computed = product.operations / peaks.operations[product.precision]
        read = product.weight_bytes / level.bytes_per_second
        limit = product.precision if computed > read else level.name
        limits[limit] = limits.get(limit, 0.0) + 1e6 * max(computed, read)
    core_us = 1e6 * part.core / peaks.operations[part.core_precision]
    vector_us = sum(1e6 * count / peaks.numbers[kind] for kind, count in part.numbers.items())
    return RooflineRow(
        part.name, us, sum(limits.values()), core_us, vector_us, max(limits, key=limits.__getitem__, default="")
    )


def _every_token(engine: Engine, batch: Ragged, total: RooflineRow, peaks: Peaks) -> RooflineRow:
    layers = work(engine, batch, every_token=True)[1:-1]
    level = peaks.level(sum(part.weight_bytes for part in layers))
    products = [product for part in layers for product in part.products]
    narrow = any(product.precision != "fp32" for product in products)
    core = max(peaks.operations[precision] for precision in ("fp32", "bf16")[: 1 + narrow])
    computed = sum(product.operations / peaks.operations[product.precision] for product in products)
    computed += sum(part.core for part in layers) / core
    read = sum(part.weight_bytes for part in layers) / level.bytes_per_second
    bound = "operations" if computed > read else level.name
    return RooflineRow("every token", total.us, 1e6 * max(computed, read), 0.0, total.vector_us, bound)
