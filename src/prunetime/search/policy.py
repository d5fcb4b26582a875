"""The policy network of the reinforced mutator: which gene to change, and to what level.

SwiftPruner (arXiv 2209.00625) learns where to mutate. Here every (gene, level) pair is an action with a few features;
one small network, shared by all of them, adds to the logits of a prior, and policy gradient on the gains of children
over their parents trains it (REINFORCE; Williams, 1992), off-policy with truncated importance weights (Espeholt et al.,
arXiv 1802.01561) so that it learns from every child so far.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prunetime.search.space import Genes, Genome

Floats = NDArray[np.float32]

TINY = 1e-9

CLIPPED = 2.0
"""Advantages are clipped at this many standard deviations."""


@dataclass(frozen=True)
class PolicySettings:
    """`prior` weighs importance per microsecond in the logits before any learning, `locality` how much a change of all
    levels of a gene is disfavoured; `limit` bounds what is learned on top, in logits.

    Every generation is followed by `updates` steps of Adam, each on `batch` edits drawn from those of the generation
    and the `remembered` last ones of children that were evaluated. An edit counts as much as its probability has risen
    since, at most `truncated` times; the entropy of the policy is weighed by `entropy`.
    """

    prior: float = 1.0
    locality: float = 2.0
    limit: float = 4.0
    hidden: int = 16
    updates: int = 8
    batch: int = 96
    remembered: int = 2000
    learning_rate: float = 0.02
    truncated: float = 2.0
    entropy: float = 0.01


class Situation(NamedTuple):
    """What is known of every action on each of n genomes: `features` [n, actions, width], `prior` logits [n, actions]
    (minus infinity where it changes nothing) and what it adds to the `cost` [n, actions]."""

    features: Floats
    prior: Floats
    cost: NDArray[np.float64]


class Edit(NamedTuple):
    """An action that was taken: `features` [actions, width] and `prior` [actions] (minus infinity where it was not
    allowed) of all, which one was `chosen`, and the logarithm of the probability that it had."""

    features: Floats
    prior: Floats
    chosen: int
    log_probability: float


class Actions:
    """Every (gene, level): `gene` [actions], `level` [actions]."""

    def __init__(self, genes: Genes, settings: PolicySettings) -> None:
        counts = np.array(genes.levels) + 1
        self.gene = np.repeat(np.arange(len(counts)), counts)
        self.level = np.concatenate([np.arange(count) for count in counts])
        self._settings = settings
        self._top = np.array(genes.levels)[self.gene]
        self._start = (np.cumsum(counts) - counts)[self.gene]
        self._cost = np.concatenate(genes.cost)
        self._mass = np.concatenate(genes.mass)
        kinds = np.array(genes.kind)[self.gene]
        of_gene = [*(kinds == kind for kind in np.unique(kinds)), np.array(genes.place)[self.gene]]
        self._of_action = [*of_gene, self.level / self._top, self.level == 0]
        self.width = len(self._of_action) + 8

    def on(self, genomes: Sequence[Genome], cost: NDArray[np.float64], target: NDArray[np.float64]) -> Situation:
        """What every action does to each of n `genomes` that have a `cost` [n] and may have a `target` [n]."""
        now = np.array(genomes)[:, self.gene]
        at = self._start + now
        added, mass = self._cost - self._cost[at], self._mass - self._mass[at]
        moved = (self.level - now) / self._top
        share = added / target[:, None]
        worth = (np.log(np.abs(mass) + TINY) - np.log(np.abs(share) + TINY)) * np.sign(moved)
        efficiency = np.where(moved < 0.0, _standard(worth, moved < 0.0), _standard(worth, moved > 0.0))
        slack = np.broadcast_to((1.0 - cost / target)[:, None], moved.shape)
        of_genome = [now / self._top, now == 0, moved, np.abs(moved), share, mass, efficiency, slack]
        fixed = [np.broadcast_to(column, moved.shape) for column in self._of_action]
        features = np.stack([*fixed, *of_genome], axis=-1).astype(np.float32)
        settings = self._settings
        prior = settings.prior * efficiency - settings.locality * np.abs(moved) - np.log(self._top)
        return Situation(features, np.where(moved == 0.0, -np.inf, prior).astype(np.float32), added)


def _standard(values: NDArray[np.float64], where: NDArray[np.bool_]) -> NDArray[np.float64]:
    """`values` [n, actions] in standard deviations from the mean of their row, both taken `where`; at most 3."""
    count = np.maximum(where.sum(1, keepdims=True), 1)
    centred = values - (values * where).sum(1, keepdims=True) / count
    deviation = np.sqrt((centred * centred * where).sum(1, keepdims=True) / count)
    return np.asarray(np.clip(centred / (deviation + TINY), -3.0, 3.0) * where, np.float64)


@dataclass(frozen=True)
class Policy:
    """A network, its optimizer, and the edits it remembers with their advantages."""

    actions: Actions
    settings: PolicySettings
    seed: int
    network: nn.Sequential
    optimizer: torch.optim.Optimizer
    remembered: tuple[tuple[Edit, float], ...] = ()
    generations: int = 0

    @classmethod
    def fresh(cls, genes: Genes, settings: PolicySettings, seed: int) -> Policy:
        """A policy that follows the prior."""
        actions = Actions(genes, settings)
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            first = nn.Linear(actions.width, settings.hidden)
        last = nn.Linear(settings.hidden, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        network = nn.Sequential(first, nn.Tanh(), last)
        return cls(actions, settings, seed, network, torch.optim.Adam(network.parameters(), settings.learning_rate))

    def choose(self, features: Floats, prior: Floats, rng: np.random.Generator) -> list[Edit | None]:
        """An action for each of n genomes, drawn from the policy, or None where none is allowed."""
        with torch.no_grad():
            logs = _log_probabilities(self, features, prior).double().numpy()
        rising = np.cumsum(np.exp(np.nan_to_num(logs, nan=-np.inf)), axis=1)
        drawn = rng.random(len(rising)) * rising[:, -1]
        edits: list[Edit | None] = []
        for row, sums in enumerate(rising):
            chosen = int(np.searchsorted(sums, drawn[row], side="right"))
            allowed = np.isfinite(prior[row])
            if not allowed.any():
                edits.append(None)
                continue
            if chosen == len(sums):  # the sum was rounded
                chosen = int(np.flatnonzero(allowed)[-1])
            edits.append(Edit(features[row], prior[row], chosen, float(logs[row, chosen])))
        return edits


class Lesson(NamedTuple):
    """The `edits` that made a child, its `gain` over its parent, and whether that was `evaluated` or guessed."""

    edits: Sequence[Edit]
    gain: float
    evaluated: bool


def learn(policy: Policy, lessons: Sequence[Lesson]) -> Policy:
    """The policy after the lessons of a generation; `policy` is unchanged.

    Gains are standardised within the generation: raw ones have a size that depends on metric and budget.
    """
    settings = policy.settings
    gains = np.array([lesson.gain for lesson in lessons])
    advantages = np.clip((gains - gains.mean()) / (gains.std() + TINY), -CLIPPED, CLIPPED).tolist()
    taught = [
        (edit, advantage, lesson.evaluated)
        for lesson, advantage in zip(lessons, advantages, strict=True)
        for edit in lesson.edits
    ]
    guessed = [(edit, advantage) for edit, advantage, evaluated in taught if not evaluated]
    evaluated = [(edit, advantage) for edit, advantage, evaluated in taught if evaluated]
    remembered = (*policy.remembered, *evaluated)[-settings.remembered :]
    network, optimizer = copy.deepcopy((policy.network, policy.optimizer))
    generations = policy.generations + 1
    after = replace(policy, network=network, optimizer=optimizer, remembered=remembered, generations=generations)
    pool = [*remembered, *guessed]
    rng = np.random.default_rng([policy.seed, generations])
    for _ in range(settings.updates if pool else 0):
        _step(after, [pool[i] for i in rng.permutation(len(pool))[: settings.batch]])
    return after


def _step(policy: Policy, taught: Sequence[tuple[Edit, float]]) -> None:
    settings = policy.settings
    edits = [edit for edit, _ in taught]
    advantages = torch.tensor([advantage for _, advantage in taught])
    logs = _log_probabilities(policy, np.stack([e.features for e in edits]), np.stack([e.prior for e in edits]))
    chosen = logs.gather(1, torch.tensor([[edit.chosen] for edit in edits]))[:, 0]
    risen = (chosen.detach() - torch.tensor([edit.log_probability for edit in edits])).exp()
    gained = (risen.clamp(max=settings.truncated) * advantages * chosen).mean()
    entropy = -(logs.exp() * logs.nan_to_num(neginf=0.0)).sum(1).mean()
    policy.optimizer.zero_grad()
    torch.autograd.backward(-gained - settings.entropy * entropy)
    policy.optimizer.step()


def _log_probabilities(policy: Policy, features: Floats, prior: Floats) -> Tensor:
    """[n, actions] of `features` [n, actions, width] and `prior` [n, actions]."""
    learned = policy.network(torch.from_numpy(features))[..., 0]
    limit = policy.settings.limit
    return torch.log_softmax(torch.from_numpy(prior) + limit * torch.tanh(learned / limit), 1)
