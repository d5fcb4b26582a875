"""The engine against its rivals: every shape, precision and pruning of the target table, one fresh process per cell.

    python bench/engine.py [--models mini,minilm] [--cells 1x64,8x64] [--threads 1] [--against openvino]

Writes bench/results/engine.json after every cell, and docs/explanation/engine.svg; last prints what was reached of
each target. The same command goes on where it was stopped: what other machines measured is kept, and so are the cells
of this machine with this build of the engine. `floor_us` of our rows is the least time that this core's peaks allow
for their products, `vector_floor_us` that of the vector work beside it, `every_token_us` the least time for the
operations of all tokens in all layers (see `prunetime bench --roofline`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from provenance import commit

from prunetime.baselines import shapes
from prunetime.core.artifact import write_json, write_text
from prunetime.core.machine import this_machine
from prunetime.core.precision import PrecisionPlan
from prunetime.inference.engine import Engine, engine_build
from prunetime.latency.measure import pinned
from prunetime.latency.roofline import Peaks, measure_peaks, roofline
from prunetime.latency.synthetic import random_batch

RESULT = Path(__file__).parent / "results" / "engine.json"
PLOT = Path(__file__).parent.parent / "docs" / "explanation" / "engine.svg"
MODELS = ("mini", "minilm", "base")
CELLS = ("1x32", "1x64", "1x128", "8x64", "32x64")
VARIANTS = ("", "@blocks=0.2", "@blocks=0.2:32x16", "@heads=0.5,ffn=0.5")
"""Of every model; the rivals run the first, which is dense."""
AGAINST = "openvino,onnxruntime,ctranslate2,pytorch,pytorch-compiled"

SAME_ERROR = 1.2
"""Ours may be off by this much more than the rival it is compared with."""
HIGHEST_FLOOR = 1.1
"""A floor of so many times what is measured comes from a peak that is too low."""
ROUNDING = 1e-4
"""Errors below this are all float32's rounding of logits of order one, and count as equal."""

Row = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=_names(MODELS), default=MODELS)
    parser.add_argument("--cells", type=_names(CELLS), default=CELLS, help="batch x tokens")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--against", default=AGAINST)
    options = parser.parse_args()
    machines = _resumed()
    result = machines[-1]
    failed = []
    for model in options.models:
        for cell in options.cells:
            key = f"{model} {cell} {options.threads}"
            if key in result["cells"]:
                continue
            print(key, file=sys.stderr, flush=True)
            measured = _measure(model, cell, options.threads, options.against)
            if measured is None:
                failed.append(key)
                continue
            add_floors(measured["rows"])
            result["cells"][key] = measured
            result["claims"] = [claim for name, found in result["cells"].items() for claim in claims(name, found)]
            write_json(RESULT, {"machines": machines})
            write_text(PLOT, plot(machines))
    print(table(result["claims"]))
    if failed:
        print(f"failed (the same command tries them again): {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def add_floors(rows: Sequence[Row]) -> None:
    """Gives our rows `floor_us`, `vector_floor_us` and `every_token_us`; raises SystemExit for a floor too high."""
    peaks: dict[str, Peaks] = {}
    for model, group in groupby([row for row in rows if row["engine"] == "prunetime"], key=lambda row: row["model"]):
        config, spec, weights = shapes.encoder(model)
        for row in group:
            engine = Engine(config, weights, spec=spec, plan=PrecisionPlan.uniform(row["precision"]))
            if engine.isa not in peaks:
                with pinned(1):
                    peaks[engine.isa] = measure_peaks(engine.isa)
            batch = random_batch(config, row["batch"], row["seq_len"])
            no_time = np.zeros((2, 2, 2 * config.dims.layers + 2))
            found = roofline(engine, batch, no_time, peaks[engine.isa])
            row |= {"floor_us": found.total.floor_us, "vector_floor_us": found.total.vector_us}
            row |= {"every_token_us": found.every_token.products_us}
            if row["floor_us"] > HIGHEST_FLOOR * row["p50_us"]:
                raise SystemExit(
                    f"{model} {row['precision']}: a floor of {row['floor_us']:.0f} us, and {row['p50_us']:.0f} measured"
                )


def plot(machines: Iterable[Row]) -> str:
    """Bars of every cell on one thread, as SVG: how many times faster than the fastest rival ours is."""
    bars = []
    for key, cell in (item for result in machines for item in result["cells"].items()):
        model, shape, threads = key.split()
        rival = _fastest(_rivals(cell))
        if threads != "1" or not rival:
            continue
        for variant, label in (("", "dense"), (VARIANTS[1], "20 % of blocks"), (VARIANTS[3], "half")):
            if best := _fastest(_as_exact(_of(cell["rows"], "prunetime", model + variant), rival)):
                name = f"{best['isa']}: {model} {shape} {label}, {best['precision']}"
                bars.append((name, rival["p50_us"] / best["p50_us"]))
    height, unit = 18, 70
    lines = []
    for i, (label, ratio) in enumerate(bars):
        y = 30 + height * i
        lines += [
            f'<text x="305" y="{y + 12}" text-anchor="end">{label}</text>',
            f'<rect x="310" y="{y}" width="{unit * ratio:.0f}" height="{height - 4}" fill="#3b6ea5"/>',
            f'<text x="{315 + unit * ratio:.0f}" y="{y + 12}">{ratio:.2f}</text>',
        ]
    style = "font: 12px sans-serif; background: white"
    title = "Times faster than the fastest rival (dense, in any of its precisions) of the same error; one thread"
    size = f'width="800" height="{40 + height * len(bars)}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} style="{style}">'
    return "\n".join([head, f'<text x="10" y="18">{title}</text>', *lines, "</svg>\n"])


def claims(key: str, cell: Row) -> list[Row]:
    """What one cell says of each target: `claim`, `value`, `target`, `met`, and which precision of ours it is."""
    model, shape, _ = key.split()
    small, single = model != "base", shape.startswith("1x")
    rows = cell["rows"]
    ours = {variant: _of(rows, "prunetime", model + variant) for variant in VARIANTS}
    rivals = _rivals(cell)
    found = []

    def claim(what: str, row: Row, value: float, target: float, most: bool = False) -> None:
        met = value <= target if most else value >= target
        found.append({"cell": key, "claim": what, "precision": row["precision"], "value": value} |
                     {"target": target, "met": met, "noisy": row["noisy"]})  # fmt: skip

    for rival in rivals:
        target = _dense_target(rival["precision"], small, single)
        if best := _fastest(_as_exact(ours[""], rival)):
            name = f"dense over {rival['engine']} {rival['precision']}"
            claim(name, best, rival["p50_us"] / best["p50_us"], target)
    if rivals:
        first = _fastest(rivals)
        for variant in VARIANTS[1:3]:
            if best := _fastest(_as_exact(ours[variant], first)):
                target = (5.0 if small else 6.0) if single else 3.0
                name = f"{variant} over {first['engine']} {first['precision']}"
                claim(name, best, first["p50_us"] / best["p50_us"], target)
        floats = [row for row in rivals if (row["engine"], row["precision"]) == ("openvino", "fp32")]
        for rival, row in ((rival, row) for rival in floats for row in ours["@blocks=0.2"]):
            if row["precision"] == "fp32":
                claim("@blocks=0.2 fp32 over openvino fp32", row, rival["p50_us"] / row["p50_us"], 3.5)
    for dense in ours[""]:
        for variant, target in ((VARIANTS[1], 3.69 if single else 3.0), (VARIANTS[3], 0.60 if single else 0.58)):
            for row in ours[variant]:
                if row["precision"] == dense["precision"]:
                    halved, share = variant == VARIANTS[3], row["p50_us"] / dense["p50_us"]
                    name = f"{variant} {'of' if halved else 'over'} our dense {row['precision']}"
                    if halved or not small:
                        claim(name, row, share if halved else 1.0 / share, target, most=halved)
    for dense in (row for row in ours[""] if (row["isa"], row["precision"]) == ("avx2", "fp32")):
        claim("dense fp32 over FLOPs / AVX2 peak", dense, dense["p50_us"] / dense["every_token_us"], 1.3, most=True)
        for row in (row for row in ours[VARIANTS[1]] if row["precision"] == "fp32"):
            claim(f"{VARIANTS[1]} over our dense AVX2 fp32", row, dense["p50_us"] / row["p50_us"], 3.0)
    return found


def _dense_target(precision: str, small: bool, single: bool) -> float:
    if precision == "fp32":
        return 1.0
    if not small:
        return 1.7 if single else 1.5
    return {"int8": 2.5, "bf16": 2.2}[precision] if single else 1.8


def table(found: Iterable[Row]) -> str:
    lines = [
        f"{row['cell']:18}{row['claim']:46}{row['precision']:6}{row['value']:7.2f}{row['target']:7.2f}  "
        f"{'met' if row['met'] else 'not met'}{' (noisy)' if row['noisy'] else ''}"
        for row in found
    ]
    return "\n".join([f"{'cell':18}{'claim':46}{'ours':6}{'value':>7}{'target':>7}", *lines])


def _as_exact(ours: Iterable[Row], rival: Row) -> list[Row]:
    limit = max(SAME_ERROR * rival["max_logit_error"], ROUNDING)
    return [row for row in ours if row["max_logit_error"] <= limit]


def _fastest(rows: Sequence[Row]) -> Row:
    return min(rows, key=lambda row: row["p50_us"], default={})


def _rivals(cell: Row) -> list[Row]:
    return [row for row in cell["rows"] if row["engine"] != "prunetime" and "refused" not in row]


def _of(rows: Iterable[Row], engine: str, model: str) -> list[Row]:
    return [row for row in rows if (row["engine"], row["model"]) == (engine, model)]


def _measure(model: str, cell: str, threads: int, against: str) -> Row | None:
    batch, seq_len = cell.split("x")
    setting = ["--batch", batch, "--seq-len", seq_len, "--threads", str(threads)]
    arguments = ["bench", *(model + variant for variant in VARIANTS), *setting, "--against", against, "--json"]
    ran = subprocess.run([sys.executable, "-m", "prunetime", *arguments], stdout=subprocess.PIPE, text=True)
    if ran.returncode:
        return None
    rows = json.loads(ran.stdout.strip().splitlines()[-1])["rows"]
    return {"command": " ".join(["prunetime", *arguments]), "commit": commit(), "rows": rows}


def _resumed() -> list[Row]:
    """What every machine measured so far; last comes this one, from the start if that was another build."""
    machine, engine = this_machine().to_json(), engine_build()
    machines: list[Row] = json.loads(RESULT.read_text(encoding="utf-8"))["machines"] if RESULT.is_file() else []
    here = {"machine": machine, "engine": engine, "command": "bench/engine.py", "cells": {}, "claims": []}
    for result in machines:
        if (result["machine"]["id"], result["engine"]) == (machine["id"], engine):
            here = result
    return [*(result for result in machines if result["machine"]["id"] != machine["id"]), here]


def _names(known: Sequence[str]) -> Any:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
        return names

    return parse


if __name__ == "__main__":
    sys.exit(main())
