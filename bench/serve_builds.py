"""Requests a second with a p99 of at most 10 ms of this build of the server and of another, in turns.

    python bench/serve_builds.py --other FOLDER/.venv/bin/python --artifact A [A ...] --json

FOLDER is a checkout of the other build with an environment of its own (`make .venv/dev`). Requests are single pairs
that come at random (Poisson); a server has the first core, the load the second. At each of eight rates, in several
rounds: the share that is answered in time. The rate of 99 % lies between two of them.
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
from serve_rivals import CONNECTIONS, PROBE_SECONDS, Rival, started

from prunetime.core.artifact import write_json

RESULT = Path(__file__).parent / "results" / "serve_builds.json"

P99_MS = 10.0
ROUNDS = 5
STEPS = np.linspace(0.3, 1.0, 8)  # of what the faster build answers to a crowd that always waits
RESAMPLES = 2_000


def closed_loop(rival: Rival) -> float:
    """Requests a second of eight clients that each wait for their answer."""
    rival.signal(signal.SIGCONT)
    found = asyncio.run(load(rival.port, rival.asks, Crowd(8), PROBE_SECONDS))
    rival.signal(signal.SIGSTOP)
    return len(found.seconds) / PROBE_SECONDS


def shares_in_time(rival: Rival, rates: np.ndarray) -> list[float]:
    """The share of requests that are answered within the limit, at each rate."""
    rival.signal(signal.SIGCONT)
    tallies = [asyncio.run(load(rival.port, rival.asks, Crowd(CONNECTIONS, rate), PROBE_SECONDS)) for rate in rates]
    rival.signal(signal.SIGSTOP)
    return [
        sum(s <= P99_MS / 1e3 for s in tally.seconds) / (sum(tally.statuses.values()) + tally.lost) for tally in tallies
    ]


def rate_of_99_percent(rates: np.ndarray, shares: np.ndarray) -> float:
    """The rate at which 99 % are in time, between the steps, from the median share of all rounds at each step."""
    falling = np.minimum.accumulate(np.median(shares, axis=0))
    return float(np.interp(-0.99, -falling, rates))


def compared(artifact: Path, pythons: dict[str, str]) -> dict[str, Any]:
    asks = [request("/predict", {"inputs": list(pair)}) for pair in pairs(2_000)]
    shares: dict[str, list[list[float]]] = {name: [] for name in pythons}
    with ExitStack() as stack:
        rivals = []
        for name, python in pythons.items():
            words = (python, "-m", "prunetime", "serve", f"m={artifact}", "--port", "PORT", "--cache-mb", "0")
            rivals.append(started(name, words, asks))
            stack.callback(rivals[-1].signal, signal.SIGKILL)
        closed = {rival.name: closed_loop(rival) for rival in rivals}
        rates = STEPS * max(closed.values())
        for turn in range(ROUNDS):
            for rival in rivals if turn % 2 else reversed(rivals):
                shares[rival.name].append(shares_in_time(rival, rates))
    found = {name: np.array(rounds) for name, rounds in shares.items()}
    within = {name: rate_of_99_percent(rates, rounds) for name, rounds in found.items()}
    rng = np.random.default_rng(0)
    again = [
        rate_of_99_percent(rates, found["this"][drawn]) / rate_of_99_percent(rates, found["other"][drawn])
        for drawn in rng.integers(ROUNDS, size=(RESAMPLES, ROUNDS))
    ]
    return (
        {"artifact": str(artifact), "ratio": within["this"] / within["other"]}
        | {"ratio_90_percent": np.quantile(again, (0.05, 0.95)).tolist()}
        | {f"{name}_per_s": rate for name, rate in within.items()}
        | {f"{name}_closed_loop_per_s": rate for name, rate in closed.items()}
        | {"rates_per_s": rates.tolist()}
        | {f"{name}_in_time": rounds.tolist() for name, rounds in found.items()}
    )


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
