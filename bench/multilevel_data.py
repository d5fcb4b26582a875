"""The data sets on which masks are learned, in a folder that any machine with torch can work on."""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from home_depot_data import settings_of
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from prunetime.cli.runs import minilm_folder
from prunetime.core.budget import Budget
from prunetime.core.config import EncoderConfig
from prunetime.core.mask import Scores
from prunetime.inference.inputs import Inputs
from prunetime.models.batches import TrainingData
from prunetime.models.distill import Distillation
from prunetime.models.encoder import SequenceClassifier, from_weights, weights_of
from prunetime.pipeline.source import load_source
from prunetime.pruning.importance import load_scores
from prunetime.settings import Settings
from prunetime.tasks.metrics import evaluate, metric
from prunetime.training.settings import TrainingSettings, best_device, best_precision


@dataclass(frozen=True)
class DataSet:
    """How a data set is used: at most `rows` of its training data, drawn at random. `steps` are those of each of the
    two levels; one level alone has them both. The first metric is what counts."""

    length: int
    metrics: tuple[str, ...]
    files: tuple[str, str] = ("train.tsv", "dev.tsv")
    rows: int = 20_000
    batch: int = 64
    teacher_steps: int = 900
    steps: int = 550


DATA_SETS = {
    "home_depot": DataSet(48, ("auc",), rows=10**9),
    "qqp": DataSet(64, ("accuracy", "auc")),  # of unequal classes, accuracy hides much of what a model knows
    "mnli": DataSet(128, ("accuracy",)),
    "squad": DataSet(256, ("f1", "exact"), ("train_wiki_subset.json", "dev.json"), 4_000, 16, 900, 300),
}


@dataclass(frozen=True)
class Part:
    """What is known of one data set: rows to `fit`, and `dev` to judge by."""

    config: EncoderConfig
    fit: TrainingData
    dev: Inputs
    labels: NDArray[Any]
    groups: NDArray[np.int64]


@dataclass(frozen=True)
class Prepared:
    """One data set's folder."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def data_set(self) -> DataSet:
        return DATA_SETS[self.name]

    @cached_property
    def part(self) -> Part:
        found: Part = pickle.loads(self.path("part.pickle").read_bytes())
        return found

    def path(self, name: str) -> Path:
        return self.folder / name

    def encoder(self, name: str) -> SequenceClassifier:
        """`pretrained` or `teacher`."""
        return from_weights(self.part.config, load_file(self.path(f"{name}.safetensors")))

    def save(self, name: str, model: SequenceClassifier) -> None:
        save_file(weights_of(model), self.path(f"{name}.safetensors"))

    @property
    def importance(self) -> Scores:
        return load_scores(self.path("importance.safetensors"), self.part.config.dims)

    def training(self, steps: int, seed: int) -> TrainingSettings:
        batch = self.data_set.batch
        return TrainingSettings(
            steps / math.ceil(len(self.part.fit) / batch),
            batch_size=batch,
            learning_rate=1e-4,
            seed=seed,
            threads=torch.get_num_threads(),
            precision=best_precision(),
            device=best_device(),
            checkpoint_steps=100,
            distillation=Distillation(attention=1.0),
        )

    def judged(self, model: SequenceClassifier) -> dict[str, dict[str, Any]]:
        """The metrics of what `model` says of `dev`, with their intervals."""
        part = self.part
        scores = part.dev.scores(np.concatenate(list(logits(model, part))))
        found = {name: evaluate(metric(name), scores, part.labels, part.groups) for name in self.data_set.metrics}
        return {name: each.to_json() for name, each in found.items()}

    def chance(self, name: str) -> float:
        """What a metric is without knowing anything."""
        counts = np.bincount(self.part.labels) if name == "accuracy" else np.ones(1)
        return {"auc": 0.5, "accuracy": float(counts.max() / counts.sum())}.get(name, 0.0)


def logits(model: SequenceClassifier, part: Part) -> Iterator[NDArray[np.float32]]:
    """Of every row of `dev`, batch by batch; those of rows of tokens one after another, without padding."""
    placed = model.to(best_device()).eval()
    for tokens in part.dev.tokens.batches(16_384):
        inputs = [torch.from_numpy(a.astype(np.int64)).to(best_device()) for a in tokens.padded(part.fit.pad_id)]
        with torch.no_grad():
            found: NDArray[np.float32] = placed(*inputs).logits.cpu().numpy()
        yield found if found.ndim == 2 else found[inputs[1].cpu().numpy() > 0]
    model.cpu()


def prepare(data: Path, folder: Path) -> None:
    for name, data_set in DATA_SETS.items():
        prepared = Prepared(folder / name)
        prepared.folder.mkdir(parents=True, exist_ok=True)
        if name == "home_depot":
            settings = settings_of(data / name, prepared.folder, minilm_folder())
        else:
            train, dev = (str(data / name / file) for file in data_set.files)
            settings = Settings(str(minilm_folder()), train, Budget(share=1.0, seq_len=data_set.length), test=dev)
        source = load_source(settings, print)
        fitted, dev_rows = source.training_data(data_set.rows, 0), source.roles.test
        part = Part(source.pretrained.config, fitted, source.test, dev_rows.labels, dev_rows.groups)
        prepared.path("part.pickle").write_bytes(pickle.dumps(part))
        prepared.save("pretrained", source.pretrained.model)
        print(name, len(fitted), "rows to fit,", len(dev_rows), "to judge by")
