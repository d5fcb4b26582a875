"""The contract of a sampler: what any study may ask of it, for ours and for Optuna's own."""

import math

import numpy as np
import optuna
import pytest
from optuna.samplers import NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from prunetime.errors import InputError
from prunetime.search.samplers import PROPOSAL, ReinforcedEvolutionSampler

optuna.logging.set_verbosity(optuna.logging.ERROR)


def ours(seed=0):
    return ReinforcedEvolutionSampler(population=10, batch=4, seed=seed)


SAMPLERS = {
    "ours": ours,
    "tpe": lambda seed=0: TPESampler(seed=seed),
    "nsga2": lambda seed=0: NSGAIISampler(seed=seed, population_size=10),
    "random": lambda seed=0: RandomSampler(seed),
}
each = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
STORAGES = {
    "memory": lambda _: InMemoryStorage(),
    "journal": lambda folder: JournalStorage(JournalFileBackend(str(folder / "journal.log"))),
    "sqlite": lambda folder: RDBStorage(f"sqlite:///{folder}/study.db"),
}


def mixed(trial: optuna.Trial) -> float:
    """Parameters of every kind; the best is at (7, 30, 0.5, 1e-3, "b")."""
    heads, rows = trial.suggest_int("heads", 0, 12), trial.suggest_int("rows", 0, 48, step=2)
    share, rate = trial.suggest_float("share", 0.0, 1.0), trial.suggest_float("rate", 1e-5, 1e-1, log=True)
    kind, constant = trial.suggest_categorical("kind", ["a", "b", None]), trial.suggest_int("constant", 3, 3)
    assert constant == 3
    distance = abs(heads - 7) / 12 + abs(rows - 30) / 48 + abs(share - 0.5) + abs(math.log10(rate) + 3) / 4
    return distance + 0.3 * (kind != "b")


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
@pytest.mark.parametrize("storage", STORAGES.values(), ids=STORAGES)
def test_a_study_goes_on_from_its_storage(sampler, storage, tmp_path):
    study = optuna.create_study(study_name="s", storage=storage(tmp_path), sampler=sampler())
    study.optimize(bowl, n_trials=16)
    same = study._storage if isinstance(study._storage, InMemoryStorage) else storage(tmp_path)
    again = optuna.load_study(study_name="s", storage=same, sampler=sampler(1))
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


def test_the_same_seed_and_history_give_the_same_proposals_however_it_came_to_them(tmp_path):
    whole = optuna.create_study(sampler=ours(3))
    whole.optimize(mixed, n_trials=24)
    storage = STORAGES["journal"](tmp_path)
    for trials in (7, 8, 9):  # another process every time
        part = optuna.create_study(study_name="s", storage=storage, sampler=ours(3), load_if_exists=True)
        part.optimize(mixed, n_trials=trials)
    assert of_ours(part) == of_ours(whole)
    other = optuna.create_study(sampler=ours(4))
    other.optimize(mixed, n_trials=24)
    assert of_ours(other) != of_ours(whole)


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
