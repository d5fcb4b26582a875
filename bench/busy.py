"""What other processes do to the latency of a dense model: by the clock, and by the process's own time.

python bench/busy.py --model minilm --others 0,2,4,8 --json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from provenance import provenance

from prunetime.cli.runs import minilm_folder
from prunetime.core.arch import ArchSpec
from prunetime.core.artifact import write_json
from prunetime.inference.engine import Engine, ReferenceKernel
from prunetime.latency.measure import Samples, pinned, ratio, run_rounds, summarise
from prunetime.latency.profiling import at_one_clock
from prunetime.latency.synthetic import random_batch, random_weights
from prunetime.models import families

RESULTS = Path(__file__).parent / "results"
SPIN = "while True: pass"
LENGTH, ROUNDS, CALLS = 32, 8, 12


def by_the_clock(samples: Samples) -> Samples:
    return Samples.of_wall(samples.wall_us)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="minilm", help="a folder, or minilm")
    parser.add_argument("--others", default="0,2,4,8", help="numbers of processes that spin beside")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    folder = str(minilm_folder()) if options.model == "minilm" else options.model
    config = families.load(folder, 1, kind="relevance").config
    heads, neurons = config.dims.heads // 2, config.dims.ffn // 2
    specs = {
        "dense": ArchSpec.full(config.dims),
        "half": ArchSpec.of(config.dims, [heads] * config.dims.layers, [neurons] * config.dims.layers),
    }
    batch, result = random_batch(config, 1, LENGTH), dict[str, Any]()
    for others in map(int, options.others.split(",")):
        beside = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(others)]
        try:
            with pinned(1):
                engines = {
                    name: Engine(config, random_weights(config, spec), spec=spec) for name, spec in specs.items()
                }
                calls: dict[str, Any] = {name: partial(engine.logits, batch) for name, engine in engines.items()}
                timed = run_rounds(calls | {"reference": ReferenceKernel().run}, ROUNDS, CALLS)
        finally:
            for process in beside:
                process.kill()
                process.wait()
        own, clock = at_one_clock(timed), {name: by_the_clock(samples) for name, samples in timed.items()}
        result[str(others)] = found = {
            "got": timed["dense"].got,
            "own_us": summarise(own["dense"]).p50_us,
            "clock_us": summarise(clock["dense"]).p50_us,
            "own_half": ratio(own["half"], own["dense"]).value,
            "clock_half": ratio(clock["half"], clock["dense"]).value,
            "reference_us": float(np.median(timed["reference"].own_us)),
        }
        print(
            f"{others} beside: got {found['got']:.0%}; dense {found['own_us']:,.0f} us of its own, "
            f"{found['clock_us']:,.0f} us by the clock; half of it {found['own_half']:.3f} and "
            f"{found['clock_half']:.3f} of that"
        )
    write_json(RESULTS / "busy.json", provenance() | {"length": LENGTH, "result": result})
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
