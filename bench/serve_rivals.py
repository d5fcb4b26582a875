"""Requests a second with a p99 of at most 10 ms (and of 50 ms), from one core: `prunetime serve`, a CrossEncoder of
sentence-transformers (ONNX backend) behind FastAPI, and Infinity (optimum engine), each with the same model, dense and
pruned, in turns.

    python bench/serve_rivals.py --dense RUN/teacher --pruned RUN/artifact --cross-encoder VENV --infinity VENV --json

Requests are single pairs that come at random (Poisson); a server has the first core, the load the second. VENV are
environments with `sentence-transformers[onnx] fastapi uvicorn uvloop httptools` and with (it starts with no later ones)
`infinity-emb[server,torch,optimum] optimum[onnxruntime]<1.25 transformers<4.49 pyarrow<20`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from provenance import provenance
from serve import pairs
from serve_load import Connection, Crowd, load, request

import prunetime
from prunetime.cli import main as prunetime_cli
from prunetime.core.artifact import read, write_json

RESULT = Path(__file__).parent / "results" / "serve_rivals.json"

P99_MS = (10, 50)
CONNECTIONS = 64
PROBE_SECONDS, STEPS = 3.0, 6
ROUNDS = 3


@dataclass
class Rival:
    """A server on one core, stopped while others are measured; `asks` are raw requests."""

    name: str
    process: subprocess.Popen[bytes]
    port: int
    asks: Sequence[bytes]

    def signal(self, number: int) -> None:
        os.killpg(self.process.pid, number)

    def measured(self) -> dict[str, float]:
        """Milliseconds of one request at a time, and requests a second at each limit of p99."""
        self.signal(signal.SIGCONT)
        asyncio.run(load(self.port, self.asks, Crowd(1), 1.0))
        alone = np.array(asyncio.run(load(self.port, self.asks, Crowd(1), 2.0)).seconds)
        found = {"p50_ms": 1e3 * float(np.median(alone)), "p99_ms": 1e3 * float(np.quantile(alone, 0.99))}
        for limit in P99_MS:
            found[f"per_s_within_{limit}_ms"] = self.rate_within(limit, 1.1 * len(alone) / 2.0)
        self.signal(signal.SIGSTOP)
        return found

    def rate_within(self, limit_ms: float, high: float) -> float:
        """Requests a second, at most `high`, with a p99 of at most `limit_ms`."""
        low = 0.0
        for _ in range(STEPS):
            rate = (low + high) / 2.0
            low, high = (rate, high) if self.p99_ms(rate) <= limit_ms else (low, rate)
        return low

    def p99_ms(self, rate: float) -> float:
        """At so many requests a second, those that are not answered counted as never."""
        tally = asyncio.run(load(self.port, self.asks, Crowd(CONNECTIONS, rate), PROBE_SECONDS))
        refused = sum(n for status, n in tally.statuses.items() if status != 200) + tally.lost
        return 1e3 * float(np.quantile([*tally.seconds, *[np.inf] * refused], 0.99, method="higher"))


def started(name: str, command: Sequence[str], asks: Sequence[bytes], **environment: str) -> Rival:
    port = free_port()
    here = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PORT": str(port)} | environment
    words = [word.replace("PORT", str(port)) for word in command]
    log = Path(tempfile.gettempdir(), f"rival-{name.replace(' ', '-')}.log")
    with log.open("wb") as out:
        pinned = ["taskset", "-c", "0", *words]
        process = subprocess.Popen(pinned, env=here, stdout=out, stderr=out, start_new_session=True)
    rival = Rival(name, process, port, asks)
    until = time.monotonic() + 120.0
    while True:
        with suppress(OSError):
            connection = Connection(port)
            status, body = connection.ask(asks[0])
            connection.close()
            assert status == 200, f"{name}: {body[:500]!r}"
            break
        assert process.poll() is None, f"{name} has ended: see {log}"
        assert time.monotonic() < until, f"{name} does not start"
        time.sleep(0.5)
    rival.signal(signal.SIGSTOP)
    return rival


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def as_hub_folder(folder: Path, to: Path) -> Path:
    """The same model as those load it: ONNX, tokenizer and a configuration."""
    (to / "onnx").mkdir(parents=True)
    prunetime_cli(
        ["export", str(folder), "--to", "onnx", "--out", str(to / "onnx" / "model.onnx")], standalone_mode=False
    )
    task = read(folder).manifest.task
    shutil.copy(folder / "tokenizer.json", to)
    config = json.loads((folder / "config.json").read_text())
    labels = {str(index): label for index, label in enumerate(task.labels)}
    config |= {"model_type": "bert", "architectures": ["BertForSequenceClassification"], "id2label": labels}
    write_json(to / "config.json", config)
    limits = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": task.max_length}
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    write_json(to / "tokenizer_config.json", limits | special)
    return to


def with_one_score(hub: Path, to: Path) -> Path:
    """The same with one output, the difference of the two: Infinity reranks with no other."""
    shutil.copytree(hub, to)
    model = onnx.load(to / "onnx" / "model.onnx")
    (logits,) = model.graph.output
    signs = onnx.numpy_helper.from_array(np.array([[-1.0], [1.0]], np.float32), "signs")
    model.graph.initializer.append(signs)
    model.graph.node.append(onnx.helper.make_node("MatMul", [logits.name, "signs"], ["score"]))
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info("score", onnx.TensorProto.FLOAT, ["batch", 1]))
    for node in model.graph.node:  # its clients ask for the logits by this name
        names = {logits.name: "both", "score": logits.name}
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    model.graph.output[0].name = logits.name
    onnx.save(model, to / "onnx" / "model.onnx")
    config = json.loads((to / "config.json").read_text())
    write_json(to / "config.json", config | {"id2label": {"0": "good"}, "label2id": {"good": 0}})
    return to


def rivals(options: argparse.Namespace, stack: ExitStack) -> list[Rival]:
    texts = pairs(2_000)
    predict = [request("/predict", {"inputs": [list(pair)]}) for pair in texts]
    found = []
    for kind in ("dense", "pruned"):
        artifact = getattr(options, kind)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        hub = as_hub_folder(artifact, folder / "two")
        one = with_one_score(hub, folder / "one")
        rerank = [request("/rerank", {"query": q, "documents": [t], "model": "m"}) for q, t in texts]
        serve = (sys.executable, "-m", "prunetime", "serve", f"m={artifact}", "--port", "PORT", "--cache-mb", "0")
        uvicorn = (str(options.cross_encoder / "bin/uvicorn"), "--app-dir", str(Path(__file__).parent))
        uvicorn += ("serve_cross_encoder:app", "--port", "PORT", "--no-access-log")
        infinity = (
            str(options.infinity / "bin/infinity_emb"),
            "v2",
            "--model-id",
            str(one),
            "--served-model-name",
            "m",
        )
        infinity += ("--engine", "optimum", "--device", "cpu", "--port", "PORT", "--log-level", "error")
        for name, command, asks in (
            ("prunetime", serve, predict),
            ("cross encoder", uvicorn, predict),
            ("infinity", infinity, rerank),
        ):
            rival = started(f"{name} {kind}", command, asks, FOLDER=str(hub))
            stack.callback(rival.signal, signal.SIGKILL)
            found.append(rival)
    return found


def agreement(found: Sequence[Rival], artifacts: dict[str, Path]) -> dict[str, float]:
    """The largest difference from the engine's scores. (Infinity gives no token types, which these models have.)"""
    texts, worst = pairs(2_000)[:50], {}
    for rival in found:
        if rival.name.startswith("infinity"):
            continue
        model = prunetime.load(artifacts[rival.name.split()[-1]])
        rival.signal(signal.SIGCONT)
        connection, differences = Connection(rival.port), []
        for ask, pair in zip(rival.asks, texts, strict=False):
            (row,) = json.loads(connection.ask(ask)[1])
            by_label = {each["label"]: each["score"] for each in row} if isinstance(row[0], dict) else None
            good = by_label[model.manifest.task.labels[1]] if by_label else row[1]
            differences.append(abs(good - float(model.score([pair])[0])))
        connection.close()
        rival.signal(signal.SIGSTOP)
        worst[rival.name] = max(differences)
    return worst


def measured(options: argparse.Namespace) -> dict[str, Any]:
    with ExitStack() as stack:
        found = rivals(options, stack)
        os.sched_setaffinity(0, {1})
        differences = agreement(found, {kind: getattr(options, kind) for kind in ("dense", "pruned")})
        rounds: list[dict[str, dict[str, float]]] = []
        for _ in range(ROUNDS):
            rounds.append({rival.name: rival.measured() for rival in found})
            print(json.dumps(rounds[-1]), file=sys.stderr)
    medians = {
        name: {key: float(np.median([each[name][key] for each in rounds])) for key in rounds[0][name]}
        for name in rounds[0]
    }
    return {"medians": medians, "rounds": rounds, "differences": differences}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("dense", "pruned", "cross-encoder", "infinity"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = provenance() | measured(options)
    write_json(RESULT, found)
    print(json.dumps(found) if options.json else json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
