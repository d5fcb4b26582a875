"""Mutators: changed copies of parents that use their target latency, uniformly at random or by a learned policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np

from prunetime.search.policy import Edit, Lesson, Policy, learn
from prunetime.search.space import USED, Genome, fit_to

Latency = Callable[[Genome], float]
"""Predicted microseconds of a genome."""

FREE_EDITS = 3
"""At most so many genes change for their own sake; what changes after them makes up for the latency."""

MOST_EDITS = 12
"""A child that does not fit its target latency after so many edits is dropped."""


class Child(NamedTuple):
    """A genome predicted to take `predicted_us`, and the edits of the policy that made it."""

    genome: Genome
    predicted_us: float
    edits: tuple[Edit, ...] = ()


class Mutator(Protocol):
    def propose(self, parents: Sequence[Genome], targets_us: Sequence[float], rng: np.random.Generator) -> list[Child]:
        """A changed copy of every parent; most take nearly their target latency, some more."""
        ...

    def learned(self, lessons: Sequence[Lesson]) -> Mutator:
        """The mutator after the lessons of a generation; this one is unchanged."""
        ...


@dataclass(frozen=True)
class UniformMutator:
    """Sets one to three genes, chosen uniformly, to other levels, chosen uniformly; then others, to fit the target."""

    levels: Genome
    latency: Latency

    def propose(self, parents: Sequence[Genome], targets_us: Sequence[float], rng: np.random.Generator) -> list[Child]:
        return [self._changed(parent, target, rng) for parent, target in zip(parents, targets_us, strict=True)]

    def learned(self, _: Sequence[Lesson]) -> UniformMutator:
        return self

    def _changed(self, parent: Genome, target_us: float, rng: np.random.Generator) -> Child:
        child = list(parent)
        free = min(int(rng.integers(1, FREE_EDITS + 1)), len(child))
        for gene in rng.choice(len(child), size=free, replace=False):
            other = int(rng.integers(0, self.levels[gene]))
            child[gene] = other + (other >= child[gene])
        fitted = fit_to(self.levels, self.latency, tuple(child), target_us, rng)
        return Child(*fitted) if fitted else Child(parent, self.latency(parent))


@dataclass(frozen=True)
class ReinforcedMutator:
    """Every edit is drawn from a policy: one to three free ones, then such as bring the latency to the target."""

    policy: Policy
    latency: Latency

    def propose(self, parents: Sequence[Genome], targets_us: Sequence[float], rng: np.random.Generator) -> list[Child]:
        actions, target = self.policy.actions, np.array(targets_us, np.float64)
        genomes = list(parents)
        us = np.array([self.latency(genome) for genome in genomes])
        free = rng.integers(1, FREE_EDITS + 1, len(genomes))
        edits: list[list[Edit]] = [[] for _ in genomes]
        untouched = np.ones((len(genomes), len(genomes[0])), np.bool_)
        ended = np.zeros(len(genomes), np.bool_)
        for step in range(MOST_EDITS):
            fits = (USED * target <= us) & (us <= target)
            rows = np.flatnonzero(~ended & ((step < free) | ~fits))
            if not len(rows):
                break
            features, prior, cost = actions.on([genomes[row] for row in rows], us[rows], target[rows])
            left = (target - us)[rows, None]
            fitting = np.where(left < 0.0, cost < 0.0, (cost > 0.0) & (cost <= left))
            allowed = untouched[rows][:, actions.gene] & ((step < free[rows])[:, None] | fitting)
            for row, edit in zip(
                rows, self.policy.choose(features, np.where(allowed, prior, -np.inf), rng), strict=True
            ):
                if edit is None:
                    ended[row] = True
                    continue
                gene, level = int(actions.gene[edit.chosen]), int(actions.level[edit.chosen])
                genomes[row] = (*genomes[row][:gene], level, *genomes[row][gene + 1 :])
                us[row] = self.latency(genomes[row])
                untouched[row, gene] = False
                edits[row].append(edit)
        return [Child(genome, float(took), tuple(made)) for genome, took, made in zip(genomes, us, edits, strict=True)]

    def learned(self, lessons: Sequence[Lesson]) -> ReinforcedMutator:
        return replace(self, policy=learn(self.policy, lessons))
