"""Studies that tests optimise, here or in a process of their own: `python tests/studies.py NAME TRIALS URL...`."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from prunetime.search.samplers import ReinforcedEvolutionSampler

optuna.logging.set_verbosity(optuna.logging.ERROR)


@contextmanager
def opened(url: str) -> Iterator[BaseStorage]:
    """A database, or the file of a journal."""
    if "://" not in url:
        yield JournalStorage(JournalFileBackend(url))
        return
    storage = RDBStorage(url)
    yield storage
    storage.remove_session()
    storage.engine.dispose()


def ours(seed: int = 0) -> ReinforcedEvolutionSampler:
    return ReinforcedEvolutionSampler(population=10, batch=4, seed=seed)


def mixed(trial: optuna.Trial) -> float:
    """Parameters of every kind; the best is at (7, 30, 0.5, 1e-3, "b"), and few heads are infeasible."""
    heads, rows = trial.suggest_int("heads", 0, 12), trial.suggest_int("rows", 0, 48, step=2)
    share, rate = trial.suggest_float("share", 0.0, 1.0), trial.suggest_float("rate", 1e-5, 1e-1, log=True)
    kind, constant = trial.suggest_categorical("kind", ["a", "b", None]), trial.suggest_int("constant", 3, 3)
    assert constant == 3
    trial.set_constraint("heads", 3.0 - heads)
    distance = abs(heads - 7) / 12 + abs(rows - 30) / 48 + abs(share - 0.5) + abs(math.log10(rate) + 3) / 4
    return distance + 0.3 * (kind != "b")


def worker(name: str, trials: int, *urls: str) -> subprocess.Popen[str]:
    """Another process that optimises `mixed` with our sampler of seed 0, at each url; a warning ends it."""
    command = [sys.executable, "-W", "error", str(Path(__file__).resolve()), name, str(trials), *urls]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate()
    assert process.returncode == 0, errors


if __name__ == "__main__":
    name, trials, *urls = sys.argv[1:]
    for url in urls:
        with opened(url) as storage:
            optuna.load_study(study_name=name, storage=storage, sampler=ours()).optimize(mixed, n_trials=int(trials))
