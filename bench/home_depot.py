"""MiniLM-L6 on Home Depot at 60, 40 and 25 % of dense latency: dense, uniform, depth-only and searched.

    python bench/home_depot.py --data FOLDER --out runs/home_depot [--json]

Chooses on a query-disjoint part of train (20 % of its queries, by hash) and reads `dev` once per model, in verify.
Everything is resumable: the same command goes on where it was stopped. The results are written to
bench/results/home_depot_v1.json with the machine, the commit and the command.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from provenance import commit

from prunetime import artifact
from prunetime.artifact import write_json
from prunetime.budget import Budget
from prunetime.cli.progress import ConsoleReporter
from prunetime.cli.runs import minilm_folder
from prunetime.machine import this_machine
from prunetime.mask import Mask
from prunetime.pipeline import prune, stages, verify
from prunetime.pipeline.run import Run
from prunetime.pipeline.settings import EFFORTS, Effort, Settings
from prunetime.pipeline.source import load_source
from prunetime.search.space import Space
from prunetime.tasks.data import group_ids
from prunetime.tasks.roles import group_hash_split

SHARES = (0.60, 0.40, 0.25)
RESULT = Path(__file__).parent / "results" / "home_depot_v1.json"


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


def settings_of(data: Path, out: Path, effort: Effort, share: float) -> Settings:
    fit, choose = split_train(data, out)
    return Settings(
        model=str(minilm_folder()),
        data=str(fit),
        valid=str(choose),
        test=str(data / "dev.tsv"),
        text=("query", "title"),
        label="label",
        group="query",
        metric="auc",
        slices=("unseen:product_uid",),
        budget=Budget(share=share, seq_len=48),
        effort=effort,
    )


def baseline(origin: Run, run: Run, settings: Settings, kind: str) -> dict[str, Any]:
    """The best uniform or depth-only spec of the search of `origin`, tuned and verified like the searched one."""
    found = origin.read("search.json")
    evaluation = found["baselines"][kind]
    run.folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(origin.path("profile.json"), run.path("profile.json"))
    for name in prune.MODELS_FOR_PICK:
        if not run.path(name).exists():
            shutil.copytree(origin.path(name), run.path(name))
    source = load_source(settings, run.reporter.say)
    dense, whole = (artifact.read(run.path(name)) for name in prune.MODELS_FOR_PICK)
    dims = dense.manifest.config.dims
    run.write("mask.json", Mask.first(Space(dims).spec(tuple(evaluation["genome"])), dims).to_json())
    run.write("search.json", found | {"chosen": evaluation})
    stages.tune(run, source, settings, dense, whole, {"model": settings.model, "seed": settings.seed})
    verify.verify(run, source, settings, dense)
    return verified(run)


def verified(run: Run) -> dict[str, Any]:
    found = run.read("verify.json")
    return {
        "predicted_us": found["predicted_us"],
        "measured": found["pruned"],
        "dense": found["dense"],
        "verdict": found["verdict"],
        "quality": {part: values["pruned"] for part, values in found["quality"].items()},
        "difference_to_dense": {part: values["difference"] for part, values in found["quality"].items()},
        "dense_quality": {part: values["dense"] for part, values in found["quality"].items()},
        "heads": [layer["heads"] for layer in found["spec"]],
        "ffn": [layer["ffn"] for layer in found["spec"]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.tsv and dev.tsv")
    parser.add_argument("--out", type=Path, default=Path("runs/home_depot"))
    parser.add_argument("--rows", type=int, default=40_000, help="rows to fit the teacher on")
    parser.add_argument("--tune-rows", type=int, default=20_000, help="rows to tune each model on")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    reporter = ConsoleReporter()
    effort = dataclasses.replace(
        EFFORTS["standard"],
        name="home_depot_v1",
        teacher_rows=options.rows,
        tune_rows=options.tune_rows,
        tune_epochs=1,
        evaluations=200,
    )
    result: dict[str, Any] = {
        "machine": this_machine().to_json(),
        "commit": commit(),
        "command": f"bench/home_depot.py --data HOME_DEPOT --rows {options.rows} --tune-rows {options.tune_rows}",
        "effort": dataclasses.asdict(effort),
        "budgets": {},
    }
    first: Run | None = None
    for share in SHARES:
        settings = settings_of(options.data, options.out, effort, share)
        run = Run(options.out / f"searched_{share:.0%}", reporter)
        if first is not None:
            inherit(first, run)
        profile = first.path("profile.json") if first else None
        prune.prune(settings, run.folder, reporter, profile)
        first = first or run
        result["budgets"][f"{share:.2f}"] = rows = {"searched": verified(run)}
        for kind in ("uniform", "depth"):
            reporter.say(f"{kind} at {share:.0%}")
            rows[kind] = baseline(run, Run(options.out / f"{kind}_{share:.0%}", reporter), settings, kind)
        write_json(RESULT, result)
    if options.json:
        print(json.dumps(result))


def inherit(origin: Run, run: Run) -> None:
    """Takes teacher and importance, which do not depend on the budget, from the first run."""
    if run.path("run.json").exists():
        return
    run.folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(origin.path("teacher"), run.path("teacher"), dirs_exist_ok=True)
    shutil.copyfile(origin.path("importance.safetensors"), run.path("importance.safetensors"))
    run.path("stages").mkdir(exist_ok=True)
    for name in ("teacher", "importance"):
        shutil.copyfile(origin.path(f"stages/{name}.json"), run.path(f"stages/{name}.json"))


if __name__ == "__main__":
    main()
