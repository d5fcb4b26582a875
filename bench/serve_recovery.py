"""What is left of a server after pauses of its process, and while a neighbour takes half of its core."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import numpy as np
from serve_load import Connection, request

PAUSES = (0.05, 0.3, 1.0, 5.0)
"""Seconds for which the process is stopped."""

CLIENTS, AFTER, ANSWERED = 2, 4.0, 0.95
"""Clients of short pairs, seconds that they go on for after a pause, and the share that must be answered again."""

TIMES_ALONE, LEAST_MS = 6.0, 20.0
"""A request may take so many times as long as one alone, and 20 ms at least."""

RERANKS, DOCUMENTS = 40, 64
"""Requests that come at once, and the documents of each."""

DOCUMENT = "velvet couch in red with three seats and wooden legs for a small living room, number"


def alone(port: int, raw: bytes, times: int = 30) -> float:
    """Seconds of the request on an idle server, the median."""
    connection, spent = Connection(port), []
    for _ in range(times):
        start = time.monotonic()
        status, body = connection.ask(raw)
        assert status == 200, body
        spent.append(time.monotonic() - start)
    connection.close()
    return float(np.median(spent))


def recovery(port: int, pid: int) -> dict[str, float]:
    """Seconds after the end of a pause from which on 95 % of requests are answered, for each length of a pause: the end
    of the last quarter of a second in which fewer were."""
    pair = {"inputs": ["red sofa with three seats", "velvet couch"]}
    most_ms = max(LEAST_MS, 1e3 * TIMES_ALONE * alone(port, request("/predict", pair)))
    raw = request("/predict", pair, f"x-request-timeout-ms: {most_ms:.0f}")
    return {f"{pause:g}": _after(port, pid, raw, pause) for pause in PAUSES}


def _after(port: int, pid: int, raw: bytes, pause: float) -> float:
    seen: list[tuple[float, bool]] = []
    going = [True]

    def client() -> None:
        connection = Connection(port)
        while going[0]:
            status, _ = connection.ask(raw)
            seen.append((time.monotonic(), status == 200))
        connection.close()

    threads = [Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    time.sleep(1.0)
    os.kill(pid, signal.SIGSTOP)
    time.sleep(pause)
    os.kill(pid, signal.SIGCONT)
    end = time.monotonic()
    time.sleep(AFTER)
    going[0] = False
    for thread in threads:
        thread.join()
    step, recovered = 0.25, 0.0
    for begin in np.arange(0.0, AFTER, step):
        good = [answered for at, answered in seen if end + begin <= at < end + begin + step]
        if not good or np.mean(good) < ANSWERED:
            recovered = float(begin + step)
    return recovered


@contextmanager
def neighbour(core: int) -> Iterator[None]:
    """A process that never rests, on the core."""
    code = f"import os\nos.sched_setaffinity(0, {{{core}}})\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", code]) as busy:
        try:
            time.sleep(0.5)
            yield
        finally:
            busy.kill()


def answered_share(port: int, core: int) -> dict[str, Any]:
    """Of reranks that come at once and could all be answered by a server that has the `core` for itself, as it has been
    when they were timed: how many are while a neighbour takes half of it, as a share of an ideal server's."""
    bodies = [
        {"query": f"red sofa {n}", "texts": [f"{DOCUMENT} {n} {i}" for i in range(DOCUMENTS)]} for n in range(RERANKS)
    ]
    seconds = alone(port, request("/rerank", bodies[0]), 10)
    in_all_ms = 1e3 * seconds * RERANKS
    found: list[int] = []

    def ask(body: Any) -> None:
        connection = Connection(port)
        found.append(connection.ask(request("/rerank", body, f"x-request-timeout-ms: {in_all_ms:.0f}"))[0])
        connection.close()

    with neighbour(core):
        threads = [Thread(target=ask, args=(body,)) for body in bodies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    ideal = RERANKS // 2
    return {"answered": found.count(200), "ideal": ideal, "answered_share": found.count(200) / ideal}
