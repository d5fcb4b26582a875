"""The reinforced evolution as a sampler of Optuna, for any study of one objective."""

from __future__ import annotations

import math
import threading
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, cast

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.samplers._base import _process_constraints_after_trial
from optuna.search_space import IntersectionSearchSpace
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from prunetime.search.archive import Evaluation
from prunetime.search.dimensions import Dimension, dimension_of, in_range, is_gene
from prunetime.search.evolution import (
    Generation,
    Proposal,
    Reward,
    SearchSettings,
    SearchState,
    propose,
    update,
    winners,
)
from prunetime.search.mutate import Child, ReinforcedMutator
from prunetime.search.policy import Edit, EditContext, Policy, PolicySettings
from prunetime.search.space import Genes, Genome
from prunetime.search.surrogate import Surrogate

PROPOSAL = "reinforced_evolution:proposal"
"""The system attribute of a trial that records how its parameters were proposed."""

ALWAYS_FITS = 1.0
"""The latency and the budget of every genome: an Optuna study knows constraints only after a trial."""

ATTEMPTS = 2
"""So many rounds of proposals are made before a point that has been tried is tried again."""

SURROGATE_POINTS = 64
"""The surrogate is fitted to so many of the best points, and as many of the last: its time grows with their cube."""

LARGEST = 1e100
"""This value takes the place of an infinite one."""

INFEASIBLE = -1e120
"""The reward of a point that just violates a constraint."""

QUICK = PolicySettings(updates=2, batch=24)
"""The settings of a policy whose update takes a few milliseconds."""

SpaceOfStudy = dict[str, BaseDistribution]

Finished = tuple[int, datetime | None]
"""The number and the end of a trial: they tell the trials of two studies apart."""

_ONE_AT_A_TIME = threading.Lock()
"""The threads of a study (`n_jobs`) take turns: a proposal sets how many threads torch has, and sets it back."""


class ReinforcedEvolutionSampler(BaseSampler):
    """An Optuna sampler by ageing evolution: a learned policy mutates parents, and a surrogate screens their children.

    A proposal is a function of the seed, the number of the trial and the finished trials before it, so that a study
    goes on from any storage as if it had not been interrupted. Numbers may have any range: one with more than a hundred
    values is cut into a hundred levels (fewer, where a study has more than five parameters), evenly in its logarithm
    where it is logarithmic, and values are drawn within a level. Parameters that not every trial has, and categories
    with more than 256 choices, are drawn at random.

    A trial with a constraint above 0 is infeasible: worse than any feasible trial, and the worse the more it violates.

    Args:
        population: the number of trials that parents are chosen from; the first so many trials are random.
        batch: the number of trials after which the policy is updated.
        seed: of all random choices; None draws one.
        policy: the settings of the policy.
        constraints_func: returns the constraints of a trial, after it, as with Optuna's own samplers; a trial can also
            set them itself (`Trial.set_constraint`).

    Raises:
        InputError: population or batch is below 1.

    Example:
        >>> study = optuna.create_study(sampler=ReinforcedEvolutionSampler(seed=0))
    """

    def __init__(
        self,
        *,
        population: int = 32,
        batch: int = 8,
        seed: int | None = None,
        policy: PolicySettings = QUICK,
        constraints_func: Callable[[FrozenTrial], Sequence[float]] | None = None,
    ) -> None:
        tournament = max(1, population // 5)
        self._settings = SearchSettings(
            ALWAYS_FITS, 1, population=population, tournament=tournament, batch=batch, elsewhere=0.0
        )
        self._policy = policy
        # Torch imports for seconds as it makes its first optimizer: here, not in a trial.
        Policy.fresh(_unknown((1,)), policy, 0)
        self._constraints = constraints_func
        self._spaces = IntersectionSearchSpace(include_pruned=True)
        self._folded: _Folded | None = None
        self._usable = _Usable({})
        self._seed = 0
        self._reseed(seed)

    def reseed_rng(self) -> None:
        self._reseed(None)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> SpaceOfStudy:  # noqa: ARG002 (Optuna's signature)
        self._check(study)
        found = self._spaces.calculate(study)
        return {name: found[name] for name in sorted(found) if is_gene(found[name])}

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: SpaceOfStudy) -> dict[str, Any]:
        self._check(study)
        space = {name: each for name, each in search_space.items() if is_gene(each)}

        def at_random(names: Iterable[str]) -> dict[str, Any]:
            return {name: self._random(study, trial, name, search_space[name]) for name in names}

        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        if self._usable.space != space:
            self._usable = _Usable(space)
        trials = sorted(filter(self._usable, finished), key=lambda trial: trial.number)
        if not space or len(trials) < self._settings.population:
            return at_random(search_space)
        with _ONE_AT_A_TIME:
            folded = self._fold(study, space, trials)
            rng = np.random.default_rng([self._seed, 1, trial.number])
            proposal = _proposal(folded, self._settings, rng)
        study._storage.set_trial_system_attr(trial._trial_id, PROPOSAL, _to_json(folded.state.levels, proposal))
        return at_random(search_space.keys() - space) | folded.values(proposal, rng)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        self._check(study)
        return self._random(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        if self._constraints is not None:
            _process_constraints_after_trial(self._constraints, study, trial, state)
        super().after_trial(study, trial, state, values)

    def _check(self, study: Study) -> None:
        if len(study.directions) != 1:
            raise ValueError(f"{type(self).__name__} is for one objective; this study has {len(study.directions)}")

    def _random(self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> Any:
        """Draws a value at random as Optuna does, in the logarithm where the range is logarithmic."""
        words = np.random.SeedSequence([self._seed, 0, trial.number, zlib.crc32(name.encode())])
        random = RandomSampler(seed=int(words.generate_state(1)[0]))
        return random.sample_independent(study, trial, name, distribution)

    def _reseed(self, seed: int | None) -> None:
        self._seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
        self._folded = None

    def _fold(self, study: Study, space: SpaceOfStudy, trials: Sequence[FrozenTrial]) -> _Folded:
        """Folds `trials` into a state, from the state that was folded before where its history is their beginning."""
        history = tuple(map(_finished, trials))
        folded, first = self._folded, self._settings.population
        if folded is None or folded.space != space or folded.history != history[: len(folded.history)]:
            folded = self._initial(study, space, trials[:first])
        while len(folded.history) + self._settings.batch <= len(trials):
            chunk = trials[len(folded.history) : len(folded.history) + self._settings.batch]
            folded = self._after(study, folded, chunk)
        if folded.surrogate is None:
            folded = replace(folded, surrogate=_fit_surrogate(folded.state))
        self._folded = folded
        late = trials[len(folded.history) :]
        known = {e.genome: e for e in (folded.evaluation(study, trial) for trial in late)}
        return replace(folded, state=replace(folded.state, visited={**folded.state.visited, **known}))

    def _initial(self, study: Study, space: SpaceOfStudy, trials: Sequence[FrozenTrial]) -> _Folded:
        dimensions = {name: dimension_of(distribution, len(space)) for name, distribution in space.items()}
        levels = tuple(dimension.top for dimension in dimensions.values())
        policy = Policy.fresh(_unknown(levels), self._policy, self._seed)
        state = SearchState(levels, ReinforcedMutator(policy, lambda _: ALWAYS_FITS), Reward(0.0, 1.0), (), {})
        folded = _Folded(space, dimensions, (), state, {})
        population = tuple(folded.evaluation(study, trial) for trial in trials)
        scores = [e.score for e in population if abs(e.score) < LARGEST] or [0.0]
        reward = _FeasibleFirst(float(np.median(scores)), float(np.std(scores)) or 1.0)
        visited = {e.genome: e for e in population}
        state = replace(state, reward=reward, population=population, visited=visited)
        return folded.with_trials(trials, state)

    def _after(self, study: Study, folded: _Folded, chunk: Sequence[FrozenTrial]) -> _Folded:
        scored = [folded.evaluation(study, trial) for trial in chunk]
        proposals = tuple(
            _from_json(trial.system_attrs.get(PROPOSAL), evaluation, folded)
            for trial, evaluation in zip(chunk, scored, strict=True)
        )
        return folded.with_trials(chunk, update(folded.state, self._settings, Generation(proposals), scored))


@dataclass(frozen=True)
class _Folded:
    """The state after the trials of a `history` in a study of this space, and the parameters of each genome."""

    space: SpaceOfStudy
    dimensions: Mapping[str, Dimension]
    history: tuple[Finished, ...]
    state: SearchState
    parameters: dict[Genome, dict[str, Any]]
    surrogate: Surrogate | None = None

    def genome(self, trial: FrozenTrial) -> Genome:
        return tuple(dimension.level_of(trial.params[name]) for name, dimension in self.dimensions.items())

    def evaluation(self, study: Study, trial: FrozenTrial) -> Evaluation:
        """Returns the trial as a genome with a score, over the budget by as much as it violates constraints."""
        value = _value(trial)
        assert value is not None
        violated = sum(constraint for constraint in trial.constraints.values() if constraint > 0.0)
        score = min(LARGEST, max(-LARGEST, value if study.direction == StudyDirection.MAXIMIZE else -value))
        over = 1.0 + violated if violated else 0.0
        return Evaluation(self.genome(trial), ALWAYS_FITS + over, score, "evolution")

    def with_trials(self, trials: Sequence[FrozenTrial], state: SearchState) -> _Folded:
        """Adds trials that led to `state`, and takes the surrogate away."""
        history = self.history + tuple(map(_finished, trials))
        parameters = self.parameters | {self.genome(trial): trial.params for trial in trials}
        return replace(self, history=history, state=state, parameters=parameters, surrogate=None)

    def values(self, proposal: Proposal, rng: np.random.Generator) -> dict[str, Any]:
        """Returns the parameters of a child: where it has the level of its parent, it keeps the parent's value."""
        of_parent = self.parameters.get(proposal.parent.genome)
        found = {}
        genes = zip(self.dimensions.items(), proposal.child.genome, proposal.parent.genome, strict=True)
        for (name, dimension), level, before in genes:
            kept = of_parent is not None and level == before
            found[name] = of_parent[name] if kept and of_parent else dimension.value_at(level, rng)
        return found


class _FeasibleFirst(Reward):
    """The standardised score of a feasible trial; of an infeasible one a number below all, by how much it violates."""

    def __call__(self, evaluation: Evaluation, budget_us: float) -> float:
        over = evaluation.predicted_us - budget_us
        return INFEASIBLE * min(over, 1e20) if over > 0.0 else super().__call__(evaluation, budget_us)


def _proposal(folded: _Folded, settings: SearchSettings, rng: np.random.Generator) -> Proposal:
    """A new child of the state; where hardly any is left, the best by the surrogate of those that were tried."""
    state, surrogate = folded.state, folded.surrogate
    assert surrogate is not None
    for chosen in propose(state, replace(settings, batch=1), rng, surrogate=surrogate, attempts=ATTEMPTS).chosen:
        return chosen
    parents = winners(state, settings, settings.batch, rng)
    genomes, targets_us = [genome for _, genome, _ in parents], [target for _, _, target in parents]
    children = state.mutator.propose(genomes, targets_us, rng)
    best = int(np.argmax(surrogate.predict([child.genome for child in children])))
    return Proposal(children[best], parents[best][0], targets_us[best])


def _fit_surrogate(state: SearchState) -> Surrogate:
    """Fits a surrogate to the best and the last points; an infeasible one gets a score below all feasible ones."""
    points = list(state.visited.values())
    ranked = sorted(points, key=lambda e: state.reward(e, ALWAYS_FITS))[-SURROGATE_POINTS:]
    seen = {e.genome: e for e in (*ranked, *points[-SURROGATE_POINTS:])}.values()
    feasible = [e.score for e in seen if e.predicted_us <= ALWAYS_FITS] or [0.0]
    worst, spread = min(feasible), (max(feasible) - min(feasible)) or 1.0
    return Surrogate.fit(
        state.levels,
        [
            e if e.predicted_us <= ALWAYS_FITS else replace(e, score=worst - spread * min(e.predicted_us, LARGEST))
            for e in seen
        ],
    )


def _unknown(levels: Genome) -> Genes:
    """Returns genes without knowledge: each level of each matters as much as any other, and costs nothing."""
    count = len(levels)
    return Genes(
        levels,
        (0,) * count,
        tuple(i / max(1, count - 1) for i in range(count)),
        tuple(np.zeros(level + 1) for level in levels),
        tuple(np.arange(level + 1) / (level * count) for level in levels),
    )


class _Usable:
    """A filter of finished trials: it keeps those with a value and parameters in range; enqueued ones may have none."""

    def __init__(self, space: SpaceOfStudy) -> None:
        self.space = space
        self._known: dict[Finished, bool] = {}

    def __call__(self, trial: FrozenTrial) -> bool:
        key = _finished(trial)
        if key not in self._known:
            values = trial.params
            inside = all(name in values and in_range(each, values[name]) for name, each in self.space.items())
            self._known[key] = inside and _value(trial) is not None
        return self._known[key]


def _finished(trial: FrozenTrial) -> Finished:
    return trial.number, trial.datetime_complete


def _value(trial: FrozenTrial) -> float | None:
    """The value of a finished trial, or the last one that a pruned trial reported; None where that is no number."""
    reported = trial.intermediate_values
    value = trial.value if trial.state == TrialState.COMPLETE else reported.get(max(reported, default=-1))
    return None if value is None or math.isnan(value) else value


def _to_json(levels: Genome, proposal: Proposal) -> dict[str, Any]:
    edits = proposal.child.edits
    return {
        "levels": levels,
        "parent": proposal.parent.genome,
        "edited": edits[0].context.genome if edits else None,
        "edits": [[edit.chosen, edit.log_probability] for edit in edits],
    }


def _from_json(data: Any, evaluation: Evaluation, folded: _Folded) -> Proposal:
    """Reads the proposal that led to a trial. A trial that another sampler proposed, or that was proposed when
    parameters had other levels, is its own parent, and no policy is updated on it."""
    child = Child(evaluation.genome, evaluation.predicted_us)
    visited = folded.state.visited
    if data is None or tuple(data.get("levels", ())) != folded.state.levels or tuple(data["parent"]) not in visited:
        return Proposal(child, evaluation, ALWAYS_FITS)
    edits: list[Edit] = []
    actions = cast(ReinforcedMutator, folded.state.mutator).policy.actions
    genome: Genome = tuple(data["edited"] or ())
    touched: tuple[int, ...] = ()
    for chosen, log_probability in data["edits"]:
        edits.append(Edit(EditContext(genome, ALWAYS_FITS, ALWAYS_FITS, touched), chosen, log_probability))
        gene, level = actions.at(chosen)
        genome, touched = (*genome[:gene], level, *genome[gene + 1 :]), (*touched, gene)
    return Proposal(child._replace(edits=tuple(edits)), visited[tuple(data["parent"])], ALWAYS_FITS)
