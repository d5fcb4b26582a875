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
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from home_depot import finished, progress, read_lines
from multilevel_data import DATA_SETS, Prepared, prepare
from multilevel_speed import speed
from provenance import provenance

from prunetime.cli.runs import minilm_folder
from prunetime.core.arch import ArchSpec, BlockShape
from prunetime.core.artifact import write_json
from prunetime.core.budget import Budget
from prunetime.core.mask import Mask
from prunetime.inference.tokenize import Tokenizer
from prunetime.latency import profiling
from prunetime.latency.predictor import LatencyProfile
from prunetime.latency.sublayers import ProfileKey
from prunetime.models import families
from prunetime.models.compact import compact, in_blocks
from prunetime.models.distill import Distillation
from prunetime.models.encoder import SequenceClassifier, from_weights, weights_of
from prunetime.pipeline.stages.learn import OF_ROWS
from prunetime.pruning.importance import measure_block_importance, measure_importance, rank_transform, save_scores
from prunetime.pruning.masks import MaskStep, mask_of
from prunetime.pruning.pruners import learning_rate
from prunetime.pruning.regularise import WeightsKept
from prunetime.training.checkpoints import discard_checkpoints
from prunetime.training.trainer import fit

FULL, ENDS = ("home_depot", "qqp"), ("mnli", "squad")
"""Sets of the whole grid, and those of which only the smallest target is learned."""

TARGETS, LEVELS = (0.5, 0.3, 0.2), ("rows", "blocks", "both")
BLOCK_SHAPE: BlockShape = (32, 32)

VARIANTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "zeros": {"criterion": "movement"},
    "even": {"of_rows": 0.5},
    "tuned": {"tune": 8},
    "longer": {"tune": 12, "of_rows": 0.9},
}
"""Changes of the steps; all but the first are tried with both levels at the smallest target only, those of `WHERE`."""

WHERE = {"zeros": ("home_depot",), "even": ("home_depot",), "tuned": ("squad", "qqp"), "longer": ("squad",)}
TUNE_LEARNING_RATE = 2e-4

SPEED_LENGTH, PASSES = 48, 3
RESULT = Path(__file__).parent / "results" / "multilevel.json"
KEY = ("data", "target", "levels", "variant")


def train_teacher(prepared: Prepared) -> None:
    """The dense model, and the importance of its heads and rows."""
    if not prepared.path("teacher.safetensors").exists():
        model, work = prepared.encoder("pretrained"), prepared.path("work")
        training = prepared.training(prepared.data_set.teacher_steps, 0)
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
    def name(self) -> str:
        return "/".join(map(str, self.key))

    @property
    def change(self) -> dict[str, Any]:
        return VARIANTS[self.variant]


def learn(job: Job) -> dict[str, Any]:
    """Learns masks and weights, and reads `dev`."""
    start = time.monotonic()
    prepared, config = job.prepared, job.prepared.part.config
    cost, mask = WeightsKept(config.dims), Mask.full(config.dims)
    model, teacher = prepared.encoder("teacher"), prepared.encoder("teacher")
    dense = teacher
    if job.levels != "blocks":
        share = job.target ** job.change.get("of_rows", OF_ROWS) if job.levels == "both" else job.target
        step = MaskStep(config.dims, mask.spec(), cost, share * cost.dense, scores=rank_transform(prepared.importance))
        mask = one_step(job, model, mask, teacher, step)
    if job.levels == "both":
        weights = compact(weights_of(model), mask, config.dims)
        model, teacher = (from_weights(config, weights) for _ in range(2))
    if job.levels != "rows":
        criterion = job.change.get("criterion", "fisher")
        scores = rank_transform(measure_block_importance(model, prepared.part.fit, BLOCK_SHAPE, criterion))
        step = MaskStep(config.dims, mask.spec(), cost, job.target * cost.dense, BLOCK_SHAPE, scores)
        mask = one_step(job, model, mask, teacher, step)
    if times := job.change.get("tune"):
        model = tuned(job, model, mask, dense, times * prepared.data_set.steps)
    for folder in prepared.path("work").glob(job.name.replace("/", "-") + "*"):
        discard_checkpoints(folder)
    found = dict(zip(KEY, job.key, strict=True)) | {"kept": cost(mask.spec()) / cost.dense}
    return found | {
        "spec": mask.spec().to_json(),
        "quality": prepared.judged(model),
        "seconds": time.monotonic() - start,
    }


def one_step(job: Job, model: SequenceClassifier, mask: Mask, teacher: SequenceClassifier, step: MaskStep) -> Mask:
    """Trains `model`, which `mask` has left, and masks of it; returns what both leave."""
    prepared = job.prepared
    steps = prepared.data_set.steps * (1 if job.levels == "both" else 2)
    step = replace(step, learning_rate=learning_rate(steps))
    what = f"{job.name}: {'blocks' if step.block_shape else 'rows'}"
    work = prepared.path("work") / what.replace("/", "-")
    training = prepared.training(steps, 1)
    learned = fit(model, prepared.part.fit, training, work, teacher, progress(what), mask_step=step).learned
    assert learned is not None
    return mask_of(step, learned.kept, mask)


def tuned(
    job: Job, model: SequenceClassifier, mask: Mask, teacher: SequenceClassifier, steps: int
) -> SequenceClassifier:
    """What `mask` leaves of `model`, trained for `steps` more without what is pruned."""
    prepared, config = job.prepared, job.prepared.part.config
    weights = weights_of(model)
    kept = compact(weights, mask, config.dims) if job.levels == "rows" else in_blocks(weights, mask)
    student, what = from_weights(config, kept, spec=mask.spec()), f"{job.name}: tuned"
    training = replace(prepared.training(steps, 2), learning_rate=TUNE_LEARNING_RATE, distillation=Distillation())
    fit(student, prepared.part.fit, training, prepared.path("work") / what.replace("/", "-"), teacher, progress(what))
    return student


def learn_all(folder: Path, workers: int, seconds: float, only: str) -> None:
    """Appends to `learned.jsonl`, smallest targets first, what has `only` in its name."""
    out = folder / "learned.jsonl"
    done = {tuple(row[name] for name in KEY) for row in read_lines(out)}
    wanted = [job for job in grid(folder) if only in job.name and job.key not in done]
    start, sets = time.monotonic(), list(dict.fromkeys(job.prepared for job in wanted))
    spawned, threads = get_context("spawn"), max(1, len(os.sched_getaffinity(0)) // workers)
    with out.open("a") as file, ProcessPoolExecutor(workers, spawned, torch.set_num_threads, (threads,)) as pool:

        def add(row: dict[str, Any]) -> None:
            file.write(json.dumps(row) + "\n")
            file.flush()

        list(pool.map(train_teacher, sets))
        for job in (Job(prepared, 1.0, "dense") for prepared in sets):
            if job.key not in done:
                quality = job.prepared.judged(job.prepared.encoder("teacher"))
                add(dict(zip(KEY, job.key, strict=True)) | {"quality": quality})
        jobs = [pool.submit(learn, job) for job in wanted]
        for number, future in enumerate(finished(pool, jobs, seconds), start=1):
            row = future.result()
            add(row)
            what = (*(row[name] for name in KEY), f"{row['kept']:.3f}", f"{row['seconds']:.0f} s")
            print(f"{number}/{len(jobs)}", *what, f"{time.monotonic() - start:.0f} s", flush=True)


def grid(folder: Path) -> list[Job]:
    """What is learned, smallest targets first."""
    full, ends = ([Prepared(folder / name) for name in names] for names in (FULL, ENDS))
    smallest = TARGETS[-1]
    jobs = [Job(each, target, levels) for target in reversed(TARGETS) for each in full for levels in LEVELS]
    jobs += [Job(each, smallest, levels) for each in ends for levels in LEVELS]
    tried = ((variant, Prepared(folder / name)) for variant, names in WHERE.items() for name in names)
    return jobs + [Job(each, smallest, LEVELS[-1], variant) for variant, each in tried]


def results(folder: Path) -> list[dict[str, Any]]:
    """A row for every model: quality with intervals, what it retains, weights, latency predicted and measured here."""
    rows = read_lines(folder / "learned.jsonl")
    dense = {row["data"]: row["quality"] for row in rows if row["levels"] == "dense"}
    found = []
    for row in rows:
        prepared = Prepared(folder / row["data"])
        entry = {name: row[name] for name in KEY}
        for name, quality in row["quality"].items():
            chance = prepared.chance(name)
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
        write_json(profile, profiling.record(config, tokenizer, True, budget, blocks=BLOCK_SHAPE).to_json())
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
            name = DATA_SETS[row["data"]].metrics[0]
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
