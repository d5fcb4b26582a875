"""What a search has learned of other budgets than its own: the structures there that its critic expects most of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prunetime.search.archive import Evaluation, preference
from prunetime.search.critic import Critic
from prunetime.search.mutate import Latency, UniformMutator
from prunetime.search.space import Genome, fit_to

KEPT = 24
"""Genomes that go from one round to the next: those of the highest guesses."""

ROUNDS, CHILDREN = 20, 96

FITTED = 3
"""Ways in which each of the best of all budgets is brought to this one."""


def promising(
    levels: Genome, latency: Latency, visited: Sequence[Evaluation], budget_us: float, count: int
) -> list[Genome]:
    """Up to `count` genomes inside the budget that are not among `visited`, the best guess first.

    Evolution by guesses alone: it evaluates nothing. It starts from the best of `visited` inside the budget, and from
    the best of them all shrunk or grown to it, and is a function of its arguments.
    """
    critic, rng = Critic.of(levels, visited), np.random.default_rng(0)
    mutator = UniformMutator(levels, latency)
    best = sorted(visited, key=preference)
    found = [e.genome for e in best if e.predicted_us <= budget_us][:KEPT]
    fitted = [fit_to(levels, latency, e.genome, budget_us, rng) for e in best[:KEPT] for _ in range(FITTED)]
    found += [genome for genome, _ in filter(None, fitted)]
    pool: list[Genome] = []
    for _ in range(ROUNDS):
        pool = _best(critic, [*pool, *found])
        if not pool:
            return []
        parents = [pool[i] for i in rng.integers(0, len(pool), CHILDREN)]
        children = mutator.propose(parents, [budget_us] * CHILDREN, rng)
        found = [child.genome for child in children if child.predicted_us <= budget_us]
    known = {e.genome for e in visited}
    return [genome for genome in _best(critic, [*pool, *found]) if genome not in known][:count]


def _best(critic: Critic, genomes: Sequence[Genome]) -> list[Genome]:
    distinct = list(dict.fromkeys(genomes))
    return [distinct[i] for i in np.argsort(-critic(distinct), kind="stable")[:KEPT]] if distinct else []
