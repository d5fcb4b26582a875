"""Learned multilevel masks on MiniLM-L6: by heads and rows, by blocks and by both, at 50, 30 and 20 % of the weights.

    python bench/multilevel.py prepare --data DATA --folder F    tokens and weights; DATA has home_depot, qqp, mnli
    python bench/multilevel.py learn --folder F --workers N      teachers, then masks, all with as many steps
    python bench/multilevel.py results --folder F --json         quality with intervals, weights, latency measured here
    python bench/multilevel.py --speed --json                    BERT-base shapes at the learned keep ratios, end to end

`learn` can run on another machine, on a GPU where torch finds one, and is resumable: what is there is not made again.
`dev` is read once for each model; nothing is chosen by it.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from home_depot import finished, progress, read_lines
from home_depot_data import Prepared, write_rows
from home_depot_data import prepare as prepare_home_depot
from home_depot_scoring import Batches, one_thread
from multilevel_speed import speed
from provenance import provenance

from prunetime.arch import ArchSpec, Grain
from prunetime.artifact import write_json
from prunetime.cli.runs import minilm_folder
from prunetime.mask import Mask
from prunetime.models import families
from prunetime.models.compact import compact
from prunetime.models.encoder import SequenceClassifier, from_weights, weights_of
from prunetime.pruning.criteria import magnitudes, ranks
from prunetime.pruning.importance import measure_importance, save_scores
from prunetime.pruning.multilevel import Multilevel, learning_rate, mask_of
from prunetime.pruning.regularise import WeightsKept
from prunetime.runtime import profiling
from prunetime.runtime.latency import ProfileKey
from prunetime.runtime.tokenize import Tokenizer
from prunetime.tasks.data import examples, guess_columns, task_of
from prunetime.tasks.metrics import evaluate, metric
from prunetime.tasks.sources import read_table
from prunetime.training.distill import Distillation
from prunetime.training.trainer import TrainingSettings, best_device, discard_checkpoints, fit

MODEL = "l6"
FULL, ENDS = ("home_depot", "qqp"), ("mnli",)
"""Sets of the whole grid, and those of which only the smallest target is learned."""

TARGETS, LEVELS = (0.5, 0.3, 0.2), ("rows", "blocks", "both")
GRAIN: Grain = (32, 32)
LENGTH = {"qqp": 64, "mnli": 128}
ROWS = 20_000
"""Of train, at most; all of Home Depot."""

TEACHER_STEPS, STEPS, BATCH = 900, 550, 64
"""`STEPS` are those of each of the two steps; one level alone has them both."""

VARIANTS: dict[str, dict[str, Any]] = {
    "as it is": {"learning": 0.6},
    "from zeros": {"scores": None, "learning": 0.6},
    "learning 0.4": {"learning": 0.4},
    "16x16": {"grain": (16, 16), "learning": 0.6},
}
"""Changes of the steps; all but the first are tried with both levels on Home Depot at the smallest target only."""


def prepare(data: Path, folder: Path) -> None:
    """Writes a folder for every data set, as `home_depot_data.Prepared` reads it."""
    prepare_home_depot(data / "home_depot", folder / "home_depot")
    for name, length in LENGTH.items():
        (folder / name / MODEL).mkdir(parents=True, exist_ok=True)
        table = read_table(str(data / name / "train.tsv"))
        columns, _ = guess_columns(table, (), "label")
        task = task_of(table, columns, length)
        pretrained = families.load(str(minilm_folder()), task.outputs, 0)
        tokenizer = Tokenizer((minilm_folder() / "tokenizer.json").read_bytes(), length)
        dev = examples(read_table(str(data / name / "dev.tsv")), columns, task)
        fit_rows = examples(table, columns, task)
        fit_rows = fit_rows.select(np.sort(np.random.default_rng(0).permutation(len(fit_rows))[:ROWS]))
        for part, chosen in (("fit", fit_rows), ("dev", dev)):
            unseen = np.zeros(len(chosen), np.bool_)
            write_rows(folder / name / f"{part}.npz", chosen, tokenizer.encode(chosen.texts), unseen)
        setting = {"configs": {MODEL: pretrained.config.to_json()}, "task": task.to_json()}
        write_json(folder / name / "setting.json", setting | {"pad_id": pretrained.pad_token_id})
        Prepared(folder / name, MODEL).save("pretrained", pretrained.model)


def training(rows: int, steps: int, seed: int, distillation: Distillation | None = None) -> TrainingSettings:
    return TrainingSettings(
        steps / math.ceil(rows / BATCH),
        batch_size=BATCH,
        learning_rate=1e-4,
        seed=seed,
        threads=torch.get_num_threads(),
        device=best_device(),
        checkpoint_steps=10**9,
        distillation=distillation or Distillation(attention=1.0),
    )


def train_teacher(prepared: Prepared) -> None:
    """The dense model, and the importance of its heads and rows."""
    one_thread()
    data = prepared.training_data("fit")
    if not prepared.path("teacher.safetensors").exists():
        model, work = prepared.encoder("pretrained"), prepared.path("work")
        fit(model, data, training(len(data), TEACHER_STEPS, 0), work, on_progress=progress(str(prepared.folder)))
        prepared.save("teacher", model)
        discard_checkpoints(work)
    if not prepared.path("importance.safetensors").exists():
        save_scores(measure_importance(prepared.encoder("teacher"), data), prepared.path("importance.safetensors"))


SPEED_LENGTH, PASSES = 48, 3

RESULT = Path(__file__).parent / "results" / "multilevel.json"

KEY = ("data", "target", "levels", "variant")


@dataclass(frozen=True)
class Job:
    """Masks to be learned of one model."""

    folder: Path
    data: str
    target: float
    levels: str
    variant: str = "as it is"

    @property
    def key(self) -> tuple[str, float, str, str]:
        return self.data, self.target, self.levels, self.variant

    @property
    def prepared(self) -> Prepared:
        return Prepared(self.folder / self.data, MODEL)


def learn(job: Job) -> dict[str, Any]:
    """Learns masks and weights, and reads `dev`."""
    one_thread()
    start = time.monotonic()
    config, cost = job.prepared.config, WeightsKept(job.prepared.config.dims)
    model, teacher = job.prepared.encoder("teacher"), job.prepared.encoder("teacher")
    mask = Mask.full(config.dims)
    if job.levels != "blocks":
        share = math.sqrt(job.target) if job.levels == "both" else job.target
        step = Multilevel(config.dims, mask.spec(), cost, share * cost.dense, scores=ranks(job.prepared.importance))
        mask = one_step(job, model, mask, teacher, step)
    if job.levels == "both":
        weights = compact(weights_of(model), mask, config.dims)
        model, teacher = (from_weights(config, weights) for _ in range(2))
    if job.levels != "rows":
        grain: Grain = VARIANTS[job.variant].get("grain", GRAIN)
        scores = ranks(magnitudes(weights_of(model), mask.spec(), config.dims, grain))
        step = Multilevel(config.dims, mask.spec(), cost, job.target * cost.dense, grain, scores)
        mask = one_step(job, model, mask, teacher, step)
    found = dict(zip(KEY, job.key, strict=True)) | {"kept": cost(mask.spec()) / cost.dense}
    found |= {"spec": mask.spec().to_json()} | read_dev(job.prepared, model)
    return found | {"seconds": time.monotonic() - start}


def one_step(job: Job, model: SequenceClassifier, mask: Mask, teacher: SequenceClassifier, step: Multilevel) -> Mask:
    """Trains `model`, which `mask` has left, and masks of it; returns what both leave."""
    data = job.prepared.training_data("fit")
    steps = STEPS if job.levels == "both" else 2 * STEPS
    changes = {name: change for name, change in VARIANTS[job.variant].items() if name != "grain"}
    step = replace(step, learning_rate=learning_rate(steps, changes.get("learning", step.learning)), **changes)
    work = job.prepared.path(f"work/{job.target}-{job.levels}-{job.variant}-{'blocks' if step.grain else 'rows'}")
    kept = fit(model, data, training(len(data), steps, 1), work, teacher, multilevel=step)
    assert kept is not None
    discard_checkpoints(work)
    return mask_of(step, kept, mask)


def read_dev(prepared: Prepared, model: SequenceClassifier) -> dict[str, Any]:
    """Logits of `dev`."""
    batches = Batches(prepared, prepared.rows("dev"))
    placed = model.to(best_device()).eval()
    return {"dev_logits": batches.logits(lambda inputs: placed(*inputs)).astype(float).round(4).tolist()}


def learn_all(folder: Path, workers: int, seconds: float) -> None:
    """Appends to `learned.jsonl`, smallest targets first."""
    out = folder / "learned.jsonl"
    done = {tuple(row[name] for name in KEY) for row in read_lines(out)}
    start, names = time.monotonic(), (*FULL, *ENDS)
    with out.open("a") as file, ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        list(pool.map(train_teacher, [Prepared(folder / name, MODEL) for name in names]))
        jobs = [pool.submit(learn, job) for job in grid(folder) if job.key not in done]
        for job in (Job(folder, name, 1.0, "dense") for name in names):
            if job.key not in done:
                row = read_dev(job.prepared, job.prepared.encoder("teacher"))
                file.write(json.dumps(dict(zip(KEY, job.key, strict=True)) | row) + "\n")
        for number, future in enumerate(finished(pool, jobs, seconds), start=1):
            row = future.result()
            file.write(json.dumps(row) + "\n")
            file.flush()
            what = (*(row[name] for name in KEY), f"{row['kept']:.3f}", f"{row['seconds']:.0f} s")
            print(f"{number}/{len(jobs)}", *what, f"{time.monotonic() - start:.0f} s", flush=True)


def grid(folder: Path) -> list[Job]:
    """What is learned, smallest targets first."""
    smallest = TARGETS[-1]
    jobs = [Job(folder, name, target, levels) for target in reversed(TARGETS) for name in FULL for levels in LEVELS]
    jobs += [Job(folder, name, smallest, levels) for name in ENDS for levels in LEVELS[1:]]
    return jobs + [Job(folder, FULL[0], smallest, LEVELS[-1], variant) for variant in list(VARIANTS)[1:]]


METRICS = {"home_depot": "auc", "qqp": "accuracy", "mnli": "accuracy"}


def results(folder: Path) -> list[dict[str, Any]]:
    """A row for every model: quality with its interval, what it retains, weights, latency measured here."""
    rows = read_lines(folder / "learned.jsonl")
    dense = {row["data"]: row for row in rows if row["levels"] == "dense"}
    found = []
    for row in rows:
        prepared = Prepared(folder / row["data"], MODEL)
        dev, judge = prepared.rows("dev"), metric(METRICS[row["data"]])
        scores, of_dense = (
            prepared.task.scores(np.array(r["dev_logits"], np.float32)) for r in (row, dense[row["data"]])
        )
        quality = evaluate(judge, scores, dev.labels, dev.groups)
        counts = np.bincount(dev.labels)
        chance = 0.5 if judge.name == "auc" else float(counts.max() / counts.sum())
        whole = judge.value(of_dense, dev.labels, dev.groups)
        entry = {name: row[name] for name in KEY} | {"metric": judge.name, "value": quality.value, "ci95": quality.ci95}
        entry |= {"chance": chance, "retained": (quality.value - chance) / (whole - chance)}
        if row["data"] == "qqp":  # of unequal classes, accuracy hides much of what a model knows
            auc = metric("auc")
            both = [auc.value(s, dev.labels, dev.groups) - 0.5 for s in (scores, of_dense)]
            entry |= {"auc": both[0] + 0.5, "auc_retained": both[0] / both[1]}
        found.append(entry | ({} if row["levels"] == "dense" else {"kept": row["kept"], "spec": row["spec"]}))
    pruned = [entry for entry in found if "spec" in entry]
    for entry, share in zip(pruned, measured_shares([ArchSpec.from_json(e["spec"]) for e in pruned]), strict=True):
        entry["share_of_dense"] = share
    return found


def measured_shares(specs: list[ArchSpec]) -> list[float]:
    """Latency as a share of dense timed in turn with it: fp32, one sequence of `SPEED_LENGTH` tokens, one thread."""
    config = families.load(str(minilm_folder()), 2).config
    key = ProfileKey.here(config, 1, 1, SPEED_LENGTH)
    return np.median([list(profiling.shares_of_dense(key, config, specs)) for _ in range(PASSES)], axis=0).tolist()


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
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.speed:
        found = provenance() | speed(smallest_of_both(), families.load(str(minilm_folder()), 2).config.dims)
        write_json(RESULT.with_name("multilevel_speed.json"), found)
        print(json.dumps(found) if options.json else json.dumps(found, indent=2))
    elif options.step == "prepare":
        prepare(options.data, options.folder)
    elif options.step == "learn":
        learn_all(options.folder, options.workers, options.seconds)
    elif options.step == "results":
        table = results(options.folder)
        for row in table:
            what = [str(row[name]) for name in KEY]
            print(*what, f"{row['value']:.4f} retained {row['retained']:.3f}, measured {row.get('share_of_dense')}")
        write_json(RESULT, provenance() | {"quality": table})
        if options.json:
            print(json.dumps(table))
    else:
        parser.error("give a step, or --speed")


if __name__ == "__main__":
    main()
