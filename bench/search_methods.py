"""Ways to spend the same number of evaluations on a search, as functions of a problem, a seed and that number."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import optuna
from numpy.typing import NDArray

from prunetime.core.arch import TILE, ArchSpec
from prunetime.core.mask import Scores
from prunetime.search.archive import Archive, Evaluation
from prunetime.search.evolution import SearchSettings, depth_baselines, search, uniform_baselines
from prunetime.search.mutate import Child, Mutator, ReinforcedMutator, UniformMutator
from prunetime.search.policy import Policy, PolicySettings, Transition
from prunetime.search.space import Genome, Space, fit_to


@dataclass(frozen=True)
class Problem:
    """Find the genome of the best `score` whose `latency` is inside the budget; `importance` is of heads and rows."""

    space: Space
    latency: Callable[[Genome], float]
    score: Callable[[Sequence[Genome]], Sequence[float]]
    importance: Scores
    budget_us: float

    def predict(self, spec: ArchSpec) -> float:
        return self.latency(self.space.genome(spec))

    def scorer(self, specs: Sequence[ArchSpec]) -> Iterable[float]:
        return self.score([self.space.genome(spec) for spec in specs])


Method = Callable[[Problem, int, int], list[Evaluation]]
"""(problem, seed, evaluations) to what was evaluated, in order."""

ONE_BY_ONE = {"batch": 1, "crossover": 0.0, "screened": 1}


def evolved(problem: Problem, seed: int, evaluations: int, mutator: Mutator, **changes: float) -> list[Evaluation]:
    settings = replace(SearchSettings(problem.budget_us, evaluations, seed=seed, elsewhere=0.0), **changes)
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as folder,
        Archive(Path(folder) / "archive", "-") as archive,
    ):
        search(problem.space, problem.predict, problem.scorer, archive, settings, mutator=mutator)
        return list(archive)


def reinforced(problem: Problem, seed: int, changes: PolicySettings) -> ReinforcedMutator:
    genes = problem.space.genes(problem.latency, problem.importance)
    return ReinforcedMutator(Policy.fresh(genes, changes, seed), problem.latency)


def ours(problem: Problem, seed: int, evaluations: int) -> list[Evaluation]:
    return evolved(problem, seed, evaluations, reinforced(problem, seed, PolicySettings()))


def no_learning(problem: Problem, seed: int, evaluations: int) -> list[Evaluation]:
    """Ours with a policy that stays at its prior."""
    return evolved(problem, seed, evaluations, reinforced(problem, seed, PolicySettings(updates=0)))


def no_policy(problem: Problem, seed: int, evaluations: int) -> list[Evaluation]:
    """Ours with uniform mutation."""
    return evolved(problem, seed, evaluations, UniformMutator(problem.space.levels, problem.latency))


def no_surrogate(problem: Problem, seed: int, evaluations: int) -> list[Evaluation]:
    return evolved(problem, seed, evaluations, reinforced(problem, seed, PolicySettings()), screened=1)


def no_crossover(problem: Problem, seed: int, evaluations: int) -> list[Evaluation]:
    return evolved(problem, seed, evaluations, reinforced(problem, seed, PolicySettings()), crossover=0.0)


def raw_gains(problem: Problem, seed: int, evaluations: int) -> list[Evaluation]:
    """Ours with a policy that learns from gains as they are."""
    return evolved(problem, seed, evaluations, reinforced(problem, seed, PolicySettings(standardised=False)))


def latency_term(problem: Problem, seed: int, evaluations: int) -> list[Evaluation]:
    """Ours with a reward that also likes what is faster than the budget; the hard limit alone is the default."""
    mutator = reinforced(problem, seed, PolicySettings())
    return evolved(problem, seed, evaluations, mutator, latency_weight=0.5)


def evolution(problem: Problem, seed: int, evaluations: int) -> list[Evaluation]:
    """Ageing evolution with uniform mutation, one child at a time."""
    return evolved(problem, seed, evaluations, UniformMutator(problem.space.levels, problem.latency), **ONE_BY_ONE)


@dataclass(frozen=True)
class Restart:
    """Every child is a random genome that uses the target."""

    space: Space
    latency: Callable[[Genome], float]

    def propose(self, parents: Sequence[Genome], targets_us: Sequence[float], rng: np.random.Generator) -> list[Child]:
        found = [fit_to(self.space.levels, self.latency, self.space.random(rng), t, rng) for t in targets_us]
        return [Child(*(fitted or (parent, np.inf))) for parent, fitted in zip(parents, found, strict=True)]

    def updated(self, _: Sequence[Transition]) -> Restart:
        return self


def random(problem: Problem, seed: int, evaluations: int) -> list[Evaluation]:
    return evolved(problem, seed, evaluations, Restart(problem.space, problem.latency), **ONE_BY_ONE)


def scored(problem: Problem, genomes: Sequence[Genome]) -> list[Evaluation]:
    scores = problem.score(genomes)
    return [Evaluation(g, problem.latency(g), s, "uniform") for g, s in zip(genomes, scores, strict=True)]


def uniform(problem: Problem, _: int, __: int) -> list[Evaluation]:
    """Every equal-layer genome that no larger one inside the budget contains."""
    return scored(problem, uniform_baselines(problem.space, problem.predict, problem.budget_us))


def depth(problem: Problem, _: int, __: int) -> list[Evaluation]:
    return scored(problem, depth_baselines(problem.space, problem.predict, problem.budget_us))


def greedy(problem: Problem, _: int, __: int) -> list[Evaluation]:
    """Takes away, one at a time, the tile or head that loses least importance for its microseconds (in the manner of
    Kwon et al., arXiv 2204.09656)."""
    mass = [
        part for layer in problem.importance for part in (of_tiles(layer["heads"], 1), of_tiles(layer["ffn"], TILE))
    ]
    cost = problem.space.genes(problem.latency, problem.importance).cost[: len(mass)]  # all tokens stay
    genome = list(problem.space.levels)
    while problem.latency(tuple(genome)) > problem.budget_us:
        lost = [
            part[at - 1] / max(us[at] - us[at - 1], 1e-9) if at else np.inf
            for at, part, us in zip(genome, mass, cost, strict=False)
        ]
        genome[int(np.argmin(lost))] -= 1
    return scored(problem, [tuple(genome)])


def of_tiles(scores: NDArray[np.float64], tile: int) -> NDArray[np.float64]:
    """The importance of each tile of `scores`, falling."""
    return np.sort(scores)[::-1].reshape(-1, tile).sum(1)


def with_optuna(
    problem: Problem, seed: int, evaluations: int, sampler: optuna.samplers.BaseSampler
) -> list[Evaluation]:
    """From the same initial population; what a sampler proposes is fitted to the budget, and told as it proposed it."""
    start = [e for e in evolution(problem, seed, evaluations) if e.generation == 0]
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    levels = problem.space.levels
    space = {f"{i:03}": optuna.distributions.IntDistribution(0, level) for i, level in enumerate(levels)}
    study = optuna.create_study(direction="maximize", sampler=sampler)
    found = {e.genome: e for e in start}
    for e in start:
        params = dict(zip(space, e.genome, strict=True))
        study.add_trial(optuna.trial.create_trial(params=params, distributions=space, value=e.score))
    rng = np.random.default_rng([seed, 7])
    for _ in range(5 * evaluations):
        if len(found) >= evaluations:
            break
        trial = study.ask(space)
        fitted = fit_to(levels, problem.latency, tuple(trial.params.values()), problem.budget_us, rng)
        genome, us = fitted or ((0,) * len(levels), problem.latency((0,) * len(levels)))
        if genome not in found:
            (score,) = problem.score([genome])
            found[genome] = Evaluation(genome, us, score, "evolution", 1)
        study.tell(trial, found[genome].score)
    return list(found.values())


def tpe(problem: Problem, seed: int, evaluations: int) -> list[Evaluation]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True)
    return with_optuna(problem, seed, evaluations, sampler)


def nsga2(problem: Problem, seed: int, evaluations: int) -> list[Evaluation]:
    return with_optuna(problem, seed, evaluations, optuna.samplers.NSGAIISampler(seed=seed, population_size=32))


METHODS: dict[str, Method] = {
    "ours": ours,
    "evolution": evolution,
    "random": random,
    "uniform": uniform,
    "depth": depth,
    "nsga2": nsga2,
    "tpe": tpe,
    "greedy": greedy,
}
ABLATIONS: dict[str, Method] = {
    "no learning": no_learning,
    "no policy": no_policy,
    "no critic": no_surrogate,
    "no crossover": no_crossover,
    "raw gains": raw_gains,
    "latency term": latency_term,
}
