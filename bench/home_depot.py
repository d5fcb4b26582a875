"""MiniLM-L6, and four of its layers, on Home Depot at 60, 40, 25 and 10 % of dense latency, after equal tuning.

    python bench/home_depot.py prepare --data DATA --folder F   tokens, weights and latency profiles, on this machine
    python bench/home_depot.py train --folder F --model l6      teacher, importance and elastic encoder
    python bench/home_depot.py search --folder F                what every method chooses, by elastic scores
    python bench/home_depot.py sample --folder F                what the elastic encoder says with random genomes
    python bench/home_depot.py tune --folder F                  tunes each choice, from several seeds, and reads `dev`
    python bench/home_depot.py trajectories --folder F          what all methods score, for bench/search.py

All but the first can run on another machine, on a GPU where torch finds one. All are resumable: what is there is not
made again. Choices are made on a query-disjoint part of train (20 % of its queries, by hash).
bench/home_depot_results.py says what came of it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from home_depot_data import LENGTH, MODELS, SHARES, Prepared, prepare
from home_depot_scoring import EVERY_ROW, Batches, one_thread, problem_of, scorer, scores_of
from search_methods import METHODS, Problem

from prunetime.core.arch import ArchSpec
from prunetime.core.artifact import write_json
from prunetime.models.compact import compact, ordered, prefix_mask
from prunetime.models.encoder import SequenceClassifier, from_weights
from prunetime.pruning.importance import measure_importance, save_scores
from prunetime.search.archive import Evaluation, preference
from prunetime.search.elastic import Sandwich
from prunetime.search.evolution import depth_baselines, uniform_baselines
from prunetime.search.space import Genome, fit_to
from prunetime.training.checkpoints import discard_checkpoints
from prunetime.training.settings import TrainingSettings, best_device
from prunetime.training.trainer import fit

BATCH, LEARNING_RATE = {"teacher": 64, "elastic": 64, "tune": 128}, 1e-4
EPOCHS = {"teacher": 2.0, "elastic": 2.0, "tune": 1.0}
SMALLEST = 0.05
EVALUATIONS = 300
SEARCH_ROWS = 2_000
SAMPLE = 100
"""Random genomes of each budget."""

FINALISTS = 16
SEEDS = 3
TRUST = 8
"""Genomes of each budget that are tuned to see whether elastic scores order them rightly."""

BUDGETS = (0.10, *SHARES)

CRITERIA = {"agreement": "searched", "auc": "searched by AUC"}
"""What a search can go by, and the name of what it finds."""

ONCE = ("trust", "depth", "searched by AUC")
"""Tuned from one seed only."""


def training(step: str, seed: int, checkpoint_steps: int = 10**9) -> TrainingSettings:
    return TrainingSettings(
        EPOCHS[step],
        batch_size=BATCH[step],
        learning_rate=LEARNING_RATE,
        seed=seed,
        threads=torch.get_num_threads(),
        device=best_device(),
        checkpoint_steps=checkpoint_steps,
    )


def progress(name: str) -> Any:
    start = time.monotonic()

    def tell(done: int, of: int) -> None:
        if done % max(1, of // 10) == 0:
            print(f"{name}: {done} of {of}, {time.monotonic() - start:.0f} s", flush=True)

    return tell


def train(prepared: Prepared) -> None:
    """Teacher, importance and elastic encoder of one model."""
    data, dims = prepared.training_data("fit"), prepared.config.dims
    work = prepared.path("work")
    if not prepared.path("teacher.safetensors").exists():
        model = prepared.encoder("pretrained")
        fit(model, data, training("teacher", 0, 200), work / "teacher", on_progress=progress("teacher"))
        prepared.save("teacher", model)
    if not prepared.path("importance.safetensors").exists():
        scores = measure_importance(prepared.encoder("teacher"), data, rows=2_048, threads=torch.get_num_threads())
        save_scores(scores, prepared.path("importance.safetensors"))
    if not prepared.path("elastic.safetensors").exists():
        model = from_weights(prepared.config, ordered(prepared.weights("teacher"), prepared.importance, dims))
        sandwich = Sandwich(prepared.space(), SMALLEST, LENGTH)
        settings = training("elastic", 1, 200)
        teacher, tell = prepared.encoder("teacher"), progress("elastic")
        fit(model, data, settings, work / "elastic", teacher, tell, sub_networks=sandwich)
        prepared.save("elastic", model)
    for step in ("teacher", "elastic"):
        discard_checkpoints(work / step)


@dataclass(frozen=True)
class Job:
    """A search by one method."""

    prepared: Prepared
    share: float
    method: str
    criterion: str
    seed: int
    evaluations: int

    @property
    def name(self) -> str:
        what = (self.prepared.model, f"{self.share:.2f}", self.method, self.criterion, self.seed, self.evaluations)
        return "-".join(map(str, what))


def run_method(job: Job) -> dict[str, Any]:
    """Everything that a method evaluated, in order."""
    one_thread()
    start = time.monotonic()
    problem = problem_of(job.prepared, job.share, scores_of(job.prepared, job.criterion, SEARCH_ROWS))
    found = METHODS[job.method](problem, job.seed, job.evaluations)
    return {
        "model": job.prepared.model,
        "share": job.share,
        "method": job.method,
        "criterion": job.criterion,
        "seed": job.seed,
        "evaluations": [e.to_json() for e in found],
        "seconds": time.monotonic() - start,
    }


def run_all(folder: Path, jobs: Sequence[Job], workers: int, seconds: float) -> None:
    """Runs the jobs whose file is not there yet, until the time is up."""
    folder.mkdir(exist_ok=True)
    left = [job for job in jobs if not (folder / f"{job.name}.json").exists()]
    start = time.monotonic()
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(run_method, job): job for job in left}
        for done, future in enumerate(finished(pool, futures, seconds), start=1):
            name, found = futures[future].name, future.result()
            write_json(folder / f"{name}.json", found)
            print(f"{done}/{len(left)} {name} {found['seconds']:.0f} s, {time.monotonic() - start:.0f} s", flush=True)


def finished(pool: ProcessPoolExecutor, futures: Iterable[Future[Any]], seconds: float) -> Iterator[Future[Any]]:
    """Those that end within so many seconds; then the processes of the others are killed."""
    try:
        yield from as_completed(futures, timeout=seconds)
    except TimeoutError:
        print("out of time: run it again for what is left", flush=True)
        for process in list(pool._processes.values()):
            process.kill()
        pool.shutdown(wait=False, cancel_futures=True)


def final(prepared: Prepared, share: float, criterion: str) -> Job:
    """The search whose result is tuned."""
    return Job(prepared, share, "ours", criterion, 0, EVALUATIONS)


def trajectories(prepared: Prepared) -> list[Job]:
    """Those of all methods, and more random genomes."""
    jobs = [Job(prepared, s, m, "auc", seed, 200) for seed in range(2) for s in SHARES for m in METHODS]
    return jobs + [Job(prepared, s, "random", "auc", seed, 200) for seed in range(2, 5) for s in SHARES]


def search(folder: Path, models: Sequence[str], workers: int, seconds: float) -> None:
    prepared = [Prepared(folder, model) for model in models]
    jobs = [final(each, share, criterion) for each in prepared for share in BUDGETS for criterion in CRITERIA]
    run_all(folder / "runs", jobs, workers, seconds)
    with ProcessPoolExecutor(len(prepared), mp_context=get_context("spawn")) as pool:
        list(pool.map(choose_all, prepared, repeat(folder / "runs")))


def choose_all(prepared: Prepared, runs: Path) -> None:
    """Leaves `choices.json`: the genome of every method at every share, and those that are to be trusted or not."""
    if prepared.path("choices.json").exists():
        return
    one_thread()
    choices: list[dict[str, Any]] = []
    space = prepared.space(tokens=False)
    scores = {(c, count): scores_of(prepared, c, count) for c in CRITERIA for count in (SEARCH_ROWS, EVERY_ROW)}

    def add(share: float, method: str, genomes: Sequence[Genome], criterion: str = "auc", number: int = 0) -> None:
        if not genomes:  # not even one layer is in budget
            return
        winner = genomes[int(np.argmax(scores[criterion, EVERY_ROW](genomes)))]
        best = space.spec(winner)
        predicted = prepared.latency.predict(best, prepared.budget)
        elastic = {f"{name} {count}": score([winner])[0] for (name, count), score in scores.items()}
        row = {"share": share, "method": method, "number": number, "elastic": elastic, "predicted_us": predicted}
        choices.append(row | {"spec": best.to_json(), "candidates": len(genomes)})
        print(prepared.model, row, [(x.heads, x.ffn) for x in best.layers], flush=True)

    add(1.0, "dense", [space.levels])
    for share in BUDGETS:
        problem = problem_of(prepared, share, scores["agreement", SEARCH_ROWS])
        for criterion, method in CRITERIA.items():
            run = json.loads((runs / f"{final(prepared, share, criterion).name}.json").read_text())
            found = [Evaluation.from_json(e) for e in run["evaluations"]]
            inside = sorted((e for e in found if e.predicted_us <= problem.budget_us), key=preference)
            add(share, method, [e.genome for e in inside[:FINALISTS]], criterion)
            if criterion == "agreement" and prepared.model == "l6" and share in SHARES:
                for number, genome in enumerate([*spread(problem), inside[0].genome]):
                    add(share, "trust", [genome], number=number)
        add(share, "uniform", uniform_baselines(space, problem.predict, problem.budget_us))
        add(share, "depth", depth_baselines(space, problem.predict, problem.budget_us))
    write_json(prepared.path("choices.json"), choices)


def spread(problem: Problem) -> list[Genome]:
    """All but one of the genomes to be trusted or not: random ones, spread evenly from the worst score to the best."""
    genomes = near_budget(problem, SAMPLE, np.random.default_rng(5))
    rising = [genomes[i] for i in np.argsort(problem.score(genomes))]
    return [rising[i] for i in np.linspace(0, SAMPLE - 1, TRUST - 1).round().astype(int)]


def near_budget(problem: Problem, count: int, rng: np.random.Generator) -> list[Genome]:
    """Random genomes within 3 % below the budget."""
    found: list[Genome] = []
    while len(found) < count:
        fitted = fit_to(problem.space.levels, problem.latency, problem.space.random(rng), problem.budget_us, rng)
        if fitted and fitted[1] >= 0.97 * problem.budget_us:
            found.append(fitted[0])
    return found


def sample(folder: Path, models: Sequence[str]) -> None:
    """Leaves `sample.npz`: logits of all rows to choose by, of random genomes near each budget and of the teacher."""
    for prepared in (Prepared(folder, model) for model in models):
        rng, space, by = np.random.default_rng(6), prepared.space(tokens=False), scorer(prepared, EVERY_ROW)
        score = scores_of(prepared, "agreement", EVERY_ROW)
        genomes = [g for share in SHARES for g in near_budget(problem_of(prepared, share, score), SAMPLE, rng)]
        logits = np.array([by.logits(space.spec(genome)) for genome in (*genomes, space.levels)])
        arrays = {"logits": logits[:-1], "whole": logits[-1], "teacher": by.expected}
        np.savez(prepared.path("sample.npz"), genomes=genomes, **{k: v.astype(np.float16) for k, v in arrays.items()})


def tune_one(folder: Path, model: str, choice: dict[str, Any], seed: int) -> dict[str, Any]:
    """Tunes a choice like any other and reads `choose` and `dev`."""
    one_thread()
    prepared = Prepared(folder, model)
    spec, dims = ArchSpec.from_json(choice["spec"]), prepared.config.dims
    elastic = prepared.weights("elastic")
    student = from_weights(prepared.config, compact(elastic, prefix_mask(elastic, spec, dims), dims), spec=spec)
    work = folder / "work" / f"{model}-{choice['share']}-{choice['method']}-{choice['number']}-{seed}"
    fit(student, prepared.training_data("fit"), training("tune", 10 + seed), work, teacher=prepared.encoder("teacher"))
    discard_checkpoints(work)
    return {"model": model, **choice, "seed": seed, **read_off(student, prepared)}


def read_off(model: SequenceClassifier, prepared: Prepared) -> dict[str, Any]:
    """AUC and scores of all rows to choose by and of `dev`."""
    model.to(best_device()).eval()
    found: dict[str, Any] = {}
    for part in ("choose", "dev"):
        batches = Batches(prepared, prepared.rows(part))
        logits = batches.logits(lambda inputs: model(*inputs))
        found[f"{part}_auc"] = batches.auc(logits)
        found[f"{part}_scores"] = [round(float(score), 5) for score in prepared.task.scores(logits)]
    return found


def tune(folder: Path, models: Sequence[str], workers: int, seconds: float) -> None:
    """Appends to `tuned.jsonl`: what is compared from every seed, then what is tuned from one, then the trusted."""
    out = folder / "tuned.jsonl"
    keys = ("model", "share", "method", "number", "seed")
    done = {tuple(row[k] for k in keys) for row in read_lines(out)}
    jobs = [
        (folder, model, choice, seed)
        for seed in range(SEEDS)
        for model in models
        for choice in json.loads((folder / model / "choices.json").read_text())
        if (seed == 0 or choice["method"] not in ONCE)
        and (model, choice["share"], choice["method"], choice["number"], seed) not in done
    ]
    jobs.sort(key=lambda job: (job[2]["method"] == "trust", job[2]["method"] in ONCE))
    start = time.monotonic()
    with out.open("a") as file, ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for model in models:
            if (model, 1.0, "teacher", 0, 0) not in done:
                prepared = Prepared(folder, model)
                row = {"model": model, "share": 1.0, "method": "teacher", "number": 0, "seed": 0}
                file.write(json.dumps(row | read_off(prepared.encoder("teacher"), prepared)) + "\n")
        futures = [pool.submit(tune_one, *job) for job in jobs]
        for number, future in enumerate(finished(pool, futures, seconds), start=1):
            row = future.result()
            file.write(json.dumps(row) + "\n")
            file.flush()
            shown = " ".join(str(row[k]) for k in keys)
            print(f"{number}/{len(jobs)} {shown} choose {row['choose_auc']:.4f} "
                  f"dev {row['dev_auc']:.4f}, {time.monotonic() - start:.0f} s", flush=True)  # fmt: skip


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("prepare", "train", "search", "sample", "tune", "trajectories"))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="folder with train.tsv and dev.tsv")
    parser.add_argument("--model", choices=MODELS, action="append", help="all by default")
    parser.add_argument("--workers", type=int, default=1, help="processes that search or tune")
    parser.add_argument("--seconds", type=float, default=1e6, help="after which a step stops, to be resumed")
    options = parser.parse_args()
    models = options.model or MODELS
    if options.step == "prepare":
        prepare(options.data, options.folder)
    elif options.step == "train":
        torch.set_float32_matmul_precision("high")
        for model in models:
            train(Prepared(options.folder, model))
    elif options.step == "sample":
        sample(options.folder, models)
    elif options.step == "trajectories":
        jobs = trajectories(Prepared(options.folder, models[0]))
        run_all(options.folder / "runs", jobs, options.workers, options.seconds)
    else:
        step = {"search": search, "tune": tune}[options.step]
        step(options.folder, models, options.workers, options.seconds)


if __name__ == "__main__":
    main()
