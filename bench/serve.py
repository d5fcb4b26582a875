"""The server against the bare engine: what HTTP costs at one request at a time, and what is left of the engine's
throughput; whether every answer is right, and memory stays, at more load than it can take.

    python bench/serve.py --artifact A --json            all of it
    python bench/serve.py --artifact A --quick --json    in under two minutes
    python bench/serve.py --artifact A --faults --json   pauses, a busy neighbour, the worst requests, and stops

A is an artifact of a task of pairs, such as `make demo` leaves. Texts are all different, and the server remembers none.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from provenance import provenance
from serve_faults import hurt, lost_at_stop, resident
from serve_load import Connection, Crowd, load, request
from serve_recovery import answered_share, recovery

import prunetime
from prunetime.core.artifact import write_json
from prunetime.inference.model import Model
from prunetime.tasks.synthetic import ad_relevance

RESULT = Path(__file__).parent / "results" / "serve.json"

ROUNDS, CALLS = 7, 300
PAIRS_OF_REQUEST = 32
CONNECTIONS, CROWD = 8, 256
OVERLOAD = 1.5
PAIRS_OF_CROWD = 8
EVERY = 100
"""Of so many requests one is broken, and one client leaves."""

ATTACK_SECONDS = 4.0
"""For which each of the worst requests is sent."""

Pair = tuple[str, str]


def pairs(count: int) -> list[Pair]:
    columns = ad_relevance(count, 5).columns
    return [(f"{q} {n}", f"{t} {n}") for n, (q, t) in enumerate(zip(columns["query"], columns["title"], strict=True))]


@contextmanager
def served(artifact: Path, *words: str) -> Iterator[tuple[int, int]]:
    """(port, process id) of a server of it."""
    command = [
        sys.executable,
        "-m",
        "prunetime",
        "serve",
        f"model={artifact}",
        "--port",
        "0",
        "--cache-mb",
        "0",
        *words,
    ]
    with Path(os.devnull).open("w") as nowhere:
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=nowhere, text=True)
        assert process.stderr
        for line in process.stderr:
            if found := re.search(r"http://127.0.0.1:(\d+)", line):
                break
        sink = subprocess.Popen(["cat"], stdin=process.stderr, stdout=nowhere)  # its log, which would fill up
        try:
            assert found
            yield int(found.group(1)), process.pid
        finally:
            process.terminate()
            process.wait(30)
            sink.wait(30)


def overhead(model: Model, port: int) -> dict[str, float]:
    """p50 of one pair at a time, by HTTP and directly, in turns; the median of the rounds."""
    texts, connection = pairs(2 * ROUNDS * CALLS), Connection(port)
    raw = [request("/predict", {"inputs": list(pair)}) for pair in texts]
    found: dict[str, list[float]] = {"http": [], "direct": []}
    for turn in range(ROUNDS):
        mine = range(turn * CALLS, (turn + 1) * CALLS)
        for name, ask in (
            ("http", lambda i: connection.ask(raw[i])),
            ("direct", lambda i: model.score([texts[-1 - i]])),
        ):
            spent = []
            for i in mine:
                start = time.perf_counter()
                ask(i)
                spent.append(1e6 * (time.perf_counter() - start))
            found[name].append(float(np.median(spent)))
    connection.close()
    http, direct = (float(np.median(found[name])) for name in ("http", "direct"))
    of_rounds = float(np.median(np.subtract(found["http"], found["direct"])))
    return {"http_p50_us": http, "direct_p50_us": direct, "overhead_p50_us": of_rounds}


def throughput(model: Model, port: int, seconds: float) -> dict[str, float]:
    """Pairs a second of the bare engine, in batches of as many, and of the server under full load, in turns."""
    texts = pairs(64 * PAIRS_OF_REQUEST)
    batches = [texts[i : i + PAIRS_OF_REQUEST] for i in range(0, len(texts), PAIRS_OF_REQUEST)]
    raw = [request("/predict", {"inputs": [list(pair) for pair in batch]}) for batch in batches]
    tokens = [model.tokenize(batch) for batch in batches]
    bare, http = [], []
    for _ in range(3):
        end, done = time.monotonic() + seconds / 6, 0
        start = time.monotonic()
        while time.monotonic() < end:
            model.engine.logits(tokens[done % len(tokens)])
            done += 1
        bare.append(done * PAIRS_OF_REQUEST / (time.monotonic() - start))
        tally = asyncio.run(load(port, raw, Crowd(CONNECTIONS), seconds / 6))
        http.append(tally.statuses.get(200, 0) * PAIRS_OF_REQUEST / (seconds / 6))
    shares = [h / b for h, b in zip(http, bare, strict=True)]
    return {
        "bare_pairs_per_s": float(np.median(bare)),
        "http_pairs_per_s": float(np.median(http)),
        "throughput_share": float(np.median(shares)),
    }


def overloaded(model: Model, root: Path, seconds: float, capacity: float) -> dict[str, Any]:
    """More than it can take, with broken requests and clients that leave, while models are swapped and one bad artifact
    is offered: what is answered is right, the rest is refused. Then it is told to stop, with requests under way."""
    texts = pairs(64 * PAIRS_OF_CROWD)
    batches = [texts[i : i + PAIRS_OF_CROWD] for i in range(0, len(texts), PAIRS_OF_CROWD)]
    whole = [request("/predict", {"inputs": [list(pair) for pair in batch]}) for batch in batches]
    broken = request("/predict", {"inputs": [["alone"]]})
    raw = [broken if n % EVERY == 0 else one for n, one in enumerate(whole * 10, start=1)]
    crowd = Crowd(CROWD, OVERLOAD * capacity / PAIRS_OF_CROWD, keep=7, leave=EVERY)
    with served(root / "model", "--queue-tokens", "16384", "--model-root", str(root)) as (port, pid):
        asyncio.run(load(port, raw, crowd, seconds / 4))
        before = resident(pid)
        with ThreadPoolExecutor() as pool:
            swaps = pool.submit(swap, port, seconds)
            tally = asyncio.run(load(port, raw, crowd, seconds))
            swaps.result()
        grown = resident(pid) / before - 1.0
        unanswered = stopped(port, pid, whole)
    label, wrong = model.manifest.task.labels[1], 0
    for number, body in tally.bodies.items():
        good = [next(each["score"] for each in row if each["label"] == label) for row in json.loads(body)]
        wrong += not np.allclose(good, model.score(batches[number % len(raw) % len(batches)]), rtol=1e-5)
    refused = {str(status): n for status, n in sorted(tally.statuses.items()) if status != 200}
    return {
        "answered": tally.statuses.get(200, 0),
        "checked": len(tally.bodies),
        "wrong": wrong,
        "lost": tally.lost + unanswered,
        "left": tally.left,
        "refused": refused,
        "rss_growth": grown,
    }


def swap(port: int, seconds: float) -> None:
    """Two good swaps, and a bad one between them."""
    for artifact, expected in (("model", 200), ("bad", 422), ("model", 200)):
        time.sleep(seconds / 4)
        path = "/v2/repository/models/model/load"
        connection = Connection(port)  # a kept one would be closed by now
        status, body = connection.ask(request(path, {"artifact": artifact}))
        connection.close()
        assert status == expected, body


def stopped(port: int, pid: int, raw: Sequence[bytes]) -> int:
    """How many of the requests that are under way as the server is told to stop get no answer."""
    found: list[int] = []

    def ask(one: bytes) -> None:
        connection = Connection(port)
        with suppress(OSError):
            found.append(connection.ask(one)[0])
        connection.close()

    askers = [Thread(target=ask, args=(one,)) for one in raw[:32]]
    for asker in askers:
        asker.start()
    time.sleep(0.02)
    os.kill(pid, signal.SIGTERM)
    for asker in askers:
        asker.join()
    return len(askers) - len(found)


@contextmanager
def offered(artifact: Path) -> Iterator[Path]:
    """A folder with the artifact as `model`, and one that is cut off as `bad`."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("model", "bad"):
            shutil.copytree(artifact, Path(folder, name))
        weights = Path(folder, "bad", "model.safetensors")
        weights.write_bytes(weights.read_bytes()[:-1000])
        yield Path(folder)


def faults(artifact: Path) -> dict[str, Any]:
    """What is left of a server after what may happen to it, in under five minutes."""
    cores = os.sched_getaffinity(0)
    core = max(cores)
    with served(artifact) as (port, pid):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {core})
        os.sched_setaffinity(0, cores - {core} or cores)
        by_pause = recovery(port, pid)
        found: dict[str, Any] = {"recovery_s": max(by_pause.values()), "recovery_s_by_pause_s": by_pause}
        found |= answered_share(port, core)
        os.sched_setaffinity(0, cores)
    with served(artifact) as (port, pid):
        found |= hurt(port, pid, ATTACK_SECONDS)
    return found | lost_at_stop(partial(served, artifact))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--faults", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.faults:
        found = provenance() | faults(options.artifact)
        write_json(RESULT.with_name("serve_faults.json"), found)
        print(json.dumps(found) if options.json else json.dumps(found, indent=2))
        return
    model = prunetime.load(options.artifact)
    with served(options.artifact) as (port, _):
        found = provenance() | overhead(model, port) | throughput(model, port, 30 if options.quick else 120)
    with offered(options.artifact) as root:
        found |= overloaded(model, root, 30 if options.quick else 600, found["http_pairs_per_s"])
    write_json(RESULT.with_name("serve_quick.json") if options.quick else RESULT, found)
    print(json.dumps(found) if options.json else json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
