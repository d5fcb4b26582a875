"""Milliseconds that a proposal of `ReinforcedEvolutionSampler` takes, beside Optuna's TPE, in studies of several sizes.

python bench/sampler.py --json      into bench/results/sampler.json, in two minutes
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, TPESampler
from provenance import provenance
from search import RESULTS

from prunetime.core.artifact import write_json
from prunetime.search.samplers import ReinforcedEvolutionSampler

RANDOM = 32
"""The first trials of a study are drawn at random, and not timed."""

STUDIES = {
    "1 float": (1, 300, False),
    "10 floats": (10, 300, False),
    "10 floats, 1000 trials": (10, 1000, False),
    "30 integers below 2^31": (30, 300, True),
    "100 floats": (100, 300, False),
}
"""Parameters, trials, and whether the parameters are integers."""


def value(trial: optuna.Trial, parameters: int, integers: bool) -> float:
    """The distance from the middle of all ranges."""
    names = [f"x{i}" for i in range(parameters)]
    if integers:
        return sum(abs(trial.suggest_int(name, 0, 2**31 - 1) / 2**30 - 1.0) for name in names)
    return sum(abs(trial.suggest_float(name, -1.0, 1.0)) for name in names)


def proposals_ms(sampler: BaseSampler, parameters: int, trials: int, integers: bool) -> list[float]:
    """The time from `ask` until all parameters have values, for each trial after the random ones."""
    study = optuna.create_study(sampler=sampler)
    took = []
    for _ in range(trials):
        start = time.perf_counter()
        trial = study.ask()
        found = value(trial, parameters, integers)
        took.append(1e3 * (time.perf_counter() - start))
        study.tell(trial, found)
    return took[RANDOM:]


def row(make: Callable[[], BaseSampler], study: tuple[int, int, bool]) -> dict[str, float]:
    took = proposals_ms(make(), *study)
    median, p90 = np.percentile(took, (50, 90)).tolist()
    return {"mean_ms": float(np.mean(took)), "median_ms": median, "p90_ms": p90, "max_ms": max(took)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help=f"write {RESULTS.name}/sampler.json and print it")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    proposals_ms(ReinforcedEvolutionSampler(seed=0), 1, RANDOM + 16, False)  # torch and BLAS start
    found: dict[str, Any] = {}
    for name, study in STUDIES.items():
        found[name] = {"ours": row(lambda: ReinforcedEvolutionSampler(seed=0), study)}
        found[name]["tpe"] = row(lambda: TPESampler(seed=0), study)
        if not options.json:
            print(name, *(f"{who} {one['mean_ms']:.1f} (p90 {one['p90_ms']:.1f})" for who, one in found[name].items()))
    if options.json:
        result = {**provenance(), "proposals": found}
        write_json(RESULTS / "sampler.json", result)
        print(json.dumps(result))


if __name__ == "__main__":
    main()
