"""Recipes for fine-tuning the dense teacher: the metric that MiniLM-L6 comes to after so many rows.

    python bench/teacher.py --data ../shared/data [--sets trec_fine,intents] [--threads 2]

Every recipe is one training at a constant learning rate, from which a cooldown branches off before each of its `rows`,
so that one training gives the figures of several budgets of rows (Hägele et al., arXiv 2405.18392). The metric is of
rows of train that neither the training nor the head has seen (a fifth of its groups); dev files are not read.

Appends a line for each budget to bench/results/teacher.jsonl, and goes on after what is there.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import provenance
from torch import nn

from prunetime.cli.runs import minilm_folder
from prunetime.core.arrays import Weights
from prunetime.core.budget import Budget
from prunetime.core.config import EncoderConfig, Pooling
from prunetime.inference.engine import Engine
from prunetime.models.batches import LengthBucketedBatches, TrainingData
from prunetime.models.encoder import SequenceClassifier, from_weights, weights_of
from prunetime.models.losses import mean_over_rows, task_losses
from prunetime.models.threads import training_on
from prunetime.pipeline.source import Source, load_source
from prunetime.settings import Settings
from prunetime.training.head_start import start_head
from prunetime.training.settings import best_precision
from prunetime.training.trainer import _with_used_vocabulary, _WordRows

RESULTS = Path(__file__).parent / "results" / "teacher.jsonl"

JUDGED_ROWS = 1_000
"""The most rows of each of the two parts that the metric is of."""

WARMUP_ROWS, COOLDOWN, CLIP = 1_024, 0.25, 1.0


@dataclass(frozen=True)
class TaskData:
    """The data of a task: a file of train rows under the folder of data, or a generated table, and its columns."""

    data: str
    text: tuple[str, ...]
    label: str
    length: int
    group: str | None = None


SETS = {
    "trec_fine": TaskData("trec/train.tsv", ("question",), "fine_label", 32),
    "intents": TaskData("synthetic:intents?rows=6000", ("text",), "intent", 32),
    "sst2": TaskData("sst2/train.tsv", ("sentence",), "label", 48),
    "mrpc": TaskData("mrpc/train.tsv", ("sentence1", "sentence2"), "label", 96),
    "trec": TaskData("trec/train.tsv", ("question",), "label", 32),
    "wikiqa": TaskData("wikiqa/train.tsv", ("query", "sentence"), "label", 64, "query"),
    "home_depot": TaskData("home_depot/train.tsv", ("query", "title"), "label", 48, "query"),
}


@dataclass(frozen=True)
class Recipe:
    """A way of training: `layer_decay` multiplies the learning rate once for each layer below the head."""

    set: str
    learning_rate: float = 2e-4
    rows: tuple[int, ...] = (2_048, 8_192)
    start: bool = True
    pooling: Pooling = "first"
    layer_decay: float = 1.0
    batch_size: int = 32
    dropout: float = 0.1
    seed: int = 0


RECIPES = (
    *(Recipe(name, 7e-5, rows=(8_192,), batch_size=16) for name in ("home_depot", "trec_fine")),
    Recipe("wikiqa", 7e-5, rows=(6_144,), batch_size=16),
    Recipe("home_depot", 5e-5, rows=(8_192,)),
    *(
        Recipe("home_depot", learning_rate, batch_size=size)
        for learning_rate, size in ((1e-4, 32), (1e-4, 16), (5e-5, 8))
    ),
    *(Recipe("trec_fine", learning_rate, batch_size=size) for learning_rate, size in ((1e-4, 16), (5e-5, 8))),
    *(
        Recipe(name, learning_rate, rows=(6_144,), batch_size=size)
        for name in ("wikiqa", "sst2", "mrpc")
        for learning_rate, size in ((1e-4, 32), (5e-5, 8))
    ),
    Recipe("intents"),
    Recipe("home_depot"),
    Recipe("trec_fine", start=False),
    Recipe("trec_fine"),
    Recipe("trec_fine", 4e-4),
    Recipe("trec_fine", 1e-4),
    *(Recipe("home_depot", learning_rate, rows=(2_048,)) for learning_rate in (4e-4, 1e-4)),
    Recipe("trec_fine", layer_decay=0.8),
    Recipe("wikiqa", rows=(2_048, 6_144)),
    Recipe("sst2"),
    Recipe("mrpc", rows=(2_048, 6_144)),
    *(Recipe(name, pooling="mean") for name in ("intents", "trec_fine", "home_depot")),
    *(Recipe("home_depot", learning_rate) for learning_rate in (4e-4, 1e-4)),
    *(Recipe(name, 4e-4, rows=(2_048, 6_144)) for name in ("wikiqa", "mrpc")),
    Recipe("sst2", 4e-4),
    Recipe("trec"),
)
"""In the order of what they tell: a machine that others use does not come to the end."""


def source_of(name: str, folder: Path) -> Source:
    task = SETS[name]
    data = task.data if task.data.startswith("synthetic:") else str(folder / task.data)
    settings = Settings(
        str(minilm_folder()), data, Budget(share=1.0, seq_len=task.length), text=task.text, label=task.label,
        group=task.group,
    )  # fmt: skip
    return load_source(settings, lambda _: None)


def judged(source: Source, config: EncoderConfig, weights: Weights, threads: int) -> dict[str, float]:
    """The metric of an encoder on the rows of valid and test, which the settings split off train."""
    engine, scores, labels, groups = Engine(config, weights, threads), [], [], []
    for role, inputs in ((source.roles.valid, source.valid), (source.roles.test, source.test)):
        chosen = np.arange(min(JUDGED_ROWS, len(role)))
        some = inputs.select(chosen)
        scores.append(some.scores(engine.logits(some.tokens)))
        labels.append(role.labels[chosen])
        groups.append(role.groups[chosen])
    value = source.metric.value(*(np.concatenate(each) for each in (scores, labels, groups)))
    return {"judged_rows": sum(map(len, labels)), source.metric.name: round(value, 4)}


def parameter_groups(model: SequenceClassifier, recipe: Recipe) -> list[dict[str, Any]]:
    layers = model.config.dims.layers
    groups = []
    for name, parameter in model.named_parameters():
        part, _, rest = name.partition(".")
        depth = {"embeddings": 0, "layers": 1 + int(rest.partition(".")[0] if part == "layers" else 0)}
        rate = recipe.learning_rate * recipe.layer_decay ** (layers + 1 - depth.get(part, layers + 1))
        decay = 0.01 if parameter.ndim > 1 and part != "embeddings" else 0.0
        groups.append({"params": [parameter], "lr": rate, "peak": rate, "weight_decay": decay})
    return groups


def trained(model: SequenceClassifier, data: TrainingData, recipe: Recipe) -> Iterator[int]:
    """Trains `model` in place and yields every budget of rows, with the weights that it ends in."""
    optimizer = torch.optim.AdamW(parameter_groups(model, recipe), fused=True)
    steps = [math.ceil(rows / recipe.batch_size) for rows in recipe.rows]
    rising = math.ceil(WARMUP_ROWS / recipe.batch_size)
    batches = list(LengthBucketedBatches(data.lengths, recipe.batch_size, max(steps), recipe.seed))

    def take(step: int, factor: float) -> None:
        torch.manual_seed(recipe.seed * 1_000_003 + step)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor * min(1.0, (step + 1) / (rising + 1))
        batch = data.batch(batches[step])
        labels = batch.pop("labels")
        with torch.autocast("cpu", torch.bfloat16, enabled=best_precision() == "bf16"):
            logits = model.train()(**batch).logits
        optimizer.zero_grad()
        mean_over_rows(task_losses(logits.float(), labels, data.task)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()

    done = 0
    for rows, end in zip(recipe.rows, steps, strict=True):
        begin = math.floor(end * (1 - COOLDOWN))
        for step in range(done, begin):
            take(step, 1.0)
        done = begin
        trunk = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
        for step in range(begin, end):
            take(step, (end - step) / (end - begin + 1))
        yield rows
        model.load_state_dict(trunk[0])
        optimizer.load_state_dict(trunk[1])


def run(recipe: Recipe, folder: Path, threads: int) -> Iterator[dict[str, Any]]:
    """Yields a result for each budget of rows; that of 0 rows is the head's start."""
    source, begun = source_of(recipe.set, folder), time.process_time()
    config = replace(source.pretrained.config, pooling=recipe.pooling)
    model = from_weights(config, weights_of(source.pretrained.model), recipe.dropout)
    data = source.training_data(10**9, recipe.seed)
    if recipe.start:
        start_head(model, data, threads)
    yield {"seen": 0, **judged(source, config, weights_of(model), threads)}
    used, compact = _with_used_vocabulary(data)
    with training_on(threads), _WordRows(model, used) as words:
        for rows in trained(model, compact, recipe):
            words.__exit__()
            found = judged(source, config, weights_of(model), threads)
            words.__enter__()
            yield {"seen": rows, **found, "cpu_seconds": round(time.process_time() - begun)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--sets", default=",".join(SETS), help="names of the sets, separated by commas")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    lines = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    done = [line["recipe"] for line in lines if line["seen"] == max(line["recipe"]["rows"])]
    for recipe in RECIPES:
        as_json = json.loads(json.dumps(asdict(recipe)))
        if recipe.set not in arguments.sets.split(",") or as_json in done:
            continue
        for found in run(recipe, arguments.data, arguments.threads):
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"recipe": as_json, **found, **provenance()}) + "\n")
            print(json.dumps({"recipe": as_json, **found}), flush=True)


if __name__ == "__main__":
    main()
