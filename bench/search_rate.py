"""Genomes scored an hour: MiniLM-L6 on 2,000 rows of Home Depot at 40 % of dense latency, int8.

    python bench/search_rate.py --folder F --json                      by this process, and by Ray workers
    python bench/search_rate.py --folder F --evaluations 1000 --json   a whole search, as with the effort `thorough`

F is what bench/home_depot.py has worked in, up to its step `sample`: the 300 genomes of its search by agreement are
scored in their order, in this process and by Ray workers, on all cores. And random ones, which hardly share layers.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from home_depot import final, near_budget
from home_depot_data import Prepared
from home_depot_scoring import problem_of
from provenance import provenance
from search import MODEL, RESULTS
from search_live import scoring_rows
from search_methods import METHODS

from prunetime.core.arch import ArchSpec
from prunetime.core.artifact import write_json
from prunetime.core.precision import PrecisionPlan
from prunetime.pipeline.student import THREADS
from prunetime.search.archive import Evaluation
from prunetime.search.cluster import Workers
from prunetime.search.evaluate import Elastic, ElasticScorer, ScorerFor, ScoringRows
from prunetime.search.space import Genome

SHARE, ROWS, RANDOM = 0.40, 2_000, 30
SCORERS: dict[str, dict[str, dict[str, int]]] = {
    "random": {"here, nothing shared": {"cache_bytes": 0}, "here": {}},
    "search": {"here": {}, "1 worker": {"workers": 1}, "2 workers": {"workers": 2}, "4 workers": {"workers": 4}},
}


def genomes_of(prepared: Prepared) -> dict[str, list[Genome]]:
    job = final(prepared, SHARE, "agreement")
    run = json.loads((prepared.folder / "runs" / f"{job.name}.json").read_text())
    problem = problem_of(prepared, SHARE, lambda genomes: [0.0 for _ in genomes])
    return {
        "random": near_budget(problem, RANDOM, np.random.default_rng(7)),
        "search": [Evaluation.from_json(e).genome for e in run["evaluations"]],
    }


@contextmanager
def scoring(prepared: Prepared, workers: int = 0, cache_bytes: int | None = None) -> Iterator[ScorerFor]:
    weights, plan = prepared.weights("elastic"), PrecisionPlan.uniform("int8")
    if workers:
        with Workers(workers).scoring(Elastic(prepared.config, weights, plan=plan)) as scorer_for:
            yield scorer_for
    else:
        yield partial(ElasticScorer, Elastic(prepared.config, weights, THREADS, plan), cache_bytes=cache_bytes)


def replayed(prepared: Prepared, rows: ScoringRows) -> dict[str, dict[str, int]]:
    """Genomes an hour by kind of genomes and way of scoring."""
    space, rates = prepared.space(tokens=False), dict[str, dict[str, int]]()
    for kind, genomes in genomes_of(prepared).items():
        for name, how in SCORERS[kind].items():
            with scoring(prepared, **how) as scorer_for:
                scorer = scorer_for(rows)
                list(scorer([ArchSpec.full(space.dims)]))
                start = time.perf_counter()
                list(scorer([space.spec(genome) for genome in genomes]))
                rate = round(3600 * len(genomes) / (time.perf_counter() - start))
            rates.setdefault(kind, {})[name] = rate
            print(f"{len(genomes)} {kind:8}{name:22}{rate:8} an hour", flush=True)
    return rates


def searched(prepared: Prepared, rows: ScoringRows, evaluations: int) -> dict[str, float]:
    """Of a search, with what it takes itself."""
    space, start, done = prepared.space(tokens=False), time.perf_counter(), 0
    with scoring(prepared) as scorer_for:
        scorer = scorer_for(rows)

        def score(genomes: Sequence[Genome]) -> list[float]:
            nonlocal done
            done += len(genomes)
            if done % 50 < len(genomes):
                print(f"{done} of {evaluations}, {time.perf_counter() - start:.0f} s", flush=True)
            return list(scorer([space.spec(genome) for genome in genomes]))

        found = METHODS["ours"](problem_of(prepared, SHARE, score), 0, evaluations)
    seconds = time.perf_counter() - start
    return {
        "evaluations": len(found),
        "seconds": seconds,
        "an_hour": round(3600 * len(found) / seconds),
        "best": max(e.score for e in found),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--evaluations", type=int, help="of a whole search")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    prepared = Prepared(options.folder, MODEL)
    rows = scoring_rows(prepared, ROWS)
    name, result = "genomes_an_hour", dict[str, Any]()
    if options.evaluations:
        name, result = "search", searched(prepared, rows, options.evaluations)
    else:
        result = replayed(prepared, rows)
    out = RESULTS / "search_rate.json"
    before = json.loads(out.read_text()) if out.exists() else {}
    of_rows = {"rows": len(rows.tokens), "tokens": rows.tokens.ids.size}
    write_json(out, before | {name: provenance() | of_rows | {"result": result}})
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
