"""Proposals of structures for any budget, guided by a surrogate fitted to what a search has evaluated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prunetime.search.archive import Evaluation, preference
from prunetime.search.mutate import GenomeLatency, UniformMutator
from prunetime.search.space import Genome, fit_to
from prunetime.search.surrogate import Surrogate

KEPT = 24
"""So many genomes go from one round to the next: those with the highest predicted scores."""

ROUNDS, CHILDREN = 20, 96

FITTED = 3
"""Each of the best genomes of all budgets is shrunk or grown to this budget in so many random ways."""


def surrogate_proposals(
    levels: Genome, latency: GenomeLatency, visited: Sequence[Evaluation], budget_us: float, count: int
) -> list[Genome]:
    """Proposes up to `count` genomes inside the budget that are not among `visited`, the highest predicted score first.

    The acquisition is the predicted mean. Evolution maximises it from the best of `visited` inside the budget, and from
    the best of all shrunk or grown to the budget; nothing is evaluated, and the result depends on the arguments alone.
    """
    surrogate, rng = Surrogate.fit(levels, visited), np.random.default_rng(0)
    mutator = UniformMutator(levels, latency)
    best = sorted(visited, key=preference)
    found = [e.genome for e in best if e.predicted_us <= budget_us][:KEPT]
    fitted = [fit_to(levels, latency, e.genome, budget_us, rng) for e in best[:KEPT] for _ in range(FITTED)]
    found += [genome for genome, _ in filter(None, fitted)]
    pool: list[Genome] = []
    for _ in range(ROUNDS):
        pool = _best(surrogate, [*pool, *found])
        if not pool:
            return []
        parents = [pool[i] for i in rng.integers(0, len(pool), CHILDREN)]
        children = mutator.propose(parents, [budget_us] * CHILDREN, rng)
        found = [child.genome for child in children if child.predicted_us <= budget_us]
    known = {e.genome for e in visited}
    return [genome for genome in _best(surrogate, [*pool, *found]) if genome not in known][:count]


def _best(surrogate: Surrogate, genomes: Sequence[Genome]) -> list[Genome]:
    distinct = list(dict.fromkeys(genomes))
    return [distinct[i] for i in np.argsort(-surrogate.predict(distinct), kind="stable")[:KEPT]] if distinct else []
