"""The reinforced evolution as a sampler of Optuna, for any study of one objective."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from prunetime.search.archive import Evaluation
from prunetime.search.evolution import Generation, Proposal, Reward, SearchSettings, State, propose, update
from prunetime.search.mutate import Child, ReinforcedMutator
from prunetime.search.policy import Context, Edit, Policy, PolicySettings
from prunetime.search.space import Genes, Genome

PROPOSAL = "reinforced_evolution:proposal"
"""System attribute of a trial: where its parameters are from."""

FLOAT_LEVELS = 100
"""Levels of a float without a step."""

ALWAYS_FITS = 1.0
"""Latency and budget of every genome: an Optuna study knows constraints only after a trial."""

SpaceOfStudy = dict[str, BaseDistribution]


class ReinforcedEvolutionSampler(BaseSampler):
    """Ageing evolution whose children are drawn by a policy that learns and screened by a critic.

    A proposal is a function of the seed, the number of the trial and the finished trials before it, so that a study
    goes on from any storage as if it had not been interrupted. The first `population` trials are random. Parameters may
    be integers, categories and floats (in a hundred levels where they have no step); such as not every trial has are
    drawn independently. A trial with a constraint (`Trial.set_constraint`) above 0 is infeasible.
    """

    def __init__(
        self,
        *,
        population: int = 32,
        batch: int = 8,
        seed: int | None = None,
        policy: PolicySettings = PolicySettings(),  # noqa: B008 (immutable)
    ) -> None:
        """Raises InputError where population or batch is below 1."""
        tournament = max(1, population // 5)
        self._settings = SearchSettings(
            ALWAYS_FITS, 1, population=population, tournament=tournament, batch=batch, elsewhere=0.0
        )
        self._policy = policy
        self._spaces = IntersectionSearchSpace()
        self._folded: _Folded | None = None
        self._seed = 0
        self._reseed(seed)

    def reseed_rng(self) -> None:
        self._reseed(None)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> SpaceOfStudy:  # noqa: ARG002 (Optuna's signature)
        if len(study.directions) != 1:
            raise ValueError(f"{type(self).__name__} is for one objective; this study has {len(study.directions)}")
        found = self._spaces.calculate(study)
        return {name: found[name] for name in sorted(found) if not found[name].single()}

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: SpaceOfStudy) -> dict[str, Any]:
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        trials = sorted((t for t in finished if _value(t) is not None and search_space.keys() <= t.params.keys()),
                        key=lambda t: t.number)  # fmt: skip
        if not search_space or len(trials) < self._settings.population:
            return {}
        folded = self._fold(study, search_space, trials)
        rng = np.random.default_rng([self._seed, 1, trial.number])
        generation = propose(folded.state, replace(self._settings, batch=1), rng)
        if not generation.chosen:
            return {}
        (proposal,) = generation.chosen
        study._storage.set_trial_system_attr(trial._trial_id, PROPOSAL, _to_json(proposal))
        return {
            name: _value_at(distribution, level)
            for (name, distribution), level in zip(search_space.items(), proposal.child.genome, strict=True)
        }

    def sample_independent(
        self,
        study: Study,  # noqa: ARG002 (Optuna's signature)
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        rng = np.random.default_rng([self._seed, 0, trial.number, zlib.crc32(param_name.encode())])
        return _value_at(param_distribution, int(rng.integers(0, _levels(param_distribution) + 1)))

    def _reseed(self, seed: int | None) -> None:
        self._seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
        self._folded = None

    def _fold(self, study: Study, space: SpaceOfStudy, trials: Sequence[FrozenTrial]) -> _Folded:
        """The state after `trials`, going on from what was folded before where that is their beginning."""
        numbers = tuple(trial.number for trial in trials)
        folded, first = self._folded, self._settings.population
        if folded is None or folded.space != space or folded.numbers != numbers[: len(folded.numbers)]:
            folded = _Folded(space, numbers[:first], self._initial(study, space, trials[:first]))
        while len(folded.numbers) + self._settings.batch <= len(trials):
            chunk = trials[len(folded.numbers) : len(folded.numbers) + self._settings.batch]
            folded = _Folded(space, numbers[: len(folded.numbers) + len(chunk)], self._after(study, folded, chunk))
        self._folded = folded
        late = trials[len(folded.numbers) :]
        known = {e.genome: e for e in (_evaluation(study, space, trial) for trial in late)}
        return replace(folded, state=replace(folded.state, visited={**folded.state.visited, **known}))

    def _initial(self, study: Study, space: SpaceOfStudy, trials: Sequence[FrozenTrial]) -> State:
        levels = tuple(_levels(distribution) for distribution in space.values())
        policy = Policy.fresh(_unknown(levels), self._policy, self._seed)
        population = tuple(_evaluation(study, space, trial) for trial in trials)
        scores = [e.score for e in population]
        return State(
            levels,
            ReinforcedMutator(policy, lambda _: ALWAYS_FITS),
            Reward(float(np.median(scores)), float(np.std(scores)) or 1.0),
            population,
            {e.genome: e for e in population},
        )

    def _after(self, study: Study, folded: _Folded, chunk: Sequence[FrozenTrial]) -> State:
        scored = [_evaluation(study, folded.space, trial) for trial in chunk]
        parents = {e.genome: e for e in folded.state.visited.values()}
        proposals = [
            _from_json(trial.system_attrs.get(PROPOSAL), e, parents) for trial, e in zip(chunk, scored, strict=True)
        ]
        return update(folded.state, self._settings, Generation(tuple(proposals)), scored)


@dataclass(frozen=True)
class _Folded:
    """The state after the trials `numbers` of a study with this search space."""

    space: SpaceOfStudy
    numbers: tuple[int, ...]
    state: State


def _unknown(levels: Genome) -> Genes:
    """Genes of which nothing is known: every level of every one matters as much, and costs nothing."""
    count = len(levels)
    return Genes(
        levels,
        (0,) * count,
        tuple(i / max(1, count - 1) for i in range(count)),
        tuple(np.zeros(level + 1) for level in levels),
        tuple(np.arange(level + 1) / (level * count) for level in levels),
    )


def _evaluation(study: Study, space: SpaceOfStudy, trial: FrozenTrial) -> Evaluation:
    """An infeasible trial is one over the budget."""
    value = _value(trial)
    assert value is not None
    feasible = all(constraint <= 0.0 for constraint in trial.constraints.values())
    genome = tuple(_level_of(distribution, trial.params[name]) for name, distribution in space.items())
    score = value if study.direction == StudyDirection.MAXIMIZE else -value
    return Evaluation(genome, ALWAYS_FITS if feasible else 2.0 * ALWAYS_FITS, score, "evolution")


def _value(trial: FrozenTrial) -> float | None:
    """The value of a finished trial, or the last one that a pruned trial reported; None where that is no number."""
    reported = trial.intermediate_values
    value = trial.value if trial.state == TrialState.COMPLETE else reported.get(max(reported, default=-1))
    return value if value is not None and math.isfinite(value) else None


def _levels(distribution: BaseDistribution) -> int:
    """The highest level of a parameter."""
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices) - 1
    if isinstance(distribution, IntDistribution):
        return (distribution.high - distribution.low) // distribution.step
    assert isinstance(distribution, FloatDistribution)
    if distribution.step is not None:
        return round((distribution.high - distribution.low) / distribution.step)
    return FLOAT_LEVELS if distribution.high > distribution.low else 0


def _value_at(distribution: BaseDistribution, level: int) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[level]
    if isinstance(distribution, IntDistribution):
        return distribution.low + level * distribution.step
    assert isinstance(distribution, FloatDistribution)
    share = level / max(1, _levels(distribution))
    if distribution.log:
        return distribution.low * (distribution.high / distribution.low) ** share
    return min(distribution.high, distribution.low + share * (distribution.high - distribution.low))


def _level_of(distribution: BaseDistribution, value: Any) -> int:
    if isinstance(distribution, CategoricalDistribution):
        return int(distribution.to_internal_repr(value))
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    if isinstance(distribution, FloatDistribution) and distribution.log:
        share = math.log(value / distribution.low) / math.log(distribution.high / distribution.low)
    else:
        share = (value - distribution.low) / (distribution.high - distribution.low)
    return round(share * _levels(distribution))


def _to_json(proposal: Proposal) -> dict[str, Any]:
    edits = [[*edit.context, edit.chosen, edit.log_probability] for edit in proposal.child.edits]
    return {"parent": proposal.parent.genome, "edits": edits}


def _from_json(data: Any, evaluation: Evaluation, visited: dict[Genome, Evaluation]) -> Proposal:
    """What led to a trial; one that another sampler proposed is its own parent, and teaches nothing."""
    child = Child(evaluation.genome, evaluation.predicted_us)
    if data is None or tuple(data["parent"]) not in visited:
        return Proposal(child, evaluation, ALWAYS_FITS)
    edits = []
    for genome, us, target_us, touched, fitting, chosen, log_probability in data["edits"]:
        context = Context(tuple(genome), us, target_us, tuple(touched), fitting)
        edits.append(Edit(context, chosen, log_probability))
    return Proposal(child._replace(edits=tuple(edits)), visited[tuple(data["parent"])], ALWAYS_FITS)
