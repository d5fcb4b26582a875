"""What `pick` finds with the archive of a search for a larger budget, against a search of its own: on the surrogate.

    python bench/search_pick.py --seeds 10 --json

As `pick` does with the standard effort, it scores 16 structures that the surrogate of the search expects most of.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import torch
from provenance import provenance
from search import RESULTS, SHARES, World, recorded_table, recorded_world
from search_methods import evolved, ours, reinforced, scored

from prunetime.core.artifact import write_json
from prunetime.search.acquisition import surrogate_proposals
from prunetime.search.evolution import SearchSettings
from prunetime.search.policy import PolicySettings
from prunetime.settings import EFFORTS

PICKED = 0.7
"""Of the searched budget."""


def picked_and_own(job: tuple[World, float, int, int]) -> tuple[float, float]:
    """The best score within `PICKED` of a budget: off the archive of a search for all of it, and by one of its own."""
    world, share, seed, evaluations = job
    torch.set_num_threads(1)
    whole, part = world.problem(share), world.problem(PICKED * share)
    usual = {"elsewhere": SearchSettings(whole.budget_us, evaluations).elsewhere}
    searched = evolved(whole, seed, evaluations, reinforced(whole, seed, PolicySettings()), **usual)
    finalists = EFFORTS["standard"].finalists
    proposed = surrogate_proposals(whole.space.levels, whole.latency, searched, part.budget_us, finalists)
    archives = ([*searched, *scored(whole, proposed)], ours(part, seed, evaluations))
    picked, own = (max(e.score for e in found if e.predicted_us <= part.budget_us) for found in archives)
    return picked, own


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=100, help="those below were used to tune the policy")
    parser.add_argument("--evaluations", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    world = recorded_world(recorded_table())
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    jobs = [(world, share, seed, options.evaluations) for share in SHARES for seed in seeds]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        scores = np.reshape(list(pool.map(picked_and_own, jobs)), (len(SHARES), len(seeds), 2))
    result = {}
    for share, (picked, own) in zip(SHARES, scores.transpose(0, 2, 1), strict=True):
        off = float((picked - own).mean())
        result[f"{share:.2f}"] = {"picked": picked.tolist(), "own": own.tolist(), "mean_difference": off}
        print(f"{PICKED:.0%} of {share:.0%}: picked {picked.mean():.4f}, searched {own.mean():.4f} ({off:+.4f})")
    write_json(RESULTS / "search_pick.json", provenance() | {"result": result})
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
