"""Ageing evolution inside a latency budget, with the uniform and depth-only baselines beside it.

Ageing evolution: Real et al., "Regularized Evolution for Image Classifier Architecture Search", arXiv 1802.01548.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from prunetime.arch import ArchSpec
from prunetime.errors import BudgetError, InputError, PrunetimeError
from prunetime.search.archive import Archive, Evaluation, Kind, elites, preference
from prunetime.search.evaluate import Scorer
from prunetime.search.space import Genome, Space, fit_to

Predict = Callable[[ArchSpec], float]
"""Latency of a spec in microseconds."""

BASELINE_CHOICES = 20
"""At most this many depth-only choices are scored (all of them up to 6 layers)."""

SEEDED = 0.25
"""Share of the initial population taken from the best baselines."""

ELSEWHERE = 0.2
"""Share of the children aimed at other budgets than the searched one, so that the archive can answer those too."""

ELSEWHERE_BINS = np.linspace(0.5, 1.1, 7)
"""Edges of the latency bins of those children, in budgets."""

ATTEMPTS = 50
"""Proposals that are infeasible or already scored, in a row, after which the search ends."""


@dataclass(frozen=True)
class SearchSettings:
    """`evaluations` counts distinct genomes, baselines included; the best of `tournament` members is the parent."""

    budget_us: float
    evaluations: int
    population: int = 32
    tournament: int = 6
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.budget_us > 0:
            raise InputError(f"budget is {self.budget_us} us; it must be above 0")
        if self.evaluations < 1 or not 1 <= self.tournament <= self.population:
            raise InputError(
                f"search of {self.evaluations} evaluations, tournament {self.tournament} in population "
                f"{self.population}: at least 1 evaluation, and a tournament of 1 up to the population"
            )


class Mutator(Protocol):
    def propose(self, parent: Genome, rng: np.random.Generator) -> Genome:
        """A changed copy of the parent, inside the space; it may be outside the budget."""
        ...


class UniformMutator:
    """Sets one to three genes, chosen uniformly, to other levels, chosen uniformly."""

    def __init__(self, space: Space) -> None:
        self._levels = space.levels

    def propose(self, parent: Genome, rng: np.random.Generator) -> Genome:
        child = list(parent)
        for gene in rng.choice(len(child), size=min(int(rng.integers(1, 4)), len(child)), replace=False):
            other = int(rng.integers(0, self._levels[gene]))
            child[gene] = other + (other >= child[gene])
        return tuple(child)


def search(
    space: Space,
    predict: Predict,
    scorer: Scorer,
    archive: Archive,
    settings: SearchSettings,
    *,
    mutator: Mutator | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """The best evaluation in the archive inside the budget, after `settings.evaluations` distinct genomes.

    A function of its arguments: what the archive holds already is not scored again, so a killed search that is run
    again with the same arguments ends in the same archive as an uninterrupted one. `on_progress` gets (done, of).
    Raises BudgetError where not even the floor is inside the budget.
    """
    floor = predict(ArchSpec.floor(space.dims))
    if floor > settings.budget_us:
        raise BudgetError(
            f"the budget of {settings.budget_us:.0f} us is below the floor: with every layer gone the model is "
            f"predicted to take {floor:.0f} us; give a larger budget"
        )
    run = _Run(space, predict, scorer, archive, settings, on_progress)
    _evolve(run, mutator or UniformMutator(space), _seed_population(run))
    best = archive.best_within(settings.budget_us)
    assert best is not None  # the uniform baselines include the floor where nothing else fits
    return best


def finalists(archive: Archive, budget_us: float, count: int) -> list[Evaluation]:
    """The `count` best evaluations predicted inside the budget, best first."""
    return archive.within(budget_us)[:count]


def rescore(space: Space, evaluations: Sequence[Evaluation], scorer: Scorer) -> list[Evaluation]:
    """`evaluations` with the score of `scorer`, best first.

    The winner of a search on few rows is partly a winner by luck; finalists scored again on more rows are less so
    (the last round of successive halving, arXiv 1502.07943).
    """
    scores = scorer([space.spec(e.genome) for e in evaluations])
    return sorted((replace(e, score=s) for e, s in zip(evaluations, scores, strict=True)), key=preference)


def uniform_baselines(space: Space, predict: Predict, budget_us: float) -> list[Genome]:
    """Uniform genomes inside the budget for which no larger uniform genome is inside it as well."""
    feasible = [g for g in space.uniform() if predict(space.spec(g)) <= budget_us]
    largest: list[Genome] = []
    for genome in reversed(feasible):  # by falling heads: a larger genome comes first
        if not any(other[0] >= genome[0] and other[1] >= genome[1] for other in largest):
            largest.append(genome)
    return largest


def depth_baselines(space: Space, predict: Predict, budget_us: float) -> list[Genome]:
    """Depth-only genomes inside the budget that keep as many layers as fit it."""
    for kept in range(space.dims.layers, 0, -1):
        choices = space.depth(kept, BASELINE_CHOICES)
        feasible = [g for g in choices if predict(space.spec(g)) <= budget_us]
        if feasible:
            return feasible
    return []


def _seed_population(run: _Run) -> list[Evaluation]:
    """Scores the baselines, then fills a population with the best of them and random genomes that use the budget."""
    space, settings = run.space, run.settings
    uniform = uniform_baselines(space, run.predict, settings.budget_us)
    depth = depth_baselines(space, run.predict, settings.budget_us)
    run.score([run.candidate(g, kind="uniform") for g in uniform])
    run.score([run.candidate(g, kind="depth") for g in depth])
    population = sorted(run.visited.values(), key=preference)[: int(SEEDED * settings.population)]
    rng = np.random.default_rng([settings.seed, 0])
    fresh: dict[Genome, Evaluation] = {}
    for _ in range(ATTEMPTS * settings.population):
        if len(population) + len(fresh) == settings.population:
            break
        fitted = fit_to(space.levels, run.latency, space.random(rng), settings.budget_us, rng)
        if fitted and fitted[0] not in run.visited:
            fresh[fitted[0]] = run.candidate(fitted[0])
    return population + run.score(fresh.values())


def _evolve(run: _Run, mutator: Mutator, seeds: Sequence[Evaluation]) -> None:
    """Tournament selection over an ageing population: each child replaces the oldest member."""
    settings = run.settings
    edges = (ELSEWHERE_BINS * settings.budget_us).tolist()
    population = deque(seeds, maxlen=settings.population)
    generation = 0
    failures = 0
    while run.left > 0 and failures < ATTEMPTS:
        rng = np.random.default_rng([settings.seed, 1, generation, failures])
        members = rng.choice(len(population), size=min(settings.tournament, len(population)), replace=False)
        parent = min((population[i] for i in members), key=preference)
        target_us = settings.budget_us
        elsewhere = rng.random() < ELSEWHERE
        if elsewhere:
            bins = elites(run.visited.values(), edges)
            target_us = float(rng.uniform(edges[0], edges[-1]))
            parent = min(bins, key=lambda e: abs(e.predicted_us - target_us), default=parent)
        child = fit_to(run.space.levels, run.latency, mutator.propose(parent.genome, rng), target_us, rng)
        if child is None or child[0] in run.visited:
            failures += 1
            continue
        generation += 1
        failures = 0
        scored = run.score([run.candidate(child[0], generation=generation, parent=parent.genome)])
        if not elsewhere:
            population.extend(scored)


class _Run:
    """What one search has visited; in a replay the archive also holds what this search has yet to come to."""

    def __init__(
        self,
        space: Space,
        predict: Predict,
        scorer: Scorer,
        archive: Archive,
        settings: SearchSettings,
        on_progress: Callable[[int, int], None] | None,
    ) -> None:
        self.space = space
        self.predict = predict
        self.settings = settings
        self.visited: dict[Genome, Evaluation] = {}
        self._scorer = scorer
        self._archive = archive
        self._on_progress = on_progress

    @property
    def left(self) -> int:
        return self.settings.evaluations - len(self.visited)

    def latency(self, genome: Genome) -> float:
        """Predicted microseconds."""
        return self.predict(self.space.spec(genome))

    def candidate(
        self, genome: Genome, kind: Kind = "evolution", generation: int = 0, parent: Genome | None = None
    ) -> Evaluation:
        """An evaluation whose score is not known yet."""
        return Evaluation(genome, self.latency(genome), math.nan, kind, generation, parent)

    def score(self, candidates: Iterable[Evaluation]) -> list[Evaluation]:
        """The candidates not visited yet, as many as are left to evaluate, with scores from archive or scorer."""
        chosen = [c for c in candidates if c.genome not in self.visited][: self.left]
        missing = [c for c in chosen if c.genome not in self._archive]
        done = self.settings.evaluations - self.left + len(chosen) - len(missing)
        for candidate, score in zip(missing, self._scorer([self.space.spec(c.genome) for c in missing]), strict=True):
            if not math.isfinite(score):
                raise PrunetimeError(f"the score of {candidate.genome} is {score}; a score must be a finite number")
            self._archive.add(replace(candidate, score=float(score)))
            done += 1
            if self._on_progress:
                self._on_progress(done, self.settings.evaluations)
        scored = [self._archive[c.genome] for c in chosen]
        self.visited.update((e.genome, e) for e in scored)
        return scored
