"""The CPU time of a training step of this build and of another: of a teacher, of a student of it, of sub-networks.

    python bench/training_speed.py --other FOLDER/src [--precision fp32] [--threads 1] --json

FOLDER is a checkout of the other build, with the engine built. An encoder of MiniLM-L6's shape with random weights is
trained on sequences as long as Home Depot's pairs; a student has a quarter of its heads and FFN neurons. Processes of
the builds take turns, and each figure is the least of the rounds' medians: others' work on the machine only adds to it.
CPU time is that of all threads; on one thread it is what a step takes on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

RESULT = Path(__file__).parent / "results" / "training_speed.json"
SOURCE = Path(__file__).parents[1] / "src"
BATCH, WORDS, LENGTH = 32, 10_000, 48
TRAININGS = ("teacher", "student", "elastic")


def step_seconds(training: str, precision: Any, threads: int, steps: int) -> float:
    """The median CPU seconds of a step, without the first ones, by the build that this process imports."""
    from prunetime.core.arch import ArchSpec, Dims
    from prunetime.core.config import EncoderConfig
    from prunetime.core.task import Task
    from prunetime.inference.ragged import Ragged
    from prunetime.models.batches import TrainingData
    from prunetime.models.encoder import SequenceClassifier
    from prunetime.search.elastic import Sandwich
    from prunetime.search.space import Space
    from prunetime.training.settings import TrainingSettings
    from prunetime.training.trainer import fit

    rng = np.random.default_rng(0)
    lengths = np.clip(rng.normal(26, 7, BATCH * steps), 8, LENGTH).astype(int)
    tokens = Ragged.of([rng.integers(1000, 1000 + WORDS, length).tolist() for length in lengths])
    data = TrainingData(tokens, rng.random(len(lengths)), Task("relevance", (), ("query", "title"), LENGTH), 0)
    dims = Dims(layers=6, hidden=384, heads=12, head_dim=32, ffn=1536, vocabulary=30522, positions=512)
    config = EncoderConfig("bert", dims, 384, 2, 1e-12, 1)
    whole, quarter = SequenceClassifier(config), ArchSpec.of(dims, [3] * 6, [384] * 6)
    model = SequenceClassifier(config, quarter) if training == "student" else SequenceClassifier(config)
    sub_networks = Sandwich(Space(dims), 0.2, LENGTH) if training == "elastic" else None
    settings = TrainingSettings(epochs=1.0, batch_size=BATCH, precision=precision, threads=threads)
    moments: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        fit(
            model, data, settings, Path(folder),
            teacher=None if training == "teacher" else whole,
            on_progress=lambda *_: moments.append(time.process_time()),
            sub_networks=sub_networks,
        )  # fmt: skip
    return float(np.median(np.diff(moments)[2:-1]))


def child(source: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """The seconds of every training by the build in `source`."""
    environment = os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": str(arguments.threads)}
    options = ["--precision", arguments.precision, "--threads", str(arguments.threads), "--steps", str(arguments.steps)]
    command = [sys.executable, __file__, "--one", *options]
    found: dict[str, float] = json.loads(subprocess.check_output(command, env=environment, text=True))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=Path)
    parser.add_argument("--precision", default="bf16", choices=["fp32", "bf16"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=14)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help=f"write {RESULT.name}")
    arguments = parser.parse_args()
    if arguments.one:
        each = (arguments.precision, arguments.threads, arguments.steps)
        print(json.dumps({training: step_seconds(training, *each) for training in TRAININGS}))
        return
    from provenance import provenance

    from prunetime.core.artifact import write_json

    builds = {"this": SOURCE} | ({"other": arguments.other} if arguments.other else {})
    rounds: dict[str, list[dict[str, float]]] = {build: [] for build in builds}
    for _ in range(arguments.rounds):
        for build, source in builds.items():
            rounds[build].append(child(source, arguments))
    least = {build: {name: min(r[name] for r in found) for name in TRAININGS} for build, found in rounds.items()}
    result = {
        name: {f"{build}_ms_a_row": round(1e3 * least[build][name] / BATCH, 2) for build in builds}
        | ({"speed": round(least["other"][name] / least["this"][name], 2)} if arguments.other else {})
        for name in TRAININGS
    }
    print(json.dumps(result, indent=2))
    if arguments.json:
        settings = {"precision": arguments.precision, "threads": arguments.threads, "steps": arguments.steps}
        write_json(RESULT, provenance() | settings | {"rounds": rounds, "trainings": result})


if __name__ == "__main__":
    main()
