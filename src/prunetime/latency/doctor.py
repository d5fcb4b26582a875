"""A check-up of this machine: what it offers the engine, and whether timings can be trusted now."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prunetime.core.machine import Machine, memory_bytes, this_machine
from prunetime.inference.engine import ReferenceKernel, chosen_isa, supported_isas
from prunetime.latency.measure import pinned, run_rounds, summarise

ROUNDS, CALLS = 24, 120
"""Rounds and calls of the reference kernel, which take about a second."""

UNSTEADY = 1.5
"""A 99th percentile of so many medians comes from somebody else's work."""

BUSY = 0.05
"""The share of a core's time that other processes may have."""


@dataclass(frozen=True)
class Checkup:
    """The findings of a check-up.

    - `isas` are those that the engine has kernels for here, `isa` the one that it takes
    - `reference_us`: the median of a piece of work that is always the same; `unsteady` its 99th percentile over that,
      `interval` the width of its 95 % interval as a share of it
    - `stolen`: the share of this machine's time that its host gave to others; `others`, of a core's time, that other
      processes had
    - `doubts`: why timings cannot be trusted; where there are none, they can
    """

    machine: Machine
    isas: Sequence[str]
    isa: str
    memory_bytes: int
    reference_us: float
    unsteady: float
    interval: float
    stolen: float
    others: float
    doubts: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"machine": self.machine.to_json(), "trusted": not self.doubts}


def checkup() -> Checkup:
    """Measures for about a second. Raises EngineError where PRUNETIME_ISA names what this CPU does not run."""
    isa = chosen_isa()
    before = _ticks()
    began, own = time.monotonic(), time.process_time()
    with pinned(1):
        samples = run_rounds({"reference": ReferenceKernel().run}, ROUNDS, CALLS)["reference"]
    seconds, own = time.monotonic() - began, time.process_time() - own
    busy, stolen = (after - earlier for after, earlier in zip(_ticks(), before, strict=True))
    latency = summarise(samples)
    unsteady, interval = latency.p99_us / latency.p50_us, latency.p50.width
    stolen, others = stolen / (seconds * (os.cpu_count() or 1)), max(0.0, busy - own) / seconds
    possible = {
        f"medians of the same work differ by {interval:.0%} from round to round": latency.noisy,
        f"one call in a hundred takes {unsteady:.1f} times as long as most": unsteady > UNSTEADY,
        f"the host gives {stolen:.0%} of this machine's time to others": stolen > BUSY,
        f"other processes have {others:.0%} of a core: stop them, or time on a core of its own": others > BUSY,
    }
    doubts = [doubt for doubt, is_so in possible.items() if is_so]
    shares = (unsteady, interval, stolen, others)
    return Checkup(this_machine(), supported_isas(), isa, memory_bytes(), latency.p50_us, *shares, doubts)


def _ticks() -> tuple[float, float]:
    """Seconds of all cores together that were busy, and that the host took; 0 where the system does not say."""
    try:
        line = Path("/proc/stat").read_text().splitlines()[0]
    except OSError:
        return 0.0, 0.0
    # proc(5): user, nice, system, idle, iowait, irq, softirq, steal
    user, nice, system, _, _, irq, softirq, stolen = (float(word) for word in line.split()[1:9])
    each = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq) / each, stolen / each
