"""Learned multilevel masks on MiniLM-L6: by heads and rows, by blocks and by both, at 50, 30 and 20 % of the weights.

    python bench/multilevel.py prepare --data DATA --folder F    rows to train on and to judge by, of all data sets
    python bench/multilevel.py learn --folder F --workers N      teachers, then masks, all with as many steps
    python bench/multilevel.py results --folder F --json         quality with intervals, weights, latency measured here
    python bench/multilevel.py --speed --json                    BERT-base shapes at the learned keep ratios, end to end

DATA has home_depot, qqp, mnli and squad. `learn` can run on another machine, on a GPU where torch finds one, and is
resumable: what is there is not made again. `dev` is read once for each model; nothing is chosen by it.
"""

from __future__ import annotations

import argparse
import json
import math
import pickle
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from home_depot import finished, progress, read_lines
from home_depot_data import settings_of
from home_depot_scoring import one_thread
from multilevel_speed import speed
from numpy.typing import NDArray
from provenance import provenance
from safetensors.numpy import load_file, save_file

from prunetime.arch import ArchSpec, Grain
from prunetime.artifact import write_json
from prunetime.budget import Budget
from prunetime.cli.runs import minilm_folder
from prunetime.config import EncoderConfig
from prunetime.mask import Mask, Scores
from prunetime.models import families
from prunetime.models.compact import compact
from prunetime.models.encoder import SequenceClassifier, from_weights, weights_of
from prunetime.pipeline.learning import OF_ROWS
from prunetime.pipeline.settings import Settings
from prunetime.pipeline.source import load_source
from prunetime.pruning.block_importance import measure_block_importance
from prunetime.pruning.criteria import ranks
from prunetime.pruning.importance import load_scores, measure_importance, save_scores
from prunetime.pruning.masks import MaskStep, mask_of
from prunetime.pruning.pruners import learning_rate
from prunetime.pruning.regularise import WeightsKept
from prunetime.runtime import profiling
from prunetime.runtime.inputs import Inputs
from prunetime.runtime.latency import LatencyProfile, ProfileKey
from prunetime.runtime.tokenize import Tokenizer
from prunetime.tasks.metrics import evaluate, metric
from prunetime.training.batches import TrainingData
from prunetime.training.distill import Distillation
from prunetime.training.trainer import TrainingSettings, best_device, best_precision, discard_checkpoints, fit

FULL, ENDS = ("home_depot", "qqp"), ("mnli", "squad")
"""Sets of the whole grid, and those of which only the smallest target is learned."""

TARGETS, LEVELS = (0.5, 0.3, 0.2), ("rows", "blocks", "both")
GRAIN: Grain = (32, 32)
LENGTH = {"home_depot": 48, "qqp": 64, "mnli": 128, "squad": 256}
FILES = {"squad": ("train_wiki_subset.json", "dev.json")}
METRICS = {"home_depot": ("auc",), "qqp": ("accuracy", "auc"), "mnli": ("accuracy",), "squad": ("f1", "exact")}
"""The first is what counts. Of unequal classes, accuracy hides much of what a model knows."""

ROWS = {"squad": 4_000}
MOST_ROWS = 20_000
"""Of train, drawn at random; all of Home Depot."""

BATCH = {"squad": 16}
BATCH_OF_PAIRS = 64
TEACHER_STEPS, STEPS = 900, 550
"""`STEPS` are those of each of the two steps; one level alone has them both."""

VARIANTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "fisher": {"criterion": "fisher"},
    "even": {"of_rows": 0.5},
}
"""Changes of the steps; all but the first are tried with both levels on Home Depot at the smallest target only."""

SPEED_LENGTH, PASSES = 48, 3
RESULT = Path(__file__).parent / "results" / "multilevel.json"
KEY = ("data", "target", "levels", "variant")


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
    def batch(self) -> int:
        return BATCH.get(self.name, BATCH_OF_PAIRS)

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
        return TrainingSettings(
            steps / math.ceil(len(self.part.fit) / self.batch),
            batch_size=self.batch,
            learning_rate=1e-4,
            seed=seed,
            threads=torch.get_num_threads(),
            precision=best_precision(),
            device=best_device(),
            checkpoint_steps=100,
            distillation=Distillation(attention=1.0),
        )


def prepare(data: Path, folder: Path) -> None:
    for name, length in LENGTH.items():
        prepared = Prepared(folder / name)
        prepared.folder.mkdir(parents=True, exist_ok=True)
        if name == "home_depot":
            settings = settings_of(data / name, prepared.folder, minilm_folder())
        else:
            train, dev = (str(data / name / file) for file in FILES.get(name, ("train.tsv", "dev.tsv")))
            settings = Settings(str(minilm_folder()), train, Budget(share=1.0, seq_len=length), test=dev)
        source = load_source(settings, print)
        most = len(source.roles.train) if name == "home_depot" else ROWS.get(name, MOST_ROWS)
        fitted, dev_rows = source.training_data(most, 0), source.roles.test
        part = Part(source.pretrained.config, fitted, source.test, dev_rows.labels, dev_rows.groups)
        prepared.path("part.pickle").write_bytes(pickle.dumps(part))
        prepared.save("pretrained", source.pretrained.model)
        print(name, len(fitted), "rows to fit,", len(dev_rows), "to judge by")


def train_teacher(prepared: Prepared) -> None:
    """The dense model, and the importance of its heads and rows."""
    one_thread()
    if not prepared.path("teacher.safetensors").exists():
        model, work = prepared.encoder("pretrained"), prepared.path("work")
        training = prepared.training(TEACHER_STEPS, 0)
        fit(model, prepared.part.fit, training, work, on_progress=progress(prepared.name))
        prepared.save("teacher", model)
        discard_checkpoints(work)
    if not prepared.path("importance.safetensors").exists():
        scores = measure_importance(prepared.encoder("teacher"), prepared.part.fit)
        save_scores(scores, prepared.path("importance.safetensors"))


@dataclass(frozen=True)
class Job:
    """Masks to be learned of one model."""

    prepared: Prepared
    target: float
    levels: str
    variant: str = "as it is"

    @property
    def key(self) -> tuple[str, float, str, str]:
        return self.prepared.name, self.target, self.levels, self.variant

    @property
    def change(self) -> dict[str, Any]:
        return VARIANTS[self.variant]


def learn(job: Job) -> dict[str, Any]:
    """Learns masks and weights, and reads `dev`."""
    one_thread()
    start = time.monotonic()
    prepared, config = job.prepared, job.prepared.part.config
    cost, mask = WeightsKept(config.dims), Mask.full(config.dims)
    model, teacher = prepared.encoder("teacher"), prepared.encoder("teacher")
    if job.levels != "blocks":
        share = job.target ** job.change.get("of_rows", OF_ROWS) if job.levels == "both" else job.target
        step = MaskStep(config.dims, mask.spec(), cost, share * cost.dense, scores=ranks(prepared.importance))
        mask = one_step(job, model, mask, teacher, step)
    if job.levels == "both":
        weights = compact(weights_of(model), mask, config.dims)
        model, teacher = (from_weights(config, weights) for _ in range(2))
    if job.levels != "rows":
        criterion = job.change.get("criterion", "movement")
        scores = ranks(measure_block_importance(model, prepared.part.fit, GRAIN, criterion))
        step = MaskStep(config.dims, mask.spec(), cost, job.target * cost.dense, GRAIN, scores)
        mask = one_step(job, model, mask, teacher, step)
    found = dict(zip(KEY, job.key, strict=True)) | {"kept": cost(mask.spec()) / cost.dense}
    return found | {
        "spec": mask.spec().to_json(),
        "quality": judged(prepared, model),
        "seconds": time.monotonic() - start,
    }


def one_step(job: Job, model: SequenceClassifier, mask: Mask, teacher: SequenceClassifier, step: MaskStep) -> Mask:
    """Trains `model`, which `mask` has left, and masks of it; returns what both leave."""
    steps = STEPS if job.levels == "both" else 2 * STEPS
    step, prepared = replace(step, learning_rate=learning_rate(steps)), job.prepared
    what = f"{prepared.name}-{job.target}-{job.levels}-{job.variant}-{'blocks' if step.grain else 'rows'}"
    work = prepared.path(f"work/{what}")
    training = prepared.training(steps, 1)
    learned = fit(model, prepared.part.fit, training, work, teacher, progress(what), mask_step=step)
    assert learned is not None
    discard_checkpoints(work)
    return mask_of(step, learned.kept, mask)


def judged(prepared: Prepared, model: SequenceClassifier) -> dict[str, dict[str, Any]]:
    """The metrics of what `model` says of `dev`, with their intervals."""
    part = prepared.part
    scores = part.dev.scores(np.concatenate(list(logits(model, part))))
    found = {name: evaluate(metric(name), scores, part.labels, part.groups) for name in METRICS[prepared.name]}
    return {name: {"value": each.value, "ci95": each.ci95} for name, each in found.items()}


def logits(model: SequenceClassifier, part: Part) -> Iterator[NDArray[np.float32]]:
    """Of every row of `dev`, batch by batch; those of rows of tokens one after another, without padding."""
    placed = model.to(best_device()).eval()
    for tokens in part.dev.tokens.batches(16_384):
        inputs = [torch.from_numpy(a.astype(np.int64)).to(best_device()) for a in tokens.padded(part.fit.pad_id)]
        with torch.no_grad():
            found: NDArray[np.float32] = placed(*inputs).logits.cpu().numpy()
        yield found if found.ndim == 2 else found[inputs[1].cpu().numpy() > 0]
    model.cpu()


def learn_all(folder: Path, workers: int, seconds: float, only: str) -> None:
    """Appends to `learned.jsonl`, smallest targets first."""
    out = folder / "learned.jsonl"
    done = {tuple(row[name] for name in KEY) for row in read_lines(out)}
    start, sets = time.monotonic(), [Prepared(folder / name) for name in (*FULL, *ENDS)]
    with out.open("a") as file, ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:

        def add(row: dict[str, Any]) -> None:
            file.write(json.dumps(row) + "\n")
            file.flush()

        list(pool.map(train_teacher, sets))
        for job in (Job(prepared, 1.0, "dense") for prepared in sets):
            if job.key not in done:
                quality = judged(job.prepared, job.prepared.encoder("teacher"))
                add(dict(zip(KEY, job.key, strict=True)) | {"quality": quality})
        jobs = [
            pool.submit(learn, job) for job in grid(sets) if job.key not in done and only in "/".join(map(str, job.key))
        ]
        for number, future in enumerate(finished(pool, jobs, seconds), start=1):
            row = future.result()
            add(row)
            what = (*(row[name] for name in KEY), f"{row['kept']:.3f}", f"{row['seconds']:.0f} s")
            print(f"{number}/{len(jobs)}", *what, f"{time.monotonic() - start:.0f} s", flush=True)


def grid(sets: list[Prepared]) -> list[Job]:
    """What is learned, smallest targets first."""
    full, smallest = sets[: len(FULL)], TARGETS[-1]
    jobs = [Job(each, target, levels) for target in reversed(TARGETS) for each in full for levels in LEVELS]
    jobs += [Job(each, smallest, levels) for each in sets[len(FULL) :] for levels in LEVELS]
    return jobs + [Job(full[0], smallest, LEVELS[-1], variant) for variant in list(VARIANTS)[1:]]


def results(folder: Path) -> list[dict[str, Any]]:
    """A row for every model: quality with intervals, what it retains, weights, latency predicted and measured here."""
    rows = read_lines(folder / "learned.jsonl")
    dense = {row["data"]: row["quality"] for row in rows if row["levels"] == "dense"}
    found = []
    for row in rows:
        part = Prepared(folder / row["data"]).part
        entry = {name: row[name] for name in KEY}
        for name, quality in row["quality"].items():
            counts = np.bincount(part.labels) if part.fit.task.kind == "classification" else np.ones(1)
            chance = {"auc": 0.5, "accuracy": float(counts.max() / counts.sum())}.get(name, 0.0)
            retained = (quality["value"] - chance) / (dense[row["data"]][name]["value"] - chance)
            entry[name] = quality | {"chance": chance, "retained": retained}
        found.append(entry | ({} if row["levels"] == "dense" else {"kept": row["kept"], "spec": row["spec"]}))
    pruned = [entry for entry in found if "spec" in entry]
    specs = [ArchSpec.from_json(entry["spec"]) for entry in pruned]
    for entry, predicted, measured in zip(pruned, *shares(specs, folder / "profile.json"), strict=True):
        entry |= {"predicted_share": predicted, "measured_share": measured}
    return found


def shares(specs: list[ArchSpec], profile: Path) -> tuple[list[float], list[float]]:
    """Latency as shares of dense, fp32, one sequence of `SPEED_LENGTH` tokens, one thread: predicted, and timed in turn
    with dense."""
    config, budget = families.load(str(minilm_folder()), 2).config, Budget(share=1.0, seq_len=SPEED_LENGTH)
    if not profile.exists():
        tokenizer = Tokenizer((minilm_folder() / "tokenizer.json").read_bytes(), SPEED_LENGTH)
        write_json(profile, profiling.record(config, tokenizer, True, budget, blocks=GRAIN).to_json())
    latency = LatencyProfile.from_json(json.loads(profile.read_text()))
    _, dense_us = latency.floor_and_dense(budget)
    key = ProfileKey.here(config, 1, 1, SPEED_LENGTH)
    measured = np.median([list(profiling.shares_of_dense(key, config, specs)) for _ in range(PASSES)], axis=0)
    return [latency.predict(spec, budget) / dense_us for spec in specs], measured.tolist()


def smallest_of_both() -> ArchSpec:
    """What both levels kept of Home Depot at the smallest target."""
    wanted = dict(zip(KEY, (FULL[0], TARGETS[-1], LEVELS[-1], next(iter(VARIANTS))), strict=True))
    rows = json.loads(RESULT.read_text())["quality"]
    return ArchSpec.from_json(next(row["spec"] for row in rows if all(row[k] == v for k, v in wanted.items())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("prepare", "learn", "results"), nargs="?")
    parser.add_argument("--speed", action="store_true", help="instead of a step")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--data", type=Path, help="folder with the data sets")
    parser.add_argument("--workers", type=int, default=1, help="processes that learn")
    parser.add_argument("--seconds", type=float, default=1e6, help="after which `learn` stops, to be resumed")
    parser.add_argument("--only", default="", help="learn what has this in its name: qqp/0.2/both/as it is")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.speed:
        found = provenance() | speed(smallest_of_both(), families.load(str(minilm_folder()), 2).config.dims)
        write_json(RESULT.with_name("multilevel_speed.json"), found)
        print(json.dumps(found) if options.json else json.dumps(found, indent=2))
    elif options.step == "prepare":
        prepare(options.data, options.folder)
    elif options.step == "learn":
        learn_all(options.folder, options.workers, options.seconds, options.only)
    elif options.step == "results":
        table = results(options.folder)
        for row in table:
            name = METRICS[row["data"]][0]
            what = [str(row[name]) for name in KEY]
            print(
                *what,
                f"{name} {row[name]['value']:.4f}, retained {row[name]['retained']:.3f}",
                row.get("measured_share"),
            )
        write_json(RESULT, provenance() | {"quality": table})
        if options.json:
            print(json.dumps(table))
    else:
        parser.error("give a step, or --speed")


if __name__ == "__main__":
    main()
