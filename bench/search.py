"""The search against its rivals on real elastic scores: MiniLM-L6 on Home Depot, all at equal numbers of evaluations.

    python bench/search.py --data FOLDER --out runs/search --record 500     score so many more genomes into the table
    python bench/search.py --surrogate --seeds 10 --evaluations 200 --json  compare methods on a model of the table

Recording is resumable: teacher, elastic encoder and table go on where they were stopped, and the table
(bench/results/search_table.jsonl, with the latency profile and the importance beside it) is all that the comparison
needs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from home_depot_data import LENGTH, settings_of
from numpy.typing import NDArray
from provenance import provenance
from scipy.stats import binomtest
from search_methods import ABLATIONS, METHODS, Method, Problem
from search_surrogate import Surrogate, error

from prunetime.artifact import write_json
from prunetime.budget import Budget
from prunetime.cli.progress import ConsoleReporter
from prunetime.cli.runs import minilm_folder
from prunetime.mask import Scores
from prunetime.pipeline import stages
from prunetime.pipeline.run import Run, digest_of
from prunetime.pipeline.settings import EFFORTS
from prunetime.pipeline.source import load_source
from prunetime.plan import Plan
from prunetime.pruning.importance import load_scores
from prunetime.runtime.latency import LatencyProfile
from prunetime.search.archive import Archive, Evaluation, preference
from prunetime.search.evaluate import ElasticScorer
from prunetime.search.space import Genome, Space, fit_to

RESULTS = Path(__file__).parent / "results"
TABLE, PROFILE, SCORES = (
    RESULTS / f"search_{name}" for name in ("table.jsonl", "profile.json", "importance.safetensors")
)
EFFORT = dataclasses.replace(EFFORTS["standard"], name="home_depot", teacher_rows=40_000, elastic_rows=16_000)
SHARES = (0.25, 0.40, 0.60)
ROWS = 1_000


@dataclass(frozen=True)
class Prepared:
    """What scoring needs, made or found in a run folder."""

    space: Space
    budget: Budget
    latency: LatencyProfile
    scorer: ElasticScorer
    digest: str

    @property
    def dense_us(self) -> float:
        return self.latency.floor_and_dense(self.budget)[1]

    def predict(self, genome: Genome) -> float:
        return self.latency.predict(self.space.spec(genome), self.budget)


def prepare(data: Path, out: Path) -> Prepared:
    """Teacher, importance, elastic encoder and latency profile; the last and the importance are kept as results."""
    settings = replace(
        settings_of(data, out, minilm_folder()), effort=EFFORT, budget=Budget(share=min(SHARES), seq_len=LENGTH)
    )
    run = Run(out, ConsoleReporter())
    with run.locked():
        source = load_source(settings, run.reporter.say)
        latency = stages.profile(run, source, settings, Plan(), None)
        inputs = {"teacher": f"home_depot {EFFORT.teacher_rows}"}
        dense = stages.teacher(run, source, settings, Plan(), inputs)
        stages.importance(run, source, settings, dense, inputs)
        whole = stages.elastic(run, source, settings, dense, latency)
    for name, kept in (("profile.json", PROFILE), ("importance.safetensors", SCORES)):
        shutil.copyfile(run.path(name), kept)
    whole = replace(whole, manifest=replace(whole.manifest, plan=Plan.uniform("int8")))
    scorer = stages.scorer_of(source, whole, ROWS, settings.seed)
    digest = digest_of([run.path("elastic/manifest.json").read_text(), ROWS, "int8"])
    return Prepared(Space(whole.manifest.config.dims), settings.budget, latency, scorer, digest)


def record(prepared: Prepared, count: int, trajectories: bool) -> None:
    """Scores `count` more genomes into the table: random ones, or what every method finds on a surrogate of it."""
    reporter = ConsoleReporter()
    start = time.monotonic()
    with Archive(TABLE, prepared.digest) as table, reporter.stage(f"Score {count} genomes") as progress:
        before = len(table)
        while len(table) < before + count:
            genomes = on_trajectories(prepared, list(table)) if trajectories else [random_genome(prepared, len(table))]
            for genome in genomes[: before + count - len(table)]:
                if genome not in table:
                    (score,) = prepared.scorer([prepared.space.spec(genome)])
                    table.add(Evaluation(genome, prepared.predict(genome), score, "evolution"))
                    progress(len(table) - before, count)
        hours = (time.monotonic() - start) / 3600
        reporter.say(f"{count} genomes: {count / hours:.0f} an hour, {len(table)} in the table")


def random_genome(prepared: Prepared, number: int) -> Genome:
    """Half of them near a uniform one, three quarters at one of the budgets."""
    space, rng = prepared.space, np.random.default_rng([1, number])
    near = np.rint((rng.random() + rng.uniform(-0.25, 0.25, len(space.levels))) * space.levels).clip(0, space.levels)
    share = rng.choice(SHARES) * rng.uniform(0.95, 1.0) if rng.random() < 0.75 else rng.uniform(0.15, 0.70)
    genome = tuple(int(gene) for gene in near) if rng.random() < 0.5 else space.random(rng)
    fitted = fit_to(space.levels, prepared.predict, genome, float(share) * prepared.dense_us, rng)
    return fitted[0] if fitted else genome


def on_trajectories(prepared: Prepared, table: Sequence[Evaluation]) -> list[Genome]:
    """The best and a few others of what every method comes to on a surrogate, for the next seed."""
    seed = 1000 + len(table)
    surrogate, scores = Surrogate.fitted(prepared.space.levels, table, seed), load_scores(SCORES, prepared.space.dims)
    world = World(prepared.space, prepared.latency, prepared.budget, surrogate, scores)
    rng = np.random.default_rng(seed)
    found: list[Genome] = []
    for share in SHARES:
        problem = world.problem(share)
        for name in (*METHODS, *ABLATIONS):
            history = (METHODS | ABLATIONS)[name](problem, seed, 200)
            inside = sorted((e for e in history if e.predicted_us <= problem.budget_us), key=preference)
            drawn = rng.choice(len(inside), size=min(3, len(inside)), replace=False)
            found += [e.genome for e in (*inside[:3], *(inside[i] for i in drawn))]
    return list(dict.fromkeys(found))


def compare(seeds: Sequence[int], evaluations: int, methods: Mapping[str, Method]) -> dict[str, Any]:
    """Every method from every seed at every budget, on a surrogate of the table."""
    table = recorded_table()
    world = recorded_world(table)
    jobs = [(world, share, name, seed, evaluations) for share in SHARES for name in methods for seed in seeds]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        curves = dict(zip([job[1:4] for job in jobs], pool.map(_run, jobs), strict=True))
    result: dict[str, Any] = {}
    for share in SHARES:
        of_share = {name: np.array([curves[share, name, seed] for seed in seeds]) for name in methods}
        result[f"{share:.2f}"] = summary(of_share, evaluations)
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
        return Problem(self.space, cached, self.surrogate, self.importance, share * dense_us)


def _run(job: tuple[World, float, str, int, int]) -> list[float]:
    """The best score inside the budget after every evaluation: twice as many for evolution, which is the reference."""
    world, share, name, seed, evaluations = job
    torch.set_num_threads(1)
    problem = world.problem(share)
    count = 2 * evaluations if name == "evolution" else evaluations
    found = (METHODS | ABLATIONS)[name](problem, seed, count)
    scores = [e.score if e.predicted_us <= problem.budget_us else -np.inf for e in found]
    best = np.maximum.accumulate(scores)
    return np.pad(best, (0, count - len(best)), mode="edge").tolist()


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
    parser.add_argument("--data", type=Path, help="folder with train.tsv and dev.tsv")
    parser.add_argument("--out", type=Path, default=Path("runs/search"))
    parser.add_argument("--record", type=int, default=0, metavar="N")
    parser.add_argument("--trajectories", action="store_true", help="record what methods find, not random genomes")
    parser.add_argument("--surrogate", action="store_true")
    parser.add_argument("--ablations", action="store_true", help="compare the parts of our method as well")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=100, help="those below were used to tune the policy")
    parser.add_argument("--evaluations", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.record:
        record(prepare(options.data, options.out), options.record, options.trajectories)
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
