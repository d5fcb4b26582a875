"""Requests a second with a p99 of at most 10 ms of this build of the server and of another, in turns.

    python bench/serve_builds.py --other FOLDER/.venv/bin/python --artifact A [A ...] --json

FOLDER is a checkout of the other build with an environment of its own (`make .venv/dev`). Requests are single pairs
that come at random (Poisson); a server has the first core, the load the second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from provenance import provenance
from serve import pairs
from serve_load import Crowd, load, request
from serve_rivals import Rival, started

from prunetime.artifact import write_json

RESULT = Path(__file__).parent / "results" / "serve_builds.json"

P99_MS = 10.0
ROUNDS = 5


def measured(rival: Rival) -> float:
    rival.signal(signal.SIGCONT)
    full = asyncio.run(load(rival.port, rival.asks, Crowd(8), 2.0))
    rate = rival.rate_within(P99_MS, len(full.seconds) / 2.0)
    rival.signal(signal.SIGSTOP)
    return rate


def compared(artifact: Path, pythons: dict[str, str]) -> dict[str, Any]:
    asks = [request("/predict", {"inputs": list(pair)}) for pair in pairs(2_000)]
    rates: dict[str, list[float]] = {name: [] for name in pythons}
    with ExitStack() as stack:
        rivals = []
        for name, python in pythons.items():
            words = (python, "-m", "prunetime", "serve", f"m={artifact}", "--port", "PORT", "--cache-mb", "0")
            rivals.append(started(name, words, asks))
            stack.callback(rivals[-1].signal, signal.SIGKILL)
        for turn in range(ROUNDS):
            for rival in rivals if turn % 2 else reversed(rivals):
                rates[rival.name].append(measured(rival))
    ratios = np.divide(rates["this"], rates["other"])
    medians = {f"{name}_per_s": float(np.median(found)) for name, found in rates.items()}
    return {"artifact": str(artifact)} | medians | {"ratio": float(np.median(ratios)), "ratios": ratios.tolist()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", type=Path, nargs="+", required=True)
    parser.add_argument("--other", required=True, help="python of the other build")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    pythons = {"this": sys.executable, "other": options.other}
    found = provenance() | {"models": [compared(artifact, pythons) for artifact in options.artifact]}
    write_json(RESULT, found)
    print(json.dumps(found) if options.json else json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
