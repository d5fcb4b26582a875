"""The search against its rivals on real elastic scores: MiniLM-L6 on Home Depot, all at equal numbers of evaluations.

    python bench/search.py --collect FOLDER                                 the table: all that home_depot.py scored
    python bench/search.py --surrogate --seeds 10 --evaluations 200 --json  compare methods on a model of the table

The table (bench/results/search_table.jsonl, with the latency profile and the importance beside it) is all that the
comparison needs.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from home_depot_data import MARGIN, SHARES, Prepared
from numpy.typing import NDArray
from provenance import provenance
from scipy.stats import binomtest
from search_methods import ABLATIONS, METHODS, Method, Problem
from search_surrogate import Surrogate, error

from prunetime.core.artifact import write_json
from prunetime.core.budget import Budget
from prunetime.core.mask import Scores
from prunetime.latency.predictor import LatencyProfile
from prunetime.pipeline.run import digest_of
from prunetime.pruning.importance import load_scores
from prunetime.search.archive import Archive, Evaluation
from prunetime.search.space import Genome, Space

RESULTS = Path(__file__).parent / "results"
TABLE, PROFILE, SCORES = (
    RESULTS / f"search_{name}" for name in ("table.jsonl", "profile.json", "importance.safetensors")
)
MODEL = "l6"


def collect(folder: Path) -> None:
    """Makes the table of what `bench/home_depot.py` scored by AUC, with the latency profile and the importance."""
    prepared, found = Prepared(folder, MODEL), dict[Genome, Evaluation]()
    for file in sorted((folder / "runs").glob(f"{MODEL}-*-auc-*.json")):
        run = json.loads(file.read_text())
        found |= {e.genome: e for e in map(Evaluation.from_json, run["evaluations"])}
    TABLE.unlink(missing_ok=True)
    with Archive(TABLE, digest_of([folder.name, MODEL, len(found)])) as table:
        for evaluation in found.values():
            table.add(evaluation)
    for name, kept in (("profile.json", PROFILE), ("importance.safetensors", SCORES)):
        shutil.copyfile(prepared.path(name), kept)


def compare(seeds: Sequence[int], evaluations: int, methods: Mapping[str, Method]) -> dict[str, Any]:
    """Every method from every seed at every budget, on a surrogate of the table."""
    table = recorded_table()
    world = recorded_world(table)
    jobs = [(world, share, name, seed, evaluations) for share in SHARES for name in methods for seed in seeds]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        found = dict(zip([job[1:4] for job in jobs], pool.map(_run, jobs), strict=True))
    result: dict[str, Any] = {}
    for share in SHARES:
        of_share = {name: np.array([found[share, name, seed][0] for seed in seeds]) for name in methods}
        result[f"{share:.2f}"] = summary(of_share, evaluations)
        for name, row in result[f"{share:.2f}"]["methods"].items():
            row["winners"] = [found[share, name, seed][1] for seed in seeds]
    holm(result)
    return result | {"surrogate": error(world.space.levels, table)}


def recorded_table() -> list[Evaluation]:
    with Archive(TABLE, json.loads(TABLE.read_text().splitlines()[0])["digest"]) as archive:
        return list(archive)


def recorded_world(table: Sequence[Evaluation]) -> World:
    """A surrogate of the `table`, with the profile and the importance that were recorded beside it."""
    latency = LatencyProfile.from_json(json.loads(PROFILE.read_text()))
    space = Space(latency.key.dims)
    surrogate = Surrogate.fitted(space.levels, table, seed=1)
    budget = Budget(share=1.0, seq_len=latency.key.tokens)
    return World(space, latency, budget, surrogate, load_scores(SCORES, space.dims))


@dataclass(frozen=True)
class World:
    """What a worker process needs to make the problem of a budget."""

    space: Space
    latency: LatencyProfile
    budget: Budget
    surrogate: Surrogate
    importance: Scores

    def problem(self, share: float) -> Problem:
        cached = lru_cache(maxsize=None)(lambda genome: self.latency.predict(self.space.spec(genome), self.budget))
        dense_us = self.latency.floor_and_dense(self.budget)[1]
        return Problem(self.space, cached, self.surrogate, self.importance, share * MARGIN * dense_us)


def _run(job: tuple[World, float, str, int, int]) -> tuple[list[float], Genome]:
    """The best score inside the budget after every evaluation, and the best genome after so many. Evolution, which is
    the reference, goes on for as many again."""
    world, share, name, seed, evaluations = job
    torch.set_num_threads(1)
    problem = world.problem(share)
    count = 2 * evaluations if name == "evolution" else evaluations
    found = (METHODS | ABLATIONS)[name](problem, seed, count)
    scores = [e.score if e.predicted_us <= problem.budget_us else -np.inf for e in found]
    best = np.maximum.accumulate(scores)
    winner = found[int(np.argmax(scores[:evaluations]))].genome
    return np.pad(best, (0, count - len(best)), mode="edge").tolist(), winner


def summary(curves: Mapping[str, NDArray[np.float64]], evaluations: int) -> dict[str, Any]:
    """Of curves [seeds, evaluations] by method."""
    reference = curves["evolution"][:, -1].mean()
    methods, p_values = {}, {}
    for name, curve in curves.items():
        best = curve[:, evaluations - 1]
        half = 1.96 * best.std(ddof=1) / np.sqrt(len(best)) if len(best) > 1 else np.nan
        reached = np.flatnonzero(curve.mean(0) >= reference)
        methods[name] = {
            "mean_best": best.mean(),
            "ci95": [best.mean() - half, best.mean() + half],
            "evaluations_to_reference": int(reached[0]) + 1 if len(reached) else None,
        }
        if name != "ours":
            difference = curves["ours"][:, evaluations - 1] - best
            # A tie counts half for either side.
            wins = int(np.floor((difference > 0).sum() + 0.5 * (difference == 0).sum()))
            p_values[name] = binomtest(wins, len(difference)).pvalue
    return {"methods": methods, "sign_test": p_values, "reference": reference}


def holm(result: dict[str, Any]) -> None:
    """Corrects the p-values of every rival over the budgets (Holm, 1979)."""
    for name in next(iter(result.values()))["sign_test"]:
        tests = [found["sign_test"] for found in result.values()]
        largest = 0.0
        for rank, test in enumerate(sorted(tests, key=lambda test: test[name])):
            largest = max(largest, min(1.0, (len(tests) - rank) * test[name]))
            test[name] = largest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collect", type=Path, metavar="FOLDER", help="that bench/home_depot.py worked in")
    parser.add_argument("--surrogate", action="store_true")
    parser.add_argument("--ablations", action="store_true", help="compare the parts of our method as well")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=100, help="those below were used to tune the policy")
    parser.add_argument("--evaluations", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.collect:
        collect(options.collect)
    if options.surrogate:
        seeds = range(options.first_seed, options.first_seed + options.seeds)
        result = compare(seeds, options.evaluations, METHODS | ABLATIONS if options.ablations else METHODS)
        for share, found in ((name, found) for name, found in result.items() if "methods" in found):
            for name, row in found["methods"].items():
                low, high = row["ci95"]
                reached, p = row["evaluations_to_reference"] or "-", found["sign_test"].get(name, 1.0)
                print(f"{share} {name:14}{row['mean_best']:9.4f}   {low:.4f} to {high:.4f}   {reached:>5}   p {p:.4f}")
        print(result["surrogate"])
        write_json(RESULTS / "search_surrogate.json", provenance() | {"result": result})
        if options.json:
            print(json.dumps(result))


if __name__ == "__main__":
    main()
