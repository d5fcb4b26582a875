"""Scoring on real Ray actors gives what scoring in this process gives, whatever happens to them."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pytest
import ray
from cases import random_config, random_ragged, random_weights
from waiting import PATIENCE, eventually

import prunetime
from prunetime import _engine
from prunetime.core.arch import ArchSpec
from prunetime.core.config import EncoderConfig
from prunetime.errors import EngineError, InputError, PrunetimeError
from prunetime.search.archive import Archive
from prunetime.search.cluster import RETRIES, Workers, start_ray, threads_each
from prunetime.search.evaluate import Elastic, ElasticScorer, Scorer, ScorerFor, ScoringRows
from prunetime.search.evolution import SearchSettings, search
from prunetime.search.space import Space


class Problem(NamedTuple):
    config: EncoderConfig
    weights: dict
    rows: ScoringRows
    specs: list[ArchSpec]

    @property
    def here(self) -> Scorer:
        return ElasticScorer(Elastic(self.config, self.weights, 2), self.rows)


@pytest.fixture(scope="module")
def problem() -> Problem:
    rng = np.random.default_rng(0)
    config = random_config(rng, layers=2, hidden=64, heads=4, head_dim=16, ffn=256, outputs=1)
    space = Space(config.dims)
    tokens = random_ragged(config, rng, rng.integers(1, 20, 300))
    rows = ScoringRows(tokens, rng.random((300, 1)).astype(np.float32))
    specs = [space.spec(space.random(rng)) for _ in range(20)]
    return Problem(config, random_weights(config, ArchSpec.full(config.dims), rng), rows, specs)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray of four cores, whatever the machine has."""
    start_ray(4)
    yield
    ray.shutdown()


@pytest.fixture
def two(problem: Problem, cluster: None) -> Iterator[ScorerFor]:  # noqa: ARG001 (is there while the workers are)
    with Workers(2).scoring(Elastic(problem.config, problem.weights)) as scorer_for:
        yield scorer_for


def processes_of_workers(count: int) -> list[psutil.Process]:
    """Once there are so many: Ray ends those of the test before in its own time."""
    found: list[psutil.Process] = []

    def so_many() -> bool:
        children = psutil.Process().children(recursive=True)
        with suppress(psutil.NoSuchProcess):
            found[:] = [child for child in children if "".join(child.cmdline()).startswith("ray::_Worker")]
            return len(found) == count
        return False

    eventually(so_many)
    return found


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("count", [1, 4])
def test_scores_are_those_of_this_process_in_order_for_any_number_of_workers(problem: Problem, count: int) -> None:
    expected = list(problem.here(problem.specs))
    with Workers(count).scoring(Elastic(problem.config, problem.weights)) as scorer_for:
        processes_of_workers(count)
        scorer = scorer_for(problem.rows)
        assert list(scorer(problem.specs)) == expected
        assert list(scorer(problem.specs[::-1])) == expected[::-1]
        assert list(scorer([])) == []
    assert ray.is_initialized()
    assert len(set(expected)) == len(problem.specs)


def test_a_search_ends_in_the_same_archive(problem: Problem, two: ScorerFor, tmp_path: Path) -> None:
    space = Space(problem.config.dims)
    settings = SearchSettings(60_000.0, 60, population=16, tournament=4)

    def searched(name: str, scorer: Scorer) -> bytes:
        with Archive(tmp_path / name, "digest") as archive:
            search(space, lambda spec: 1.0 + spec.weights(space.dims), scorer, archive, settings)
        return (tmp_path / name).read_bytes()

    assert searched("workers", two(problem.rows)) == searched("here", problem.here)


def test_workers_killed_in_the_middle_of_a_batch_lose_nothing(problem: Problem, two: ScorerFor) -> None:
    scores = iter(two(problem.rows)(problem.specs * 20))
    found = [next(scores) for _ in range(30)]
    victim, other = processes_of_workers(2)
    victim.kill()
    found += [next(scores) for _ in range(200)]
    other.kill()
    found += scores
    psutil.wait_procs([victim, other], timeout=PATIENCE)  # until Ray has reaped them
    assert not victim.is_running()
    assert not other.is_running()
    assert found == list(problem.here(problem.specs)) * 20


class Deadly:
    """Kills the process that unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)",)


def test_errors_of_engines_and_deaths_again_and_again_are_said(problem: Problem, two: ScorerFor) -> None:
    with pytest.raises(EngineError, match="layers"):
        list(two(problem.rows)([ArchSpec(problem.specs[0].layers[:1])]))
    with pytest.raises(PrunetimeError, match=rf"died, and so did the {RETRIES} .*fewer --workers"):
        list(two(Deadly())(problem.specs[:1]))
    assert list(two(problem.rows)(problem.specs)) == list(problem.here(problem.specs))


@pytest.mark.usefixtures("two")
def test_workers_are_as_nice_as_this_process() -> None:
    assert [worker.nice() for worker in processes_of_workers(2)] == [psutil.Process().nice()] * 2


@pytest.mark.usefixtures("cluster")
def test_workers_run_the_kernels_of_this_process(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = list(problem.here(problem.specs))
    monkeypatch.setenv("PRUNETIME_ISA", "portable")
    with Workers(1).scoring(Elastic(problem.config, problem.weights)) as scorer_for:
        found = list(scorer_for(problem.rows)(problem.specs))
    assert found == list(problem.here(problem.specs)) != usual


@pytest.mark.usefixtures("cluster")
def test_another_build_of_the_engine_is_refused(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_engine, "BUILD", "another")
    with (
        pytest.raises(InputError, match="this process has another: install the same"),
        Workers(1).scoring(Elastic(problem.config, problem.weights)),
    ):
        pass


@pytest.mark.parametrize(
    ("cores", "workers", "threads"), [([8], 1, 8), ([8], 3, 2), ([2], 2, 1), ([8, 8], 3, 4), ([4, 16], 5, 4)]
)
def test_cores_are_shared_out_evenly(cores: list[int], workers: int, threads: int) -> None:
    assert threads_each(cores, workers) == threads


def test_more_workers_than_cores_are_refused() -> None:
    with pytest.raises(InputError, match="5 workers need a core each, and this Ray has 4"):
        threads_each([2, 2], 5)


def test_without_ray_the_command_names_the_extra(run_python: Callable[..., str]) -> None:
    code = (
        "import sys; sys.modules['ray'] = None; from click.testing import CliRunner; from prunetime.cli import main; "
        "ran = CliRunner().invoke(main, ['prune', '--model', 'm', '--data', 'd', '--latency', '1ms', '--out', 'o', "
        "'--workers', '2']); print(ran.exit_code, ran.stderr)"
    )
    assert run_python(code).startswith(
        "2 error: workers need Ray, which is not installed: pip install 'prunetime[ray]'"
    )


def test_a_ray_of_its_own_is_quiet_and_gone_afterwards(run_python: Callable[..., str]) -> None:
    code = (
        "import psutil, ray; from prunetime.search.cluster import _connected; w = _connected(3); w.__enter__(); "
        "print(ray.cluster_resources()['CPU'] >= 3); w.__exit__(None, None, None); "
        "print(ray.is_initialized(), psutil.Process().children())"
    )
    assert run_python(code) == "True\nFalse []\n"


@pytest.mark.full
def test_a_ray_that_is_too_slow_to_start_is_started_again(tmp_path: Path, run_python: Callable[..., str]) -> None:
    """Ray's agent, which it gives 15 s, takes longer the first time."""
    slow = (
        "import pathlib, sys, time\n"
        "first = pathlib.Path(__file__).with_name('first')\n"
        "if any('dashboard/agent.py' in word for word in sys.orig_argv) and not first.exists():\n"
        "    first.touch()\n"
        "    time.sleep(60)\n"
    )
    (tmp_path / "sitecustomize.py").write_text(slow)
    code = (
        "import gc, psutil, ray, sys; from prunetime.search.cluster import start_ray\n"
        "sys.unraisablehook = lambda found: print(found.exc_value)\n"
        "start_ray(3); print(ray.cluster_resources()['CPU']); ray.shutdown()\n"
        "gc.collect(); print(psutil.Process().children())"
    )
    path = os.pathsep.join([str(tmp_path), str(Path(prunetime.__file__).parents[1])])
    assert run_python(code, PYTHONPATH=path) == "3.0\n[]\n"
    assert (tmp_path / "first").exists()


def test_an_address_where_no_cluster_listens_is_named(run_python: Callable[..., str]) -> None:
    code = (
        "from prunetime.errors import InputError; from prunetime.search.cluster import _connected\n"
        "try: _connected(2).__enter__()\n"
        "except InputError as error: print(error)"
    )
    assert "no Ray cluster listens at RAY_ADDRESS 127.0.0.1:1" in run_python(code, RAY_ADDRESS="127.0.0.1:1")
