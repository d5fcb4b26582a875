"""`prunetime bench --roofline`: measures, and shows as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prunetime.baselines.case import BenchmarkCase
from prunetime.core.budget import Budget
from prunetime.core.precision import Precision, PrecisionPlan
from prunetime.inference.engine import Engine
from prunetime.latency.measure import pinned
from prunetime.latency.roofline import Peaks, Roofline, RooflineRow, measure_peaks, roofline, time_passes
from prunetime.latency.synthetic import random_batch

_WORK = {
    "gelu_fp32": "GELU",
    "gelu_bf16": "GELU to bf16",
    "softmax": "softmax",
    "norm": "LayerNorm",
    "encode_bf16": "rounding to bf16",
    "encode_int8": "rounding to int8",
}


def measure(case: BenchmarkCase, budget: Budget, precisions: Sequence[Precision]) -> tuple[dict[str, Any], str]:
    """This core's peaks, and the table of `case` in each of `precisions`: as one object, and as text."""
    batch = random_batch(case.config, budget.batch, budget.seq_len)
    engines = {
        precision: Engine(case.config, case.weights, spec=case.spec, plan=PrecisionPlan.uniform(precision))
        for precision in precisions
    }
    with pinned(1):
        peaks = measure_peaks(engines[precisions[0]].isa)
        passes = time_passes(list(engines.values()), batch)
    tables = {
        precision: roofline(engine, batch, times, peaks)
        for (precision, engine), times in zip(engines.items(), passes, strict=True)
    }
    setting = {"model": case.name, "batch": budget.batch, "seq_len": budget.seq_len}
    result = setting | {
        "peaks": peaks.to_json(),
        "tables": {precision: table.to_json() for precision, table in tables.items()},
    }
    title = f"{case.name}, {budget.batch}x{budget.seq_len}"
    texts = [
        _table(f"{title}, {precision}{' (noisy)' if table.noisy else ''}", table) for precision, table in tables.items()
    ]
    return result, "\n\n".join([_peaks(peaks), *texts])


def _peaks(peaks: Peaks) -> str:
    operations = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in peaks.operations.items())
    reading = ", ".join(f"{level.name} {level.bytes_per_second / 1e9:.0f}" for level in peaks.levels)
    numbers = ", ".join(f"{_WORK[name]} {rate / 1e9:.1f}" for name, rate in peaks.numbers.items())
    return (
        f"one core, {peaks.isa}\n  multiplying and adding, G operations/s: {operations}\n"
        f"  reading, GB/s: {reading}\n  vector work, G numbers/s: {numbers}"
    )


def _table(title: str, table: Roofline) -> str:
    header = f"{title}\n{'us':>23}{'products':>10}{'core':>8}{'floor':>9}{'ratio':>7}{'vector':>8}{'with it':>9}  bound"
    return "\n".join([header, *(_line(row) for row in (*table.rows, table.total, table.every_token))])


def _line(row: RooflineRow) -> str:
    ratio = f"{row.ratio:7.2f}" if row.ratio else f"{'':7}"
    return (
        f"{row.name:14}{row.us:9.1f}{row.products_us:10.1f}{row.core_us:8.1f}{row.floor_us:9.1f}{ratio}"
        f"{row.vector_us:8.1f}{row.ratio_with_vector:9.2f}  {row.bound}"
    )
