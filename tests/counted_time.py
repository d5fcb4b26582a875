"""Time that passes by what engines do, not by how long they take: a latency is then the same however busy a machine is.

The engines are the real ones. The clock that latency is read off stands still, but for every forward pass (by the
operations that `latency.work` counts in it), every text that is tokenised and every pause.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from prunetime.inference.engine import Engine
from prunetime.inference.ragged import Ragged
from prunetime.inference.tokenize import Texts, Tokenizer
from prunetime.latency import measure
from prunetime.latency.work import SublayerWork, work

Replace = Callable[[Any, str, object], None]
"""`setattr`, or that of a monkeypatch."""

OPERATIONS_A_US = {"fp32": 10_000, "bf16": 20_000, "int8": 40_000}
NUMBERS_A_US = 1_000
SUBLAYER_US = 1.0
REFERENCE_US = 300.0
TOKEN_US = 1.0
READING_US = 0.01
"""Reading the clock takes a while, so that nothing is timed as 0."""


class CountedTime:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self._ns = 0

    def spend(self, us: float) -> float:
        """Lets time pass for `us` of work. Returns the microseconds that passed on the clock."""
        self._ns += round(1e3 * us)
        return us

    def perf_counter_ns(self) -> int:
        self.spend(READING_US)
        return self._ns

    def thread_time_ns(self) -> int:
        return self._ns

    def involuntary_switches(self) -> int:
        return 0

    def monotonic(self) -> float:
        return self.perf_counter_ns() / 1e9

    def sleep(self, seconds: float) -> None:
        self.spend(1e6 * seconds)


class BusyTime(CountedTime):
    """Time on a core that this process shares: after each slice of its own, `others` have one each."""

    def __init__(self, others: int, slice_us: float = 3_000.0) -> None:
        super().__init__()
        self._others, self._slice_us = others, slice_us
        self._own_us, self._switches = 0.0, 0

    def spend(self, us: float) -> float:
        before, self._own_us = self._own_us, self._own_us + us
        slices = int(self._own_us // self._slice_us - before // self._slice_us)
        self._switches += slices
        return super().spend(us + slices * self._others * self._slice_us)

    def thread_time_ns(self) -> int:
        return round(1e3 * self._own_us)

    def involuntary_switches(self) -> int:
        return self._switches

    def sleep(self, seconds: float) -> None:
        super().spend(1e6 * seconds)


def _us(part: SublayerWork) -> float:
    operations = sum(product.operations / OPERATIONS_A_US[product.precision] for product in part.products)
    core = part.core / OPERATIONS_A_US[part.core_precision]
    return SUBLAYER_US + operations + core + sum(part.numbers.values()) / NUMBERS_A_US


class _Costs:
    """Microseconds of the sub-layers of a pass, [2 * layers + 2]; counted once for every engine and shape of batch."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[Engine, dict[bytes, NDArray[np.float64]]] = WeakKeyDictionary()

    def of(self, engine: Engine, batch: Ragged) -> NDArray[np.float64]:
        known = self._known.setdefault(engine, {})
        shape = batch.lengths.tobytes()
        if shape not in known:
            known[shape] = np.zeros(2 * len(engine.spec.layers) + 2)
            for part in work(engine, batch):
                known[shape][part.slot] = _us(part)
        return known[shape]


def count_passes(clock: CountedTime, replace: Replace = setattr) -> None:
    """Makes `measure` read `clock`, and engines and tokenizers spend it."""
    costs, logits, timed, encode = _Costs(), Engine.logits, Engine.timed, Tokenizer.encode

    @wraps(logits)
    def counted_logits(self: Engine, batch: Ragged) -> NDArray[np.float32]:
        found = logits(self, batch)
        clock.spend(costs.of(self, batch).sum())
        return found

    @wraps(timed)
    def counted_timed(self: Engine, batch: Ragged) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        found = timed(self, batch)[0]
        return found, np.array([clock.spend(us) for us in costs.of(self, batch)])

    @wraps(encode)
    def counted_encode(self: Tokenizer, texts: Sequence[Texts]) -> Ragged:
        found = encode(self, texts)
        clock.spend(TOKEN_US * len(found.ids))
        return found

    replace(measure, "time", clock)
    replace(measure, "involuntary_switches", clock.involuntary_switches)
    replace(Engine, "logits", counted_logits)
    replace(Engine, "timed", counted_timed)
    replace(Tokenizer, "encode", counted_encode)


def install(replace: Replace = setattr, clock: CountedTime | None = None) -> None:
    """Makes this process count time, by `clock` where one is given."""
    from prunetime.latency import profiling, recording, timing

    clock = clock or CountedTime()

    class CountedKernel(recording.ReferenceKernel):
        def run(self) -> None:
            super().run()
            clock.spend(REFERENCE_US)

    count_passes(clock, replace)
    for module in (profiling, recording, timing):
        replace(module, "time", clock)
    for module in (profiling, recording):
        replace(module, "ReferenceKernel", CountedKernel)


def install_for_command() -> None:
    """Makes this process count time, and the Python processes that it starts."""
    install()
    os.environ["PYTHONPATH"] = python_path()


def python_path() -> str:
    """The PYTHONPATH by which Python begins with `counted/sitecustomize.py`."""
    ours = (Path(__file__).with_name("counted"), Path(__file__).parent)
    return os.pathsep.join([*map(str, ours), *filter(None, [os.environ.get("PYTHONPATH")])])
