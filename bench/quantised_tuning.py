"""What int8 loses after tuning with and without fake quantisation, of MiniLM-L6 with 40 % of its heads and FFN neurons.

    python bench/quantised_tuning.py run --data DATA --folder F   tunes from each seed, in both ways
    python bench/quantised_tuning.py results --data DATA --folder F --json   means over seeds, and the noise

Of sst2 and trec the teacher is fine-tuned; of stsb it is MiniLM-L6 as it is, which embeds both texts of a pair.
DATA has the data sets. Nothing is chosen by the rows that models are judged by: `dev`, or a part of train. Resumable:
what is in F is not made again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from home_depot import progress, read_lines
from numpy.typing import NDArray
from provenance import provenance
from safetensors.numpy import load_file, save_file

from prunetime.cli.runs import minilm_folder
from prunetime.core.arch import MATRICES, ArchSpec
from prunetime.core.arrays import Weights
from prunetime.core.artifact import write_json
from prunetime.core.budget import Budget
from prunetime.core.config import EncoderConfig
from prunetime.core.mask import rank
from prunetime.core.precision import PrecisionPlan
from prunetime.inference.engine import Engine
from prunetime.models.compact import compact
from prunetime.models.distill import logits_distance
from prunetime.models.encoder import SequenceClassifier, from_weights, weights_of
from prunetime.models.rounding import quantised_weight
from prunetime.pipeline.source import Source, load_source
from prunetime.pruning.importance import measure_importance
from prunetime.settings import Settings
from prunetime.training.checkpoints import discard_checkpoints
from prunetime.training.settings import FakeQuantisation, TrainingSettings, best_precision
from prunetime.training.trainer import fit

COLUMNS: dict[str, tuple[str, ...]] = {
    "sst2": ("sentence",),
    "trec": ("question",),
    "stsb": ("sentence1", "sentence2"),
}
"""The text columns of every data set; texts of a pair are embedded apart."""

LENGTH, ROWS, DEV_ROWS = 32, 2_560, 2_500
HEADS, FFN = 5, 608
SHARES = (0.0, 0.5)
"""The last shares of the steps that are fake-quantised; 0 is tuning without."""

INT8 = PrecisionPlan.uniform("int8")
MATRIX = re.compile(rf"layers\.\d+\.({'|'.join(MATRICES)})\.weight")
RESULT = Path(__file__).parent / "results" / "quantised_tuning.json"
KEY = ("data", "share", "seed")


@dataclass(frozen=True)
class DataSet:
    """A data set, and the folder in which its models are."""

    name: str
    data: Path
    folder: Path

    @cached_property
    def source(self) -> Source:
        text, folder = COLUMNS[self.name], self.data / self.name
        pairs = len(text) == 2
        settings = Settings(
            str(minilm_folder()),
            str(folder / "train.tsv"),
            Budget(share=1.0, seq_len=LENGTH),
            test=str(folder / "dev.tsv") if (folder / "dev.tsv").exists() else None,
            text=text,
            label="label",
            task="similarity" if pairs else None,
            teacher_ready=pairs,
        )
        return load_source(settings, print)

    @property
    def config(self) -> EncoderConfig:
        return self.source.pretrained.config

    @cached_property
    def teacher(self) -> dict[str, NDArray[Any]]:
        path = self.folder / f"{self.name}.safetensors"
        if not path.exists():
            model = self.source.pretrained.model
            if not self.source.task.traits.reads_apart:
                self.train(model, training(0))
            save_file(weights_of(model), path)
        return dict(load_file(path))

    @cached_property
    def pruned(self) -> Weights:
        """The teacher's most important heads and FFN neurons, as many in every layer."""
        data, dims = self.source.training_data(512, 0), self.config.dims
        scores = measure_importance(from_weights(self.config, self.teacher), data, threads=1)
        return compact(self.teacher, rank(scores, ArchSpec.of(dims, [HEADS] * 6, [FFN] * 6)), dims)

    @cached_property
    def dev(self) -> NDArray[np.intp]:
        """Rows to judge by, in their order."""
        rows = np.random.default_rng(0).permutation(len(self.source.roles.test))[:DEV_ROWS]
        return np.sort(rows)

    @cached_property
    def teacher_logits(self) -> NDArray[np.float32]:
        return self.logits(self.teacher, PrecisionPlan())

    def train(
        self, model: SequenceClassifier, settings: TrainingSettings, teacher: SequenceClassifier | None = None
    ) -> float:
        """Trains `model` in place; returns the CPU seconds of a step."""
        work, data, before = self.folder / "work", self.source.training_data(ROWS, settings.seed), time.process_time()
        fit(model, data, settings, work, teacher, progress(f"{self.name} {settings.seed}"))
        discard_checkpoints(work)
        return (time.process_time() - before) / settings.steps(len(data))

    def judged(self, share: float, seed: int) -> dict[str, Any]:
        """Tunes the pruned model, and says what it has on `dev` in both precisions."""
        student = from_weights(self.config, self.pruned)
        settings = replace(training(seed + 1), fake_quantisation=FakeQuantisation(INT8, share) if share else None)
        seconds = self.train(student, settings, from_weights(self.config, self.teacher))
        weights = weights_of(student)
        logits = {plan.default.precision: self.logits(weights, plan) for plan in (PrecisionPlan(), INT8)}
        found: dict[str, Any] = {"metric": self.source.metric.name, "cpu_seconds_per_step": seconds}
        for precision, each in logits.items():
            found[precision] = {"metric": self.metric(each), "divergence": self.divergence(each)}
        return found | {
            "squared_difference": float(np.square(logits["int8"] - logits["fp32"]).mean()),
            "variance": float(logits["fp32"].var()),
        }

    def noise(self) -> dict[str, float]:
        """How far the teacher's logits are from float32's in int8, and with rounded weights alone, as shares of their
        variance."""
        rounded = {
            name: quantised_weight(torch.from_numpy(array), "int8").numpy() if MATRIX.fullmatch(name) else array
            for name, array in self.teacher.items()
        }
        exact = self.teacher_logits
        others = {"int8": self.logits(self.teacher, INT8), "weights": self.logits(rounded, PrecisionPlan())}
        return {name: float(np.square(each - exact).mean() / exact.var()) for name, each in others.items()}

    def logits(self, weights: Weights, plan: PrecisionPlan) -> NDArray[np.float32]:
        return Engine(self.config, weights, plan=plan).logits(self.source.test.select(self.dev).tokens)

    def metric(self, logits: NDArray[np.float32]) -> float:
        rows, inputs = self.source.roles.test, self.source.test.select(self.dev)
        return self.source.metric.value(inputs.scores(logits), rows.labels[self.dev], rows.groups[self.dev])

    def divergence(self, logits: NDArray[np.float32]) -> float:
        """From the teacher, as distillation has it."""
        student, teacher = torch.from_numpy(logits), torch.from_numpy(self.teacher_logits)
        return float(logits_distance(student, teacher, 1.0, choice=self.source.task.traits.choice))


def training(seed: int) -> TrainingSettings:
    """One epoch as `--effort quick` trains."""
    return TrainingSettings(
        1, learning_rate=1e-4, seed=seed, precision=best_precision(), checkpoint_steps=10**9
    )  # on one thread


def results(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """For every data set: what int8 loses against float32 of the same weights and against tuning without fake
    quantisation, as means over seeds; a loss is positive."""
    by_key = {tuple(row[name] for name in KEY): row for row in rows}
    found = []
    for name, share in itertools.product(COLUMNS, SHARES):
        seeds = sorted(seed for data, of, seed in by_key if (data, of) == (name, share))
        pairs = [(by_key[name, share, seed], by_key[name, 0.0, seed]) for seed in seeds]
        if not pairs:
            continue
        found.append(
            {
                "data": name,
                "metric": pairs[0][0]["metric"],
                "share": share,
                "seeds": len(pairs),
                "fp32": fmean(own["fp32"]["metric"] for own, _ in pairs),
                "int8": fmean(own["int8"]["metric"] for own, _ in pairs),
                "loss": fmean(plain["fp32"]["metric"] - own["int8"]["metric"] for own, plain in pairs),
                "own_loss": fmean(own["fp32"]["metric"] - own["int8"]["metric"] for own, _ in pairs),
                "divergence_loss": fmean(
                    own["int8"]["divergence"] - plain["fp32"]["divergence"] for own, plain in pairs
                ),
                "own_divergence_loss": fmean(own["int8"]["divergence"] - own["fp32"]["divergence"] for own, _ in pairs),
                "squared_difference": fmean(own["squared_difference"] / own["variance"] for own, _ in pairs),
                "cpu_seconds_per_step": fmean(own["cpu_seconds_per_step"] for own, _ in pairs),
            }
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("run", "results"))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder with the data sets")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    out = options.folder / "judged.jsonl"
    data_sets = {name: DataSet(name, options.data, options.folder) for name in COLUMNS}
    if options.step == "run":
        for seed, name, share in itertools.product(range(options.seeds), COLUMNS, SHARES):
            if any(tuple(row[key] for key in KEY) == (name, share, seed) for row in read_lines(out)):
                continue
            row = dict(zip(KEY, (name, share, seed), strict=True)) | data_sets[name].judged(share, seed)
            print(json.dumps(row), flush=True)
            with out.open("a") as file:
                file.write(json.dumps(row) + "\n")
        return
    rows = read_lines(out)
    noise = {name: data_sets[name].noise() for name in dict.fromkeys(row["data"] for row in rows)}
    found = provenance() | {"rows": rows, "noise": noise, "results": results(rows)}
    write_json(RESULT, found)
    print(json.dumps(found["results"]) if options.json else json.dumps(found["results"], indent=2))


if __name__ == "__main__":
    main()
