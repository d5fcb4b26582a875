"""The contract of a sampler: what any study may ask of it, for ours and for Optuna's own."""

import math
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from optuna.samplers import NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import TrialState
from studies import finish, mixed, opened, ours, worker

from prunetime.errors import InputError
from prunetime.search.samplers import PROPOSAL, ReinforcedEvolutionSampler

SAMPLERS = {
    "ours": ours,
    "tpe": lambda seed=0: TPESampler(seed=seed),
    "nsga2": lambda seed=0: NSGAIISampler(seed=seed, population_size=10),
    "random": lambda seed=0: RandomSampler(seed),
}
each = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)


@pytest.fixture(params=["journal", "sqlite", pytest.param("postgresql", marks=pytest.mark.system)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where several processes find the same studies."""
    if request.param == "postgresql":
        return request.getfixturevalue("postgresql")
    return file_of(request.param, tmp_path)


def file_of(kind: str, folder: Path) -> str:
    return f"sqlite:///{folder}/study.db" if kind == "sqlite" else f"{folder}/journal.log"


def bowl(trial: optuna.Trial) -> float:
    return sum((trial.suggest_int(f"x{i}", 0, 20) - 3 * i) ** 2 for i in range(6))


@each
def test_values_are_of_their_distributions(sampler):
    study = optuna.create_study(sampler=sampler())
    study.optimize(mixed, n_trials=24)
    for trial in study.trials:
        assert trial.state == TrialState.COMPLETE
        for name, value in trial.params.items():
            assert trial.distributions[name]._contains(trial.distributions[name].to_internal_repr(value)), name


@each
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_it_goes_the_way_the_study_goes(sampler, direction):
    sign = 1.0 if direction == "minimize" else -1.0
    study = optuna.create_study(sampler=sampler(), direction=direction)
    study.optimize(lambda trial: sign * bowl(trial), n_trials=40)
    values = sign * np.array([trial.value for trial in study.trials])
    assert values[20:].min() <= np.median(values[:10])


@each
def test_another_sampler_goes_on_with_a_study(sampler):
    study = optuna.create_study(sampler=sampler())
    study.optimize(bowl, n_trials=16)
    study.sampler = sampler(1)
    study.optimize(bowl, n_trials=8)
    assert [trial.number for trial in study.trials] == list(range(24))


@each
def test_a_study_goes_on_from_its_storage(sampler, url, tmp_path):
    name = tmp_path.name
    with opened(url) as storage:
        optuna.create_study(study_name=name, storage=storage, sampler=sampler()).optimize(bowl, n_trials=16)
    with opened(url) as storage:
        again = optuna.load_study(study_name=name, storage=storage, sampler=sampler(1))
        again.optimize(bowl, n_trials=8)
        assert [trial.number for trial in again.trials] == list(range(24))


@each
def test_asked_for_many_before_it_is_told_of_any(sampler):
    study = optuna.create_study(sampler=sampler())
    for _ in range(5):
        for trial in [study.ask() for _ in range(6)]:
            study.tell(trial, bowl(trial))
    assert len(study.trials) == 30


@each
def test_failed_and_pruned_trials_and_such_of_others_are_no_hindrance(sampler):
    study = optuna.create_study(sampler=sampler())
    study.enqueue_trial({f"x{i}": 3 * i for i in range(6)})

    def objective(trial: optuna.Trial) -> float:
        value = bowl(trial)
        if trial.number % 5 == 1:
            raise ValueError(trial.number)
        if trial.number % 5 == 2:
            trial.report(value, 0)
            raise optuna.TrialPruned
        return math.nan if trial.number % 5 == 3 else value

    study.optimize(objective, n_trials=45, catch=ValueError)
    assert study.best_value == 0.0


@each
def test_constraints_are_kept_in_mind(sampler):
    def objective(trial):
        value = bowl(trial)
        trial.set_constraint("x0", trial.params["x0"] - 8.0)
        return value - 10.0 * trial.params["x0"]

    study = optuna.create_study(sampler=sampler())
    study.optimize(objective, n_trials=60)
    feasible = [trial.params["x0"] <= 8 for trial in study.trials[30:]]
    assert np.mean(feasible) >= 0.3


@each
def test_parameters_that_not_every_trial_has(sampler):
    def objective(trial):
        if trial.suggest_categorical("deep", [True, False]):
            return trial.suggest_int("layers", 1, 12)
        return trial.suggest_float("width", 0.0, 1.0)

    study = optuna.create_study(sampler=sampler())
    study.optimize(objective, n_trials=24)
    assert len(study.trials) == 24


def of_ours(study: optuna.Study) -> list[dict]:
    return [trial.params for trial in study.trials]


def optimised(sampler: ReinforcedEvolutionSampler) -> optuna.Study:
    study = optuna.create_study(sampler=sampler)
    study.optimize(mixed, n_trials=24)
    return study


def test_the_same_seed_and_history_give_the_same_proposals_in_any_process(tmp_path):
    urls = [file_of(kind, tmp_path) for kind in ("journal", "sqlite")]
    for url in urls:
        with opened(url) as storage:
            optuna.create_study(study_name=tmp_path.name, storage=storage)
    for trials in (13, 11):
        finish(worker(tmp_path.name, trials, *urls))
    whole = optimised(ours())
    for url in urls:
        with opened(url) as storage:
            study = optuna.load_study(study_name=tmp_path.name, storage=storage)
            assert of_ours(study) == of_ours(whole)
            assert [trial.constraints for trial in study.trials] == [trial.constraints for trial in whole.trials]
    assert of_ours(optimised(ours(4))) != of_ours(whole)


@pytest.mark.system
def test_a_fleet_shares_a_study(postgresql, tmp_path):
    with opened(postgresql) as storage:
        study = optuna.create_study(study_name=tmp_path.name, storage=storage)
        for process in [worker(study.study_name, 12, postgresql) for _ in range(2)]:
            finish(process)
        trials = study.trials
    assert [trial.number for trial in trials] == list(range(24))
    assert all(trial.state == TrialState.COMPLETE for trial in trials)
    assert sum(PROPOSAL in trial.system_attrs for trial in trials) >= 12


def test_after_the_first_trials_it_proposes_children_of_better_parents_and_beats_random():
    def mean(sampler) -> float:
        found = []
        for seed in range(2):
            study = optuna.create_study(sampler=sampler(seed))
            study.optimize(bowl, n_trials=50)
            found.append(study.best_value)
        return float(np.mean(found))

    assert mean(ours) < 0.5 * mean(SAMPLERS["random"])
    study = optuna.create_study(sampler=ours())
    study.optimize(bowl, n_trials=40)
    assert sum(PROPOSAL in trial.system_attrs for trial in study.trials) == 30


def test_more_than_one_objective_is_refused():
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=ours())
    with pytest.raises(ValueError, match="one objective"):
        study.ask().suggest_int("x", 0, 3)


def test_what_makes_no_search_is_refused():
    with pytest.raises(InputError):
        ReinforcedEvolutionSampler(population=0)


def test_random_integers_are_logarithmic_where_their_range_is():
    """As Optuna's own random sampler draws them."""
    means = []
    for sampler in (ours(), RandomSampler(seed=0)):
        study = optuna.create_study(sampler=sampler)
        drawn = [study.ask().suggest_int("n", 1, 1000, log=True) for _ in range(400)]
        means.append(np.log(drawn).mean())
    assert abs(means[0] - means[1]) < 0.4  # three standard errors; uniform draws are 2.5 above
    assert means[0] < math.log(100)


def test_enqueued_values_outside_their_range_are_run_and_teach_nothing():
    def objective(trial: optuna.Trial) -> float:
        return (trial.suggest_int("x", 0, 10) - 5) ** 2 + trial.suggest_float("y", 1e-3, 1.0, log=True)

    study = optuna.create_study(sampler=ours())
    study.enqueue_trial({"x": 25, "y": 0.5})
    study.enqueue_trial({"x": 3, "y": 7.0})
    with pytest.warns(UserWarning, match="out of range"):
        study.optimize(objective, n_trials=30)
    assert [trial.params["x"] for trial in study.trials[:2]] == [25, 3]
    assert all(0 <= trial.params["x"] <= 10 and trial.params["y"] <= 1.0 for trial in study.trials[2:])
    # Both are left out: the first ten trials that count are those from the third on.
    assert [PROPOSAL in trial.system_attrs for trial in study.trials[:14]] == [False] * 12 + [True] * 2


def test_a_space_that_has_been_tried_whole_is_tried_again_near_its_best():
    study = optuna.create_study(sampler=ours(), direction="maximize")
    study.optimize(lambda trial: trial.suggest_int("a", 0, 2) + 3 * trial.suggest_int("b", 0, 2), n_trials=60)
    assert np.mean([trial.value for trial in study.trials[30:]]) > 6.0  # of 0 to 8; at random 4


def test_infinite_values_are_the_best_and_the_worst():
    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0.0, 1.0)
        return math.inf if x < 0.5 else x

    study = optuna.create_study(sampler=ours())
    study.optimize(objective, n_trials=50)
    assert np.mean([math.isinf(trial.value) for trial in study.trials[25:]]) < 0.3  # at random 0.5
    study = optuna.create_study(sampler=ours(), direction="maximize")
    study.optimize(objective, n_trials=50)
    assert np.mean([math.isinf(trial.value) for trial in study.trials[25:]]) > 0.7


def test_constraints_of_a_function_count_as_those_of_the_trial():
    def objective(trial: optuna.Trial) -> float:
        value = bowl(trial) - 10.0 * trial.params["x0"]
        if own:
            trial.set_constraint("0", trial.params["x0"] - 8.0)
        return value

    def constraints(trial: optuna.trial.FrozenTrial) -> tuple[float]:
        return (trial.params["x0"] - 8.0,)

    found = []
    for own in (True, False):
        given = {} if own else {"constraints_func": constraints}
        study = optuna.create_study(sampler=ReinforcedEvolutionSampler(population=10, batch=4, seed=0, **given))
        study.optimize(objective, n_trials=30)
        found.append(of_ours(study))
    assert found[0] == found[1]


def test_where_nothing_is_feasible_it_goes_where_less_is_violated():
    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0.0, 1.0)
        trial.set_constraint("x", 2.0 - x)
        return x

    study = optuna.create_study(sampler=ours())
    study.optimize(objective, n_trials=40)
    assert np.median([trial.params["x"] for trial in study.trials[20:]]) > 0.65  # at random 0.5


@pytest.mark.parametrize("jobs", [1, 3])
def test_threads_take_turns_and_torch_keeps_its_own(jobs):
    torch.set_num_threads(2)
    study = optuna.create_study(sampler=ours())
    study.optimize(bowl, n_trials=30, n_jobs=jobs)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 30
    assert torch.get_num_threads() == 2


def test_one_sampler_for_two_studies_is_two_samplers():
    def other(trial: optuna.Trial) -> float:
        return -bowl(trial)

    shared, found = ours(), []
    for sampler in (shared, ours()):
        if sampler is shared:
            optuna.create_study(sampler=shared).optimize(other, n_trials=20)
        study = optuna.create_study(sampler=sampler)
        study.optimize(bowl, n_trials=20)
        found.append(of_ours(study))
    assert found[0] == found[1]


def test_a_copied_study_goes_on_as_the_first_would():
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(study_name="first", storage=storage, sampler=ours())
    study.optimize(bowl, n_trials=20)
    optuna.copy_study(from_study_name="first", from_storage=storage, to_storage=storage, to_study_name="second")
    again = optuna.load_study(study_name="second", storage=storage, sampler=ours())
    for each in (study, again):
        each.optimize(bowl, n_trials=6)
    assert of_ours(study) == of_ours(again)


def test_parameters_of_any_kind_and_size_side_by_side():
    def objective(trial: optuna.Trial) -> float:
        seed = trial.suggest_int("seed", 0, 2**31 - 1)
        rate = trial.suggest_float("rate", 1e-300, 1e300, log=True)
        wide = trial.suggest_float("wide", -1e12, 1e12)
        word = trial.suggest_categorical("word", [f"word {i}" for i in range(10_000)])
        mixed = trial.suggest_categorical("mixed", [None, "a", 3, True, math.nan, 0.5])
        moving = trial.suggest_int("moving", 0, 3 + trial.number % 3)
        return abs(seed / 2**31 - 0.3) + abs(math.log(rate)) + abs(wide) / 1e12 + len(word) + (mixed is None) + moving

    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        sampler = optuna.samplers.PartialFixedSampler({"wide": 1.0}, ours())
    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=20)
    assert all(trial.params["wide"] == 1.0 for trial in study.trials)
    assert sum(PROPOSAL in trial.system_attrs for trial in study.trials) == 10


def test_proposals_of_other_levels_teach_nothing():
    study = optuna.create_study(sampler=ours())
    for number in range(16):
        trial = optuna.create_trial(
            params={"x": number},
            distributions={"x": optuna.distributions.IntDistribution(0, 20)},
            value=float(number),
            system_attrs={PROPOSAL: {"parent": [1], "edits": [[[1], 1.0, 1.0, [], False, 900, -1.0]]}},
        )
        study.add_trial(trial)
    assert 0 <= study.ask().suggest_int("x", 0, 20) <= 20
