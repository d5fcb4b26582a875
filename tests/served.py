"""Real artifacts, and a real server in a process of its own."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from cases import random_config, random_weights
from tiny import wordpiece
from tokenizers import Tokenizer
from waiting import PATIENCE, eventually

from prunetime.core import artifact
from prunetime.core.arch import ArchSpec
from prunetime.core.precision import PrecisionPlan
from prunetime.core.prompts import Prompts
from prunetime.core.task import Task
from prunetime.serve.app import App
from prunetime.serve.experiments.experiment import Arm, Experiment
from prunetime.tasks.synthetic import ad_relevance

TASKS = {
    "pairs": Task("classification", ("bad", "good"), ("query", "title"), 24),
    "topics": Task("classification", ("shoes", "sofas", "lamps"), ("text",), 24),
    "several": Task("multi-label-classification", ("shoes", "sofas", "lamps"), ("text",), 24, threshold=0.45),
    "answers": Task("question-answering", (), ("question", "context"), 24, 4),
    "words": Task("token-classification", ("O", "B-NAME", "I-NAME"), ("tokens",), 24),
    "twins": Task("similarity", (), ("query", "title"), 24),
    "prompted": Task("similarity", (), ("query", "title"), 24, prompts=Prompts({"a": "red ", "b": "a lamp "}, "a")),
    "prompted pairs": Task("relevance", (), ("query", "title"), 24, prompts=Prompts({"a": "red "}, "a")),
}


CONFIG = """
[[experiment]]
name = "ads"
on = "pairs"
margin = 0.01
arms = [{ name = "dense", model = "pairs", share = 0.5 }, { name = "pruned", model = "other", share = 0.5 }]
shadow = ["other"]
"""
ADS = Experiment("ads", "pairs", [Arm("dense", "pairs", 0.5), Arm("pruned", "other", 0.5)])


@cache
def made_tokenizer() -> Tokenizer:
    """One for all: trained again, it would number some pieces otherwise."""
    columns = ad_relevance(200, 0).columns
    return wordpiece(columns["query"] + columns["title"])


def make_artifact(
    folder: Path, name: str = "pairs", seed: int = 0, *, kept: Sequence[float] = (), **sizes: int
) -> Path:
    """An artifact of a task, with random weights; its first layers keep such shares of the tokens, the others all."""
    rng, task, tokenizer = np.random.default_rng(seed), TASKS[name], made_tokenizer()
    config = random_config(rng, outputs=task.outputs, rows=task.rows, positions=24, **sizes)
    config = replace(config, dims=replace(config.dims, vocabulary=tokenizer.get_vocab_size()))
    spec = ArchSpec.full(config.dims)
    for layer, share in enumerate(kept):
        spec = spec.with_layer(layer, tokens=share)
    manifest = artifact.Manifest(config, spec, PrecisionPlan(), task, {})
    files = {artifact.TOKENIZER: tokenizer.to_str().encode()}
    return artifact.write(folder, manifest, random_weights(config, spec, rng), files)


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Served:
    """`prunetime serve` with some arguments, once it serves or has refused to; said to stop at the end."""

    def __init__(self, *words: str) -> None:
        self._log, name = tempfile.mkstemp()  # a pipe that nobody reads would fill up and stop the server
        Path(name).unlink()
        command = [sys.executable, "-m", "prunetime", "serve", "--timeout", str(PATIENCE), *words]
        self.process = subprocess.Popen(command, stderr=self._log)
        eventually(lambda: "serving" in self.said or self.process.poll() is not None)
        served = re.search(r"serving .* at https?://127.0.0.1:(\d+)", self.said)
        self.port = int(served.group(1)) if served else 0
        grpc = re.search(r"serving .* grpcs?://127.0.0.1:(\d+)", self.said)
        self.grpc_port = int(grpc.group(1)) if grpc else 0

    @property
    def said(self) -> str:
        return os.pread(self._log, 1 << 26, 0).decode()

    def ask(self, method: str, path: str, content: Any = None, **headers: str | bytes) -> Reply:
        body = content if isinstance(content, bytes | None) else json.dumps(content).encode()
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)) as connection:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())

    def get(self, path: str, **headers: str) -> Reply:
        return self.ask("GET", path, **headers)

    def post(self, path: str, content: Any, **headers: str | bytes) -> Reply:
        return self.ask("POST", path, content, **headers)

    def queued_tokens(self) -> float:
        """Of all processes, as they last said."""
        return float(re.search(r"^prunetime_queued_tokens (.*)$", self.get("/metrics").body.decode(), re.MULTILINE)[1])

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def stop(self) -> tuple[int, str]:
        """The exit code and what was said; the process stops if it has not."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        self.process.wait(PATIENCE)
        return self.process.returncode, self.said


async def ask(app: App, content: Any, path: str = "/predict", **headers: str) -> int:
    """The status of an answer, without a server between."""
    messages = [{"type": "http.request", "body": json.dumps(content).encode()}]
    sent: list[dict] = []

    async def receive() -> dict:
        if messages:
            return messages.pop()
        await asyncio.sleep(PATIENCE)
        return {"type": "http.disconnect"}

    async def send(message: dict) -> None:
        sent.append(message)

    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    await app({"type": "http", "method": "POST", "path": path, "headers": named}, receive, send)
    return sent[0]["status"]


@contextmanager
def meanwhile(count: int, work: Callable[[], object]) -> Iterator[None]:
    """`work` in so many threads, which are done at the end."""
    threads = [Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join()


def together(count: int, work: Callable[[], object]) -> None:
    with meanwhile(count, work):
        pass


def stopped_while_asked(served: Served, askers: int, rows: int) -> tuple[int, str, list[tuple[int, int]]]:
    """Exit code and log of a server that is told to stop while tokens wait, and status and length of every answer; who
    was not taken on any more, or had no connection yet, has none."""
    answers: list[tuple[int, int]] = []

    def ask() -> None:
        with suppress(ConnectionError):
            answer = served.post("/predict", {"inputs": [["red sofa", "lamp " * 20]] * rows})
            answers.append((answer.status, len(answer.json)))

    with meanwhile(askers, ask):
        eventually(lambda: len(answers) == askers or served.queued_tokens() > 0)
        code, said = served.stop()
    return code, said, answers
