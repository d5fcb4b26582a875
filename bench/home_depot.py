"""MiniLM-L6, and four of its layers, on Home Depot at 60, 40 and 25 % of dense latency, after equal tuning.

    python bench/home_depot.py prepare --data DATA --folder F   tokens, weights and latency profiles, on this machine
    python bench/home_depot.py train --folder F --model l6      teacher, importance and elastic encoder
    python bench/home_depot.py search --folder F                what every method chooses, by elastic scores
    python bench/home_depot.py tune --folder F                  tunes each choice, from several seeds, and reads `dev`

All but the first can run on another machine, on a GPU where torch finds one. All are resumable: what is there is not
made again. Choices are made on a query-disjoint part of train (20 % of its queries, by hash).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from functools import cache, lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from home_depot_data import LENGTH, MODELS, Prepared, Rows, prepare
from numpy.typing import NDArray
from search_methods import METHODS, Problem, uniform_dropping

from prunetime.arch import ArchSpec
from prunetime.artifact import write_json
from prunetime.mask import Mask
from prunetime.models.compact import compact, ordered
from prunetime.models.encoder import Output, SequenceClassifier, from_weights
from prunetime.models.prefix import Inputs, run_prefix
from prunetime.pruning.importance import measure_importance, save_scores
from prunetime.search.archive import Evaluation, preference
from prunetime.search.elastic import Sandwich
from prunetime.search.evolution import depth_baselines, uniform_baselines
from prunetime.search.space import Genome, Space, fit_to
from prunetime.tasks.metrics import metric
from prunetime.training.trainer import TrainingSettings, best_device, discard_checkpoints, fit

SHARES = (0.25, 0.40, 0.60)
MARGIN = 0.95
BATCH, LEARNING_RATE = 64, 1e-4
EPOCHS = {"teacher": 2.0, "elastic": 1.0, "tune": 2.0}
SMALLEST = 0.1
EVALUATIONS = 300
SEARCH_ROWS = 2_000
FINALISTS = 16
SEEDS = 3
TRUST = 8
"""Genomes of each budget that are tuned to see whether elastic scores order them rightly."""

AUC = metric("auc")


def training(step: str, seed: int, checkpoint_steps: int = 10**9) -> TrainingSettings:
    return TrainingSettings(
        EPOCHS[step],
        batch_size=BATCH,
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


class Batches:
    """Rows in padded batches, by length, where torch computes fastest."""

    def __init__(self, prepared: Prepared, rows: Rows) -> None:
        self._rows, self._task = rows, prepared.task
        self._order = np.argsort(rows.tokens.lengths, kind="stable")
        self._inputs: list[Inputs] = [
            tuple(torch.from_numpy(a.astype(np.int64)).to(best_device()) for a in part.padded(prepared.pad_id))
            for part in rows.tokens.select(self._order).batches(32_768)
        ]

    def scores(self, forward: Callable[[Inputs], Output]) -> NDArray[np.float32]:
        """Of every row, in the order of the rows."""
        with torch.no_grad():
            logits = torch.cat([forward(inputs).logits for inputs in self._inputs]).cpu().numpy()
        return self._task.scores(logits[np.argsort(self._order)])

    def auc(self, scores: NDArray[np.float32]) -> float:
        return AUC.value(scores, self._rows.labels, self._rows.groups)


class PrefixScorer:
    """What `ElasticScorer` computes, in torch: on a GPU it is faster."""

    def __init__(self, model: SequenceClassifier, batches: Batches) -> None:
        self._model, self._batches = model.to(best_device()).eval(), batches

    def __call__(self, specs: Sequence[ArchSpec]) -> Iterator[float]:
        for spec in specs:
            yield self._batches.auc(self._batches.scores(partial(run_prefix, self._model, spec)))


@lru_cache(maxsize=4)
def scorer(prepared: Prepared, count: int) -> PrefixScorer:
    """On so many rows to choose by."""
    return PrefixScorer(prepared.encoder("elastic"), Batches(prepared, prepared.some("choose", count)))


def problem_of(prepared: Prepared, space: Space, share: float) -> Problem:
    @cache
    def latency(genome: Genome) -> float:
        return prepared.latency.predict(space.spec(genome), prepared.budget)

    @cache
    def score(genome: Genome) -> float:
        (found,) = scorer(prepared, SEARCH_ROWS)([space.spec(genome)])
        return found

    def scores(genomes: Sequence[Genome]) -> list[float]:
        return [score(genome) for genome in genomes]

    return Problem(space, latency, scores, prepared.importance, share * MARGIN * prepared.dense_us)


Job = tuple[Prepared, float, str, bool, int, int]
"""(model, share, method, whether tokens can be dropped, seed, evaluations)."""


def run_method(job: Job) -> dict[str, Any]:
    """Everything that a method evaluated, in order."""
    prepared, share, method, tokens, seed, evaluations = job
    torch.set_num_threads(1)
    start = time.monotonic()
    found = METHODS[method](problem_of(prepared, prepared.space(tokens), share), seed, evaluations)
    return {
        "model": prepared.model,
        "share": share,
        "method": method,
        "tokens": tokens,
        "seed": seed,
        "evaluations": [e.to_json() for e in found],
        "seconds": time.monotonic() - start,
    }


def name_of(job: Job) -> str:
    prepared, share, method, tokens, seed, evaluations = job
    return f"{prepared.model}-{share:.2f}-{method}-{'tokens' if tokens else 'widths'}-{seed}-{evaluations}"


def run_all(folder: Path, jobs: Sequence[Job], workers: int, seconds: float) -> None:
    """Runs the jobs whose file is not there yet, until the time is up."""
    folder.mkdir(exist_ok=True)
    left = [job for job in jobs if not (folder / f"{name_of(job)}.json").exists()]
    start = time.monotonic()
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(run_method, job): job for job in left}
        for done, future in enumerate(finished(pool, futures, seconds), start=1):
            name, found = name_of(futures[future]), future.result()
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


def search_jobs(folder: Path, models: Sequence[str]) -> list[Job]:
    """What is to be tuned first; then the comparison of methods; then trajectories of all of them for the table."""
    prepared = [Prepared(folder, model) for model in models]
    final = [(p, s, m, t, 0, EVALUATIONS) for p in prepared for s in SHARES
             for m, t in (("ours", True), ("ours", False))]  # fmt: skip
    first = prepared[0]
    live = [(first, 0.25, m, t, 100 + seed, 200) for t in (True, False) for seed in range(10)
            for m in ("ours", "evolution", "random")]  # fmt: skip
    table = [(first, s, m, True, seed, 200) for seed in range(2) for s in SHARES for m in METHODS]
    return [*final, *live, *table]


def search(folder: Path, models: Sequence[str], workers: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    for model in models:
        choose_all(Prepared(folder, model), folder / "runs", workers, deadline)
    run_all(folder / "runs", search_jobs(folder, models), workers, deadline - time.monotonic())


def choose_all(prepared: Prepared, runs: Path, workers: int, deadline: float) -> None:
    """Leaves `choices.json`: the genome of every method at every share, and those that are to be trusted or not."""
    if prepared.path("choices.json").exists():
        return
    jobs = [job for job in search_jobs(prepared.folder, [prepared.model]) if job[4] == 0 and job[5] == EVALUATIONS]
    run_all(runs, jobs, min(workers, len(jobs)), deadline - time.monotonic())
    choices: list[dict[str, Any]] = []

    def add(share: float, method: str, space: Space, genomes: Iterable[Genome], number: int = 0) -> None:
        specs = [space.spec(genome) for genome in genomes]
        scores = list(scorer(prepared, 10**9)(specs))
        best = int(np.argmax(scores))
        predicted = prepared.latency.predict(specs[best], prepared.budget)
        row = {"share": share, "method": method, "number": number, "score": scores[best], "predicted_us": predicted}
        choices.append(row | {"spec": specs[best].to_json(), "candidates": len(specs)})
        print(prepared.model, row, [(x.heads, x.ffn, x.tokens) for x in specs[best].layers])

    for share in SHARES:
        for tokens in (True, False):
            space = prepared.space(tokens)
            problem = problem_of(prepared, space, share)
            run = json.loads((runs / f"{name_of((prepared, share, 'ours', tokens, 0, EVALUATIONS))}.json").read_text())
            found = [Evaluation.from_json(e) for e in run["evaluations"]]
            inside = sorted((e for e in found if e.predicted_us <= problem.budget_us), key=preference)
            add(share, "searched" if tokens else "searched widths", space, [e.genome for e in inside[:FINALISTS]])
            if tokens and prepared.model == "l6":
                for number, genome in enumerate(spread(problem, found)):
                    add(share, "trust", space, [genome], number)
        widths, dropping = prepared.space(tokens=False), prepared.space()
        inside = (lambda spec: prepared.latency.predict(spec, prepared.budget)), problem.budget_us
        add(share, "uniform", widths, uniform_baselines(widths, *inside))
        add(share, "depth", widths, depth_baselines(widths, *inside))
        latency = problem_of(prepared, dropping, share).latency
        add(share, "uniform tokens", dropping, uniform_dropping(dropping, latency, problem.budget_us))
    write_json(prepared.path("choices.json"), choices)


def spread(problem: Problem, found: Sequence[Evaluation]) -> list[Genome]:
    """Genomes within 3 % below the budget whose scores are spread evenly from poor to best."""
    rng = np.random.default_rng(5)
    near = {e.genome: e.score for e in found if 0.97 * problem.budget_us <= e.predicted_us <= problem.budget_us}
    while len(near) < 60:
        fitted = fit_to(problem.space.levels, problem.latency, problem.space.random(rng), problem.budget_us, rng)
        if fitted and fitted[1] >= 0.97 * problem.budget_us:
            near[fitted[0]] = problem.score([fitted[0]])[0]
    rising = sorted(near, key=near.__getitem__)
    # The worst of random genomes are of no interest: from the middle of all to the best.
    at = np.linspace(len(rising) // 2, len(rising) - 1, TRUST).round().astype(int)
    return [rising[i] for i in at]


def tune_one(folder: Path, model: str, choice: dict[str, Any], seed: int) -> dict[str, Any]:
    """Tunes a choice like any other and reads `choose` and `dev`."""
    torch.set_num_threads(1)
    prepared = Prepared(folder, model)
    spec, dims = ArchSpec.from_json(choice["spec"]), prepared.config.dims
    student = from_weights(
        prepared.config, compact(prepared.weights("elastic"), Mask.first(spec, dims), dims), spec=spec
    )
    work = folder / "work" / f"{model}-{choice['share']}-{choice['method']}-{choice['number']}-{seed}"
    fit(student, prepared.training_data("fit"), training("tune", 10 + seed), work, teacher=prepared.encoder("teacher"))
    discard_checkpoints(work)
    return {"model": model, **choice, "seed": seed, **read_off(student, prepared)}


def read_off(model: SequenceClassifier, prepared: Prepared) -> dict[str, Any]:
    """AUC on all rows to choose by, and the scores of the rows of `dev`."""
    model.to(best_device()).eval()
    found: dict[str, Any] = {}
    for part in ("choose", "dev"):
        batches = Batches(prepared, prepared.rows(part))
        scores = batches.scores(lambda inputs: model(*inputs))
        found[f"{part}_auc"] = batches.auc(scores)
        if part == "dev":
            found["dev_scores"] = [round(float(score), 6) for score in scores]
    return found


def tune(folder: Path, models: Sequence[str], workers: int, seconds: float) -> None:
    """Appends to `tuned.jsonl`: first every choice from seed 0, then the other seeds."""
    out = folder / "tuned.jsonl"
    keys = ("model", "share", "method", "number", "seed")
    done = {tuple(row[k] for k in keys) for row in read_lines(out)}
    jobs = [
        (folder, model, choice, seed)
        for seed in range(SEEDS)
        for model in models
        for choice in json.loads((folder / model / "choices.json").read_text())
        if (seed == 0 or choice["method"] != "trust")
        and (model, choice["share"], choice["method"], choice["number"], seed) not in done
    ]
    jobs.sort(key=lambda job: (job[2]["method"] == "trust", job[3]))
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
            print(f"{number}/{len(jobs)} {shown} elastic {row['score']:.4f} choose {row['choose_auc']:.4f} "
                  f"dev {row['dev_auc']:.4f}, {time.monotonic() - start:.0f} s", flush=True)  # fmt: skip


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("prepare", "train", "search", "tune"))
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
        for model in models:
            train(Prepared(options.folder, model))
    else:
        step = {"search": search, "tune": tune}[options.step]
        step(options.folder, models, options.workers, options.seconds)


if __name__ == "__main__":
    main()
