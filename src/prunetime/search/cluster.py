"""Scoring on Ray: actors on this machine or on a cluster, each with an engine of its own."""

from __future__ import annotations

import logging
import os
import socket
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from prunetime.core.arch import ArchSpec
from prunetime.core.machine import memory_bytes
from prunetime.errors import InputError, PrunetimeError, first_line
from prunetime.inference.engine import ReferenceKernel, engine_build
from prunetime.search.evaluate import CACHE_SHARE, Elastic, ElasticScorer, Scorer, ScorerFor, ScoringRows

try:
    import ray
    from ray.exceptions import GetTimeoutError, RayError, RayTaskError
except ModuleNotFoundError as error:
    raise InputError("workers need Ray, which is not installed: pip install 'prunetime[ray]'") from error

LOG = logging.getLogger(__name__)

QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}

STARTS = 5
"""How often Ray is started at most. It gives one process of its own 15 s and all of them 30 s to be there, which no
setting changes (https://github.com/ray-project/ray/issues/65983): too little on a busy machine."""

RETRIES = 3
"""A candidate whose worker died is scored again, by the worker that takes its place, at most so often."""

CONNECT_SECONDS = 10.0

START_SECONDS = 300.0
"""After this long, a cluster that has not started all workers is too busy."""


@dataclass(frozen=True)
class Workers:
    """`count` Ray actors, on the cluster of the environment variable RAY_ADDRESS, or else on a Ray of this machine.

    Each has an equal share of the cores as threads, at least one.
    """

    count: int

    def check(self) -> None:
        """Starts Ray and the engine in one worker, and ends them again; to be called before hours of training.

        Raises InputError and PrunetimeError as `scoring` does.
        """
        with _connected(self.count):
            threads_each(_cores(), self.count)
            _check_builds(_value([ray.remote(engine_build).remote()]))

    @contextmanager
    def scoring(self, whole: Elastic) -> Iterator[ScorerFor]:
        """Within, the actors score sub-networks of an elastic encoder, as `ElasticScorer` does in this process, each on
        as many threads as it has cores.

        A scorer raises what an engine raises, and PrunetimeError where workers die again and again.

        Raises:
            InputError: Ray does not start, no cluster is at RAY_ADDRESS, or it has too few cores or another build of
                the engine.
            PrunetimeError: the workers did not start.
        """
        with _connected(self.count):
            threads = threads_each(_cores(), self.count)
            actor = ray.remote(_Worker).options(num_cpus=threads, max_restarts=-1, max_task_retries=RETRIES)
            # The kernels of this process: scores must not depend on the CPU that computes them.
            isa = ReferenceKernel().isa
            elastic = [ray.put(replace(whole, weights=dict(whole.weights), threads=threads, isa=isa))]
            actors: list[Any] = [actor.remote(self.count) for _ in range(self.count)]
            try:
                _check_builds(_value([each.build.remote(elastic) for each in actors]))
                yield partial(_scorer, actors, elastic)
            finally:
                for each in actors:
                    ray.kill(each)


def _cores() -> list[int]:
    nodes: list[dict[str, Any]] = ray.nodes()
    return [int(node["Resources"].get("CPU", 0)) for node in nodes if node["Alive"]]


def threads_each(nodes: Sequence[int], workers: int) -> int:
    """The most threads that each of `workers` can have on machines with so many cores; a worker is on one machine.

    Raises InputError where there are fewer cores than workers.
    """
    for threads in range(max(nodes, default=0), 0, -1):
        if sum(cores // threads for cores in nodes) >= workers:
            return threads
    raise InputError(f"{workers} workers need a core each, and this Ray has {sum(nodes)}: ask for fewer --workers")


@contextmanager
def _connected(workers: int) -> Iterator[None]:
    """Within, Ray is there; one that was there before stays."""
    if ray.is_initialized():
        yield
        return
    if address := os.environ.get("RAY_ADDRESS"):
        _check_listening(address)
    try:
        if address:
            ray.init(address, **QUIET)
        else:
            start_ray(max(len(os.sched_getaffinity(0)), workers))
    except Exception as error:  # of any kind: whatever went wrong where a process of Ray's was started
        said = first_line(error)
        raise InputError(
            f"Ray does not start{f' (RAY_ADDRESS is {address})' if address else ''}: {said}; mend that, or leave "
            "--workers out: candidates are then scored in this process, with the same result"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def start_ray(cores: int) -> None:
    """Starts a Ray of this machine with so many cores, again where it was too slow to start.

    Raises what `ray.init` raises where it does not start at all.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # or else 15: beside other busy processes a command would wait
    for start in range(1, STARTS + 1):
        try:
            ray.init("local", num_cpus=cores, include_dashboard=False, **QUIET)
            return
        except Exception as error:  # Ray has no class of its own for it
            _end_processes(error)
            if "timed out during startup" not in str(error) or start == STARTS:
                raise
            LOG.warning("Ray was too slow to start on this machine: start %d of %d", start + 1, STARTS)


def _end_processes(error: Exception) -> None:
    """Ends the processes of a Ray that gave up with `error`, whose traceback alone has the node that started them."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        end = getattr(frame.f_locals.get("self"), "kill_all_processes", None)
        if end:
            end(check_alive=False, allow_graceful=False, wait=True)


def _check_listening(address: str) -> None:
    """Ray itself would wait for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise InputError(f"no Ray cluster listens at RAY_ADDRESS {address}: {error}") from error


class _Worker:
    """Scores candidates as an actor. Its process may die and start anew at any time, so a call brings what it needs.

    `elastic` and `rows` are references, each in a list, so that Ray does not fetch it for every call.
    """

    def __init__(self, workers: int) -> None:
        self._cache_bytes = int(CACHE_SHARE * memory_bytes() / workers)
        self._elastic: Elastic | None = None
        self._scorer: tuple[list[Any], ElasticScorer] | None = None

    def build(self, elastic: list[Any]) -> str:
        """Returns the build of the engine, once the engine is ready."""
        _ = self._fetched(elastic).engine
        return engine_build()

    def score(self, elastic: list[Any], rows: list[Any], spec: ArchSpec) -> float:
        if self._scorer is None or self._scorer[0] != rows:
            self._scorer = None  # its cache is freed before the next one fills
            (fetched,) = ray.get(rows)
            self._scorer = rows, ElasticScorer(self._fetched(elastic), fetched, self._cache_bytes)
        (score,) = self._scorer[1]([spec])
        return score

    def _fetched(self, elastic: list[Any]) -> Elastic:
        if self._elastic is None:
            (self._elastic,) = ray.get(elastic)
        return self._elastic


def _scorer(actors: Sequence[Any], elastic: list[Any], rows: ScoringRows) -> Scorer:
    """Returns a scorer by `actors`: whoever is idle takes the next spec."""
    subject = elastic, [ray.put(rows)]

    def scores_in_order(specs: Sequence[ArchSpec]) -> Iterator[float]:
        idle, waiting = list(actors), deque(enumerate(specs))
        running: dict[Any, tuple[int, Any]] = {}
        scores: dict[int, float] = {}
        for number in range(len(specs)):
            while number not in scores:
                while idle and waiting:
                    (taken, spec), actor = waiting.popleft(), idle.pop()
                    running[actor.score.remote(*subject, spec)] = taken, actor
                (answer,), _ = ray.wait(list(running))
                done, actor = running.pop(answer)
                scores[done] = _value(answer)
                idle.append(actor)
            yield scores.pop(number)

    return scores_in_order


def _check_builds(builds: Sequence[str]) -> None:
    if set(builds) != {engine_build()}:
        raise InputError(
            f"the workers have engine builds {', '.join(sorted(set(builds)))}, this process has {engine_build()}: "
            "install the same prunetime on every node, or scores would depend on who computes them"
        )


def _value(answer: Any) -> Any:
    """The answer of an actor, or a list of answers; raises what it raised."""
    try:
        return ray.get(answer, timeout=START_SECONDS)
    except RayTaskError as error:
        raise error.cause from error
    except GetTimeoutError as error:
        raise PrunetimeError(
            f"Ray did not start the workers in {START_SECONDS:.0f} s: other jobs may hold its cores; ask for fewer "
            "--workers, or run the same command again later"
        ) from error
    except RayError as error:
        raise PrunetimeError(
            f"a Ray worker died, and so did the {RETRIES} that took its place ({str(error).strip().splitlines()[-1]}); "
            "memory may be short: ask for fewer --workers and run the same command again"
        ) from error
