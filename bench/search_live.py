"""The comparison of bench/search.py on real elastic scores, and the winners of its table scored really.

    python bench/search_live.py --folder F --seeds 10 --json
    python bench/search_live.py --folder F --winners --json

F is what bench/home_depot.py has worked in, up to its step `sample`. Live scores are the product's: agreement with the
teacher, by the engine; the table's are AUC. All scores are kept in F/live.jsonl, so that a stopped run goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from home_depot_data import SHARES, Prepared
from home_depot_scoring import AUC, problem_of
from provenance import provenance
from search import MODEL, RESULTS, holm, summary
from search_methods import METHODS

from prunetime.core.artifact import write_json
from prunetime.core.precision import PrecisionPlan
from prunetime.search.evaluate import Elastic, ElasticScorer, ScoringRows
from prunetime.search.space import Genome

LIVE = ("ours", "evolution", "random")
LIVE_ROWS, TABLE_ROWS = 500, 2_000
SHARE = 0.25


def scoring_rows(prepared: Prepared, count: int) -> ScoringRows:
    """So many rows to choose by, and what the teacher says of them."""
    with np.load(prepared.path("sample.npz")) as sample:
        expected = sample["teacher"][prepared.chosen("choose", count)].astype(np.float32)
    return ScoringRows(prepared.some("choose", count).tokens, expected)


class Kept:
    """Scores by genome, each computed once and kept in a file under a name."""

    def __init__(self, file: Path, name: str, score: Callable[[Genome], float]) -> None:
        lines = map(json.loads, file.read_text().splitlines() if file.exists() else [])
        self._known = {tuple(line["genome"]): line["score"] for line in lines if line["name"] == name}
        self._file, self._name, self._score = file, name, score

    def __call__(self, genomes: Sequence[Genome]) -> list[float]:
        return [self._of(tuple(genome)) for genome in genomes]

    def _of(self, genome: Genome) -> float:
        if genome not in self._known:
            self._known[genome] = self._score(genome)
            with self._file.open("a") as file:
                file.write(json.dumps({"name": self._name, "genome": genome, "score": self._known[genome]}) + "\n")
        return self._known[genome]


class Subject:
    """The elastic encoder in the engine, and its scores."""

    def __init__(self, prepared: Prepared) -> None:
        self.prepared, self.space = prepared, prepared.space(tokens=False)
        weights, threads = prepared.weights("elastic"), torch.get_num_threads()
        self._elastic = Elastic(prepared.config, weights, threads, PrecisionPlan.uniform("int8"))
        file = prepared.folder / "live.jsonl"
        self.agreement, self.auc = Kept(file, "agreement", self._agreement()), Kept(file, "auc", self._auc())

    def _agreement(self) -> Callable[[Genome], float]:
        scorer = ElasticScorer(self._elastic, scoring_rows(self.prepared, LIVE_ROWS))
        return lambda genome: next(scorer([self.space.spec(genome)]))

    def _auc(self) -> Callable[[Genome], float]:
        rows = self.prepared.some("choose", TABLE_ROWS)

        def score(genome: Genome) -> float:
            self._elastic.engine.select(self.space.spec(genome))
            scores = self.prepared.task.scores(self._elastic.engine.logits(rows.tokens))
            return AUC.value(scores, rows.labels, rows.groups)

        return score


def live(subject: Subject, seeds: Sequence[int], evaluations: int) -> dict[str, Any]:
    problem = problem_of(subject.prepared, SHARE, subject.agreement)
    curves, start = dict[str, list[Any]](), time.monotonic()
    for seed in seeds:
        for method in LIVE:
            found = METHODS[method](problem, seed, evaluations)
            scores = [e.score if e.predicted_us <= problem.budget_us else -np.inf for e in found]
            curves.setdefault(method, []).append(np.maximum.accumulate(scores))
            print(f"seed {seed} {method}: {max(scores):.4f}, {time.monotonic() - start:.0f} s", flush=True)
    return summary({name: np.array(of_method) for name, of_method in curves.items()}, evaluations)


def rescored(subject: Subject) -> dict[str, Any]:
    """What the winners on the surrogate really score: the mean over seeds, and their surrogate scores beside it."""
    recorded = json.loads((RESULTS / "search_surrogate.json").read_text())["result"]
    found: dict[str, Any] = {}
    for share in SHARES:
        methods = recorded[f"{share:.2f}"]["methods"]
        found[f"{share:.2f}"] = {
            name: {"surrogate": row["mean_best"], "real": float(np.mean(subject.auc(row["winners"])))}
            for name, row in methods.items()
        }
        print(share, found[f"{share:.2f}"], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=100, help="those below were used to tune the policy")
    parser.add_argument("--evaluations", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--winners", action="store_true", help="score the winners on the surrogate instead")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    subject = Subject(Prepared(options.folder, MODEL))
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    if options.winners:
        name, result = "search_winners.json", rescored(subject)
    else:
        name, result = "search_live.json", {f"{SHARE:.2f}": live(subject, seeds, options.evaluations)}
        holm(result)
    write_json(RESULTS / name, provenance() | {"result": result})
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
