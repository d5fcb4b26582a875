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
from torch import Tensor, nn

from prunetime.core.arrays import BoolArray, Float32Array, Float64Array
from prunetime.core.deprecation import renamed_arguments
from prunetime.models.threads import training_on
from prunetime.search.space import Genes, Genome

TINY = 1e-9

CLIPPED = 2.0
"""Advantages are at most this many standard deviations."""


@dataclass(frozen=True)
class PolicySettings:
    """`prior` weighs importance per microsecond in the logits before any learning, `locality` how much a change of all
    levels of a gene is disfavoured; `limit` bounds what is learned on top, in logits.

    Every generation is followed by `updates` steps of Adam, each on `batch` edits drawn from those of the generation
    and the last `replay_size` ones of children that were evaluated. The `best` share of children has an advantage: its
    gain, `standardised` within the generation. An edit counts as often as its probability has grown since it was drawn,
    at most `max_importance_weight` times; the entropy of the policy is weighed by `entropy`.
    """

    prior: float = 0.3
    locality: float = 0.5
    limit: float = 4.0
    hidden: int = 16
    updates: int = 8
    batch: int = 96
    best: float = 0.1
    standardised: bool = True
    replay_size: int = 2000
    learning_rate: float = 0.02
    max_importance_weight: float = 2.0
    entropy: float = 0.01


_old_names = renamed_arguments(remembered="replay_size", truncated="max_importance_weight")
PolicySettings.__init__ = _old_names(PolicySettings.__init__)  # type: ignore[method-assign]  # a dataclass made it


class EditContext(NamedTuple):
    """The state in which the policy chooses an edit: a `genome` predicted to take `us` microseconds, of `target_us`.

    Genes in `touched` were changed before. A `fitting` edit must bring the latency nearer to the target, not beyond.
    """

    genome: Genome
    us: float
    target_us: float
    touched: tuple[int, ...] = ()
    fitting: bool = False


class Edit(NamedTuple):
    """The number of the action that was `chosen` in a context, and the logarithm of the probability that it had."""

    context: EditContext
    chosen: int
    log_probability: float


class Actions:
    """The actions of the policy, one for every (gene, level): `gene` [actions] and `level` [actions]."""

    def __init__(self, genes: Genes, settings: PolicySettings) -> None:
        self.levels = genes.levels
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

    def at(self, action: int) -> tuple[int, int]:
        """The gene that an action changes, and the level that it gives it."""
        return int(self.gene[action]), int(self.level[action])

    def on(self, contexts: Sequence[EditContext]) -> tuple[Float32Array, Float32Array]:
        """Returns features [n, actions, width] of every action in each of n contexts, and the logits of the prior
        [n, actions]: minus infinity where an action changes nothing or is not allowed."""
        genomes = np.array([context.genome for context in contexts])
        us, target = (np.array([getattr(c, name) for c in contexts])[:, None] for name in ("us", "target_us"))
        now = genomes[:, self.gene]
        at = self._start + now
        cost, mass = self._cost - self._cost[at], self._mass - self._mass[at]
        moved = (self.level - now) / self._top
        share = cost / target
        worth = (np.log(np.abs(mass) + TINY) - np.log(np.abs(share) + TINY)) * np.sign(moved)
        efficiency = np.where(moved < 0.0, _standard(worth, moved < 0.0), _standard(worth, moved > 0.0))
        slack = np.broadcast_to(1.0 - us / target, moved.shape)
        of_genome = [now / self._top, now == 0, moved, np.abs(moved), share, mass, efficiency, slack]
        fixed = [np.broadcast_to(column, moved.shape) for column in self._of_action]
        features = np.stack([*fixed, *of_genome], axis=-1).astype(np.float32)
        settings = self._settings
        prior = settings.prior * efficiency - settings.locality * np.abs(moved) - np.log(self._top)
        untouched = np.ones(genomes.shape, np.bool_)
        for row, context in enumerate(contexts):
            untouched[row, list(context.touched)] = False
        nearer = np.where(us > target, cost < 0.0, (cost > 0.0) & (cost <= target - us))
        free = ~np.array([context.fitting for context in contexts])[:, None]
        allowed = (moved != 0.0) & untouched[:, self.gene] & (free | nearer)
        return features, np.where(allowed, prior, -np.inf).astype(np.float32)


def _standard(values: Float64Array, where: BoolArray) -> Float64Array:
    """`values` [n, actions] in standard deviations from the mean of their row, both taken `where`; at most 3."""
    count = np.maximum(where.sum(1, keepdims=True), 1)
    centred = values - (values * where).sum(1, keepdims=True) / count
    deviation = np.sqrt((centred * centred * where).sum(1, keepdims=True) / count)
    return np.asarray(np.clip(centred / (deviation + TINY), -3.0, 3.0) * where, np.float64)


@dataclass(frozen=True)
class Policy:
    """A network, its optimizer, and the edits in its replay buffer with their advantages."""

    actions: Actions
    settings: PolicySettings
    seed: int
    network: nn.Sequential
    optimizer: torch.optim.Optimizer
    replay: tuple[tuple[Edit, float], ...] = ()
    generations: int = 0

    @classmethod
    def fresh(cls, genes: Genes, settings: PolicySettings, seed: int) -> Policy:
        """Returns a policy that follows the prior."""
        actions = Actions(genes, settings)
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            first = nn.Linear(actions.width, settings.hidden)
        last = nn.Linear(settings.hidden, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        network = nn.Sequential(first, nn.Tanh(), last)
        return cls(actions, settings, seed, network, torch.optim.Adam(network.parameters(), settings.learning_rate))

    def choose(self, contexts: Sequence[EditContext], rng: np.random.Generator) -> list[Edit | None]:
        """Draws an action in each of n contexts from the policy; None where no action is allowed."""
        logs = self.fixed_log_probabilities(contexts)
        rising = np.cumsum(np.nan_to_num(np.exp(logs)), axis=1)
        drawn = rng.random(len(rising)) * rising[:, -1]
        edits: list[Edit | None] = []
        for context, log, sums, at in zip(contexts, logs, rising, drawn, strict=True):
            allowed = np.flatnonzero(np.isfinite(log))
            if not len(allowed):
                edits.append(None)
                continue
            chosen = min(int(np.searchsorted(sums, at, side="right")), int(allowed[-1]))  # the last sum is rounded
            edits.append(Edit(context, chosen, float(log[chosen])))
        return edits

    def fixed_log_probabilities(self, contexts: Sequence[EditContext]) -> Float64Array:
        """`log_probabilities` without gradients, on one thread: an edit must not depend on the number of cores."""
        with training_on(1), torch.no_grad():
            return np.asarray(self.log_probabilities(contexts).double().numpy(), np.float64)

    def log_probabilities(self, contexts: Sequence[EditContext]) -> Tensor:
        """[n, actions]; minus infinity where an action is not allowed, not a number where none is."""
        features, prior = (torch.from_numpy(array) for array in self.actions.on(contexts))
        limit = self.settings.limit
        learned = self.network(features)[..., 0]
        return torch.log_softmax(prior + limit * torch.tanh(learned / limit), 1)


class Transition(NamedTuple):
    """The `edits` that made a child of a parent, and its `gain` over the parent: `evaluated`, or else predicted."""

    edits: Sequence[Edit]
    gain: float
    evaluated: bool


def update_policy(policy: Policy, transitions: Sequence[Transition]) -> Policy:
    """Returns the policy after an update on the transitions of a generation; `policy` is unchanged.

    Gains are standardised within the generation: raw ones have a size that depends on the budget. Only the
    `best` share of them has an advantage: a search wants children that are very good, not good on average, as small
    changes are (risk-seeking policy gradient; Petersen et al., arXiv 1912.04871).
    """
    settings = policy.settings
    gains = np.array([each.gain for each in transitions])
    size = (gains - gains.mean()) / (gains.std() + TINY) if settings.standardised else gains
    advantages = (np.clip(size, 0.0, CLIPPED) * (gains >= np.quantile(gains, 1.0 - settings.best))).tolist()
    weighted = [
        (edit, advantage, each.evaluated)
        for each, advantage in zip(transitions, advantages, strict=True)
        for edit in each.edits
    ]
    predicted = [(edit, advantage) for edit, advantage, evaluated in weighted if not evaluated]
    evaluated = [(edit, advantage) for edit, advantage, evaluated in weighted if evaluated]
    replay = (*policy.replay, *evaluated)[-settings.replay_size :]
    network, optimizer = copy.deepcopy((policy.network, policy.optimizer))
    generations = policy.generations + 1
    after = replace(policy, network=network, optimizer=optimizer, replay=replay, generations=generations)
    pool = [*replay, *predicted]
    rng = np.random.default_rng([policy.seed, generations])
    with training_on(1):
        for _ in range(settings.updates if pool else 0):
            _step(after, [pool[i] for i in rng.permutation(len(pool))[: settings.batch]])
    return after


def _step(policy: Policy, batch: Sequence[tuple[Edit, float]]) -> None:
    settings = policy.settings
    edits = [edit for edit, _ in batch]
    advantages = torch.tensor([advantage for _, advantage in batch])
    logs = policy.log_probabilities([edit.context for edit in edits])
    chosen = logs.gather(1, torch.tensor([[edit.chosen] for edit in edits]))[:, 0]
    importance = (chosen.detach() - torch.tensor([edit.log_probability for edit in edits])).exp()
    gained = (importance.clamp(max=settings.max_importance_weight) * advantages * chosen).mean()
    entropy = -(logs.exp() * logs.nan_to_num(neginf=0.0)).sum(1).mean()
    policy.optimizer.zero_grad()
    torch.autograd.backward(-gained - settings.entropy * entropy)
    policy.optimizer.step()
