"""Mutators: changed copies of parents that use their target latency, uniformly at random or by a learned policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from prunetime.core.arrays import Float64Array
from prunetime.search.policy import Edit, EditContext, Policy, Transition, update_policy
from prunetime.search.space import USED, Genome, fit_to

GenomeLatency = Callable[[Genome], float]
"""Predicts the latency of a genome, in microseconds."""

FREE_EDITS = 3
"""At most so many genes change for their own sake; what changes after them makes up for the latency."""

EXPLORED = 0.5
"""Share of children that are mutated uniformly beside a policy, so that its habits do not limit what can be found."""

MOST_EDITS = 12
"""A child that does not fit its target latency after so many edits is dropped."""


class Child(NamedTuple):
    """A genome predicted to take `predicted_us`, and the edits of the policy that made it."""

    genome: Genome
    predicted_us: float
    edits: tuple[Edit, ...] = ()


@dataclass(frozen=True)
class UniformMutator:
    """Sets one to three genes, chosen uniformly, to other levels, chosen uniformly; then others, to fit the target."""

    levels: Genome
    latency: GenomeLatency

    def propose(self, parents: Sequence[Genome], targets_us: Sequence[float], rng: np.random.Generator) -> list[Child]:
        """Returns a changed copy of every parent; most take nearly their target latency, some more."""
        return [self._changed(parent, target, rng) for parent, target in zip(parents, targets_us, strict=True)]

    def updated(self, _: Sequence[Transition]) -> UniformMutator:
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
    """Draws edits from a policy: one to three free ones, then edits that bring the latency to the target.

    A share of the children, `EXPLORED`, is mutated uniformly; the policy is not updated on them.
    """

    policy: Policy
    latency: GenomeLatency

    def propose(self, parents: Sequence[Genome], targets_us: Sequence[float], rng: np.random.Generator) -> list[Child]:
        explored = rng.random(len(parents)) < EXPLORED
        uniform = UniformMutator(self.policy.actions.levels, self.latency)
        found: dict[int, Child] = {}
        for part, mutate in ((explored, uniform.propose), (~explored, self._edited)):
            rows = np.flatnonzero(part).tolist()
            children = mutate([parents[i] for i in rows], [targets_us[i] for i in rows], rng)
            found |= zip(rows, children, strict=True)
        return [found[i] for i in range(len(parents))]

    def _edited(self, parents: Sequence[Genome], targets_us: Sequence[float], rng: np.random.Generator) -> list[Child]:
        genomes, us = list(parents), [self.latency(parent) for parent in parents]
        edits: list[list[Edit]] = [[] for _ in parents]
        free = rng.integers(1, FREE_EDITS + 1, len(parents))
        going = list(range(len(parents)))
        for step in range(MOST_EDITS):
            going = [i for i in going if step < free[i] or not USED * targets_us[i] <= us[i] <= targets_us[i]]
            if not going:
                break
            contexts = [
                EditContext(genomes[i], us[i], targets_us[i], self._touched(edits[i]), bool(step >= free[i]))
                for i in going
            ]
            drawn = dict(zip(going, self.policy.choose(contexts, rng), strict=True))
            going = [i for i in going if drawn[i] is not None]
            for i, edit in drawn.items():
                if edit is not None:
                    gene, level = self.policy.actions.at(edit.chosen)
                    genomes[i] = (*genomes[i][:gene], level, *genomes[i][gene + 1 :])
                    us[i] = self.latency(genomes[i])
                    edits[i].append(edit)
        return [Child(genome, took, tuple(made)) for genome, took, made in zip(genomes, us, edits, strict=True)]

    def preferences(self, genome: Genome, target_us: float) -> Float64Array:
        """[genes, 2]: how likely the first edit of `genome` is to lower each gene, and to raise it."""
        actions = self.policy.actions
        (logs,) = self.policy.fixed_log_probabilities([EditContext(genome, self.latency(genome), target_us)])
        rises = actions.level > np.array(genome)[actions.gene]
        found = np.zeros((len(genome), 2))
        np.add.at(found, (actions.gene, rises.astype(np.intp)), np.nan_to_num(np.exp(logs)))
        return found

    def _touched(self, edits: Sequence[Edit]) -> tuple[int, ...]:
        return tuple(self.policy.actions.at(edit.chosen)[0] for edit in edits)

    def updated(self, transitions: Sequence[Transition]) -> ReinforcedMutator:
        """Returns the mutator after an update on the transitions of a generation; this one is unchanged."""
        edited = [each for each in transitions if each.edits]
        return replace(self, policy=update_policy(self.policy, edited)) if edited else self


Mutator = UniformMutator | ReinforcedMutator
