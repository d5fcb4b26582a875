"""NDCG@10 of a MiniLM-L6 at a quarter of its heads and FFN neurons, tuned with and without the rank-consistency loss.

    python bench/ranking.py train --data SHARED/data --folder F   rows, teacher and elastic encoder of both sets
    python bench/ranking.py tune --folder F                       tunes in both ways from every seed
    python bench/ranking.py report --folder F --json              writes bench/results/ranking.json

SHARED/data has wikiqa and home_depot. Resumable: what is in F is not made again. `choose` is a fifth of train's
queries, by hash; nothing is trained on it. Differences are paired by query: of each query the mean over seeds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from home_depot import progress, read_lines
from provenance import provenance
from safetensors.numpy import load_file, save_file

from prunetime.cli.runs import minilm_folder
from prunetime.core.arrays import Float64Array, Weights
from prunetime.core.artifact import write_json, write_text
from prunetime.core.budget import Budget
from prunetime.core.estimate import Estimate
from prunetime.inference.engine import Engine
from prunetime.inference.inputs import Inputs
from prunetime.models.batches import TrainingData
from prunetime.models.compact import compact, ordered, prefix_mask
from prunetime.models.distill import Distillation
from prunetime.models.encoder import from_weights, weights_of
from prunetime.pipeline.source import Source, load_source
from prunetime.pipeline.stages.tune import ORDER_WEIGHT
from prunetime.pruning.importance import measure_importance
from prunetime.search.elastic import Sandwich
from prunetime.search.space import Space
from prunetime.settings import Settings
from prunetime.tasks.data import Examples, group_ids
from prunetime.tasks.formulas import ndcg_at, reciprocal_rank
from prunetime.tasks.metrics import metric, order_kept
from prunetime.tasks.roles import group_hash_split, whole_groups
from prunetime.training.checkpoints import discard_checkpoints
from prunetime.training.head_start import start_head
from prunetime.training.settings import TrainingSettings, best_precision
from prunetime.training.trainer import fit

OUT = Path(__file__).parent / "results" / "ranking.json"
LENGTH, SHARE, READ = 64, 0.25, 4_000
"""Tokens of a pair, the share of heads and FFN neurons that is kept, and the rows of each part that are read off."""

PARTS = ("fit", "choose", "dev")
ARMS = {"without": None, "with": ORDER_WEIGHT}
"""The weight of the rank-consistency loss."""

SEEDS = (0, 1, 2)
METRICS = ("ndcg@10", "mrr", "auc")
OF_QUERIES: dict[str, Callable[[Float64Array, Float64Array], float]] = {"ndcg@10": ndcg_at(10), "mrr": reciprocal_rank}


@dataclass(frozen=True)
class Recipe:
    """The columns of a data set (query, text, label), and (rows, epochs) of each training."""

    columns: tuple[str, str, str]
    teacher: tuple[int, float]
    elastic: tuple[int, float]
    tune: tuple[int, float]


SETS = {
    "wikiqa": Recipe(("query", "sentence", "label"), (8_000, 2.0), (2_000, 1.0), (8_000, 2.0)),
    "home_depot": Recipe(("query", "title", "relevance"), (12_000, 1.0), (1_500, 1.0), (8_000, 1.0)),
}


def rows_of(data: Path, name: str, part: str) -> list[tuple[str, str, str]]:
    """Query, text and label, 0 to 1; of wikiqa, of the questions with right and wrong answers."""
    lines = (data / name / f"{part}.tsv").read_text(encoding="utf-8").splitlines()
    at = [lines[0].split("\t").index(column) for column in SETS[name].columns]
    cells = [[line.split("\t")[i] for i in at] for line in lines[1:]]
    if name == "home_depot":
        return [(query, text, f"{(float(label) - 1.0) / 2.0:.4f}") for query, text, label in cells]
    queries, texts, labels = zip(*cells, strict=True)
    groups, values = group_ids(queries), np.array(labels, np.int64)
    of_query = {group: values[groups == group] for group in np.unique(groups)}
    rows = zip(queries, texts, labels, groups, strict=True)
    return [(query, text, label) for query, text, label, group in rows if np.ptp(of_query[group])]


def write_rows(path: Path, rows: Sequence[tuple[str, str, str]]) -> None:
    write_text(path, "\n".join("\t".join(row) for row in [("query", "text", "label"), *rows]) + "\n")


class Subject:
    """One data set's part of the folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name, self.recipe = folder / name, name, SETS[name]

    @cached_property
    def source(self) -> Source:
        fit_path, choose, dev = (str(self.folder / f"{part}.tsv") for part in PARTS)
        return load_source(
            Settings(
                model=str(minilm_folder()),
                data=fit_path,
                valid=choose,
                test=dev,
                text=("query", "text"),
                label="label",
                group="query",
                metric="ndcg@10",
                budget=Budget(share=1.0, seq_len=LENGTH),
            ),
            print,
        )

    def weights(self, name: str) -> Weights:
        return {key: np.asarray(array) for key, array in load_file(self.folder / f"{name}.safetensors").items()}

    def data(self, rows: int, seed: int, *, grouped: bool = False) -> TrainingData:
        """Rows of whole queries, drawn by the seed."""
        data = self.source.training_data(rows, seed, by_group=True)
        return data if grouped else replace(data, groups=None)

    def parts(self) -> Iterator[tuple[str, Inputs, Examples]]:
        """Yields up to `READ` rows of `choose` and of `dev`, of whole queries."""
        source = self.source
        for part, inputs, examples in (
            ("choose", source.valid, source.roles.valid),
            ("dev", source.test, source.roles.test),
        ):
            rows = whole_groups(examples.groups, READ, 0)
            yield part, inputs.select(rows), examples.select(rows)

    def read_off(self, engine: Engine) -> dict[str, Any]:
        """Scores of `choose` and of `dev`, and the metrics of both."""
        found: dict[str, Any] = {}
        for part, inputs, examples in self.parts():
            scores = inputs.scores(engine.logits(inputs.tokens))
            found[part] = {"scores": [round(float(score), 6) for score in scores]}
            found[part] |= {name: metric(name).value(scores, examples.labels, examples.groups) for name in METRICS}
        return found


def training(epochs: float, rate: float, batch: int, seed: int, order: float | None = None) -> TrainingSettings:
    return TrainingSettings(
        epochs,
        batch,
        rate,
        seed=seed,
        threads=torch.get_num_threads(),
        precision=best_precision(),
        distillation=Distillation(order=order),
    )


def prepare(data: Path, folder: Path, name: str) -> None:
    """Writes the rows: four fifths of train's queries to fit, one fifth to choose, and dev."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    if (folder / name / "dev.tsv").exists():
        return
    rows = rows_of(data, name, "train")
    chosen = group_hash_split(group_ids([row[0] for row in rows]), 0.2, seed=0)
    for part, keep in (("fit", ~chosen), ("choose", chosen)):
        write_rows(folder / name / f"{part}.tsv", [rows[row] for row in np.flatnonzero(keep)])
    write_rows(folder / name / "dev.tsv", rows_of(data, name, "dev"))


def train(subject: Subject) -> None:
    """Trains teacher and elastic encoder of one data set."""
    pretrained, work, recipe = subject.source.pretrained, subject.folder / "work", subject.recipe
    config, dims, threads = pretrained.config, pretrained.config.dims, torch.get_num_threads()
    if not (subject.folder / "teacher.safetensors").exists():
        model, (rows, epochs) = pretrained.model, recipe.teacher
        data = subject.data(rows, 0)
        start_head(model, data, threads)
        fit(model, data, training(epochs, 7e-5, 16, 0), work / "teacher", None, progress(f"{subject.name} teacher"))
        save_file(weights_of(model), subject.folder / "teacher.safetensors")
    if not (subject.folder / "elastic.safetensors").exists():
        teacher, (rows, epochs) = from_weights(config, subject.weights("teacher")), recipe.elastic
        scores = measure_importance(teacher, subject.data(1_000, 0), rows=512, threads=threads)
        model = from_weights(config, ordered(subject.weights("teacher"), scores, dims))
        fit(model, subject.data(rows, 1), training(epochs, 5e-5, 32, 1), work / "elastic", teacher,
            progress(f"{subject.name} elastic"), sub_networks=Sandwich(Space(dims), SHARE, LENGTH))  # fmt: skip
        save_file(weights_of(model), subject.folder / "elastic.safetensors")
    for step in ("teacher", "elastic"):
        discard_checkpoints(work / step)


def tune(subject: Subject, arm: str, seed: int) -> dict[str, Any]:
    """Tunes the quarter of the elastic encoder, and reads `choose` and `dev`."""
    config, (rows, epochs) = subject.source.pretrained.config, subject.recipe.tune
    elastic, dims, weight, work = subject.weights("elastic"), config.dims, ARMS[arm], subject.folder / "work"
    spec = Sandwich(Space(dims), SHARE, LENGTH).smallest_spec()
    student = from_weights(config, compact(elastic, prefix_mask(elastic, spec, dims), dims), spec=spec)
    data, settings = subject.data(rows, 10 + seed, grouped=bool(weight)), training(epochs, 1e-4, 32, 10 + seed, weight)
    teacher, before = from_weights(config, subject.weights("teacher")), time.process_time()
    fit(student, data, settings, work / f"{arm}-{seed}", teacher, progress(f"{subject.name} {arm} {seed}"))
    seconds = time.process_time() - before
    discard_checkpoints(work / f"{arm}-{seed}")
    engine = Engine(config, weights_of(student), torch.get_num_threads(), spec=spec)
    return {"data": subject.name, "arm": arm, "seed": seed, "seconds": seconds} | subject.read_off(engine)


def tune_all(folder: Path) -> None:
    """Appends to `tuned.jsonl`."""
    out = folder / "tuned.jsonl"
    done = {(row["data"], row["arm"], row["seed"]) for row in read_lines(out)}
    subjects = {name: Subject(folder, name) for name in SETS}
    for name, seed, arm in ((name, seed, arm) for name in SETS for seed in SEEDS for arm in ARMS):
        if (name, arm, seed) in done:
            continue
        row = tune(subjects[name], arm, seed)
        with out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(name, arm, seed, *(f"{part} {row[part]['ndcg@10']:.4f}" for part in ("choose", "dev")), flush=True)


def of_queries(name: str, scores: Float64Array, examples: Examples) -> Float64Array:
    """A metric of every query, ascending by its id; NaN where nothing is good."""
    queries = [np.flatnonzero(examples.groups == group) for group in np.unique(examples.groups)]
    return np.array([OF_QUERIES[name](scores[rows], examples.labels[rows].astype(np.float64)) for rows in queries])


def paired(one: Float64Array, other: Float64Array) -> dict[str, Any]:
    """The mean over queries of `one` less `other` [seeds, queries], with its interval over resampled queries."""
    differences = (one - other).mean(axis=0)
    differences = differences[np.isfinite(differences)]
    drawn = np.random.default_rng(0).integers(0, len(differences), (10_000, len(differences)))
    found = Estimate.of_resamples(differences.mean(), differences[drawn].mean(axis=1))
    return found.to_json() | {"queries": len(differences)}


def report(folder: Path) -> dict[str, Any]:
    """Returns the arms of both sets, and the difference between them; on both parts, and on their queries together."""
    tuned, found = read_lines(folder / "tuned.jsonl"), dict[str, Any]()
    for name in SETS:
        subject, sets = Subject(folder, name), dict[str, Any]()
        teacher = subject.read_off(Engine(subject.source.pretrained.config, subject.weights("teacher"), 1))
        values: dict[str, dict[str, list[Float64Array]]] = {name: {arm: [] for arm in ARMS} for name in OF_QUERIES}
        for part, _, examples in subject.parts():
            reference, arms = np.array(teacher[part]["scores"]), dict[str, Any]()
            for arm in ARMS:
                rows = [row for row in tuned if (row["data"], row["arm"]) == (name, arm)]
                rows.sort(key=lambda row: row["seed"])
                scores = [np.array(row[part]["scores"]) for row in rows]
                kept = [order_kept(of_seed, reference, examples.groups) for of_seed in scores]
                arms[arm] = {metric: fmean(row[part][metric] for row in rows) for metric in METRICS} | {
                    "order_kept": fmean(each.value for each in kept if each),
                    "of_seeds": [row[part]["ndcg@10"] for row in rows],
                    "seconds": fmean(row["seconds"] for row in rows),
                }
                for metric_name, of_arms in values.items():
                    of_arms[arm].append(np.array([of_queries(metric_name, each, examples) for each in scores]))
            less = {name: paired(of_arms["with"][-1], of_arms["without"][-1]) for name, of_arms in values.items()}
            sets[part] = {"teacher": {m: teacher[part][m] for m in METRICS}, "arms": arms, "difference": less}
        both = {
            metric: paired(*(np.concatenate(of_arms[arm], axis=1) for arm in ("with", "without")))
            for metric, of_arms in values.items()
        }
        found[name] = sets | {"both": both}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("train", "tune", "report"))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="folder of the data sets")
    parser.add_argument("--json", action="store_true", help="write bench/results/ranking.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.step == "train":
        for name in SETS:
            prepare(options.data, options.folder, name)
            train(Subject(options.folder, name))
    elif options.step == "tune":
        tune_all(options.folder)
    else:
        found = report(options.folder)
        print(json.dumps(found, indent=1))
        if options.json:
            settings = {"share": SHARE, "length": LENGTH, "weight": ORDER_WEIGHT, "seeds": len(SEEDS)}
            trainings = {name: vars(recipe) for name, recipe in SETS.items()}
            write_json(OUT, {**provenance(), **settings, "trainings": trainings, "sets": found})


if __name__ == "__main__":
    main()
