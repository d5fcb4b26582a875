"""What the experiments on Home Depot start from, in a folder that any machine with torch can work on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from layers import MINILM_L4, keep_layers
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from prunetime.cli.runs import minilm_folder
from prunetime.core import artifact
from prunetime.core.budget import Budget
from prunetime.core.config import EncoderConfig
from prunetime.core.mask import Scores
from prunetime.core.task import Task
from prunetime.inference.ragged import Ragged
from prunetime.latency import profiling
from prunetime.latency.predictor import LatencyProfile
from prunetime.models.batches import TrainingData
from prunetime.models.encoder import SequenceClassifier, from_weights, weights_of
from prunetime.pipeline.source import load_source
from prunetime.pruning.importance import load_scores
from prunetime.search.space import Space
from prunetime.settings import Settings
from prunetime.tasks.data import Examples, group_ids
from prunetime.tasks.roles import group_hash_split, whole_groups

MODELS = ("l6", "l4")
LENGTH = 48
SHARES = (0.25, 0.40, 0.60)
MARGIN = 0.95
"""Searches aim so far inside a budget."""

Weights = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Rows:
    """Labelled token sequences of whole queries; `unseen` [rows] are of products that train has not."""

    tokens: Ragged
    labels: NDArray[Any]
    groups: NDArray[np.int64]
    unseen: NDArray[np.bool_]

    def select(self, rows: NDArray[np.int64]) -> Rows:
        return Rows(self.tokens.select(rows), self.labels[rows], self.groups[rows], self.unseen[rows])


@dataclass(frozen=True)
class Prepared:
    """One model's part of the folder."""

    folder: Path
    model: str

    @cached_property
    def setting(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "setting.json").read_text())
        return found

    @cached_property
    def config(self) -> EncoderConfig:
        return EncoderConfig.from_json(self.setting["configs"][self.model])

    @cached_property
    def task(self) -> Task:
        return Task.from_json(self.setting["task"])

    @cached_property
    def latency(self) -> LatencyProfile:
        return LatencyProfile.from_json(json.loads(self.path("profile.json").read_text()))

    @property
    def budget(self) -> Budget:
        return Budget(share=1.0, seq_len=LENGTH)

    @property
    def dense_us(self) -> float:
        return self.latency.floor_and_dense(self.budget)[1]

    @property
    def pad_id(self) -> int:
        return int(self.setting["pad_id"])

    def space(self, tokens: bool = True) -> Space:
        return Space(self.config.dims, tokens)

    def path(self, name: str) -> Path:
        """A file of this model."""
        return self.folder / self.model / name

    def rows(self, part: str) -> Rows:
        """Of `fit`, `choose` or `dev`."""
        with np.load(self.folder / f"{part}.npz") as arrays:
            tokens = Ragged(*(arrays[name].astype(np.int32) for name in ("ids", "types", "offsets")))
            return Rows(tokens, arrays["labels"].astype(np.int64), arrays["groups"], arrays["unseen"])

    def chosen(self, part: str, count: int) -> NDArray[np.int64]:
        """Indices of up to `count` rows of it, the same ones every time."""
        return whole_groups(self.rows(part).groups, count, seed=0)

    def some(self, part: str, count: int) -> Rows:
        return self.rows(part).select(self.chosen(part, count))

    def training_data(self, part: str) -> TrainingData:
        rows = self.rows(part)
        return TrainingData(rows.tokens, rows.labels, self.task, self.pad_id)

    def weights(self, name: str) -> Weights:
        """Of `pretrained`, `teacher` or `elastic`."""
        return {key: np.asarray(array) for key, array in load_file(self.path(f"{name}.safetensors")).items()}

    def save(self, name: str, model: SequenceClassifier) -> None:
        save_file(weights_of(model), self.path(f"{name}.safetensors"))

    def encoder(self, name: str) -> SequenceClassifier:
        return from_weights(self.config, self.weights(name))

    @property
    def importance(self) -> Scores:
        return load_scores(self.path("importance.safetensors"), self.config.dims)


def split_train(data: Path, out: Path) -> tuple[Path, Path]:
    """train.tsv in two files: four fifths of its queries to fit, one fifth to choose."""
    lines = (data / "train.tsv").read_text(encoding="utf-8").splitlines()
    column = lines[0].split("\t").index("query")
    chosen = group_hash_split(group_ids([line.split("\t")[column] for line in lines[1:]]), 0.2, seed=0)
    parts = {"fit.tsv": ~chosen, "choose.tsv": chosen}
    for name, rows in parts.items():
        kept = [lines[1 + row] for row in np.flatnonzero(rows)]
        artifact.write_text(out / name, "\n".join([lines[0], *kept]) + "\n")
    return out / "fit.tsv", out / "choose.tsv"


def settings_of(data: Path, out: Path, model: Path) -> Settings:
    """Of a run that fits and chooses on train and reads `dev` at its end; the split train is left in `out`."""
    fit, choose = split_train(data, out)
    return Settings(
        model=str(model),
        data=str(fit),
        valid=str(choose),
        test=str(data / "dev.tsv"),
        text=("query", "title"),
        label="label",
        group="query",
        metric="auc",
        slices=("unseen:product_uid",),
        budget=Budget(share=1.0, seq_len=LENGTH),
    )


def prepare(data: Path, folder: Path) -> None:
    """Writes the folder: tokens, pretrained weights, and the latency profiles of this machine."""
    folder.mkdir(parents=True, exist_ok=True)
    models = {"l6": minilm_folder(), "l4": keep_layers(minilm_folder(), MINILM_L4, folder / "minilm-l4")}
    configs: Mapping[str, Any] = {}
    for name, checkpoint in models.items():
        source = load_source(settings_of(data, folder, checkpoint), print)
        (folder / name).mkdir(exist_ok=True)
        prepared = Prepared(folder, name)
        prepared.save("pretrained", source.pretrained.model)
        configs = {**configs, name: source.pretrained.config.to_json()}
        if not prepared.path("profile.json").exists():
            pair, config = source.task.pair, source.pretrained.config
            recorded = profiling.record(config, source.tokenizer, pair, prepared.budget, tokens=True)
            artifact.write_json(prepared.path("profile.json"), recorded.to_json())
    roles = {"fit": source.roles.train, "choose": source.roles.valid, "dev": source.roles.test}
    for part, examples in roles.items():
        unseen = np.zeros(len(examples), np.bool_)
        if part != "fit":
            unseen = np.isin(examples.rows, source.slices[0].select(examples, source.roles.train).rows)
        write_rows(folder / f"{part}.npz", examples, source.tokenizer.encode(examples.texts), unseen)
    setting = {"configs": configs, "task": source.task.to_json(), "pad_id": source.pretrained.pad_token_id}
    artifact.write_json(folder / "setting.json", setting)


def write_rows(path: Path, examples: Examples, tokens: Ragged, unseen: NDArray[np.bool_]) -> None:
    """What `Prepared.rows` reads."""
    np.savez_compressed(
        path,
        ids=tokens.ids.astype(np.uint16),
        types=tokens.types.astype(np.uint8),
        offsets=tokens.offsets,
        labels=examples.labels.astype(np.uint8),
        groups=examples.groups,
        unseen=unseen,
    )
