"""The answer of a run beside what one would take instead: five data sets at 50, 25 and 10 % of dense MiniLM-L6 in fp32.

    python bench/alternatives.py --data ../shared/data --folder FOLDER [--sets trec,sst2] [--shares 50,25,10] --json

The first run of a set fine-tunes its teacher, which the others begin with. Structures are chosen on rows of train; test
rows are those of dev, or of train where a set has no dev. Runs resume, and a cell that is done is not run again.

Writes bench/results/alternatives.json: of each cell all lines of the report, and how the pruned model stands to the
best other inside the budget: `above`, `level` (not above, and the 95 % interval of the difference holds 0) or `below`.
`lossless`: the dense model in faster precisions is the answer, and nothing was pruned.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from provenance import provenance
from teacher import SETS, TaskData

from prunetime.cli.runs import minilm_folder
from prunetime.core.artifact import write_json
from prunetime.core.budget import Budget
from prunetime.core.effort import Effort
from prunetime.pipeline.progress import ConsoleReporter
from prunetime.pipeline.prune import prune
from prunetime.pipeline.stages.alternatives import PRUNED
from prunetime.settings import Settings

RESULTS = Path(__file__).parent / "results" / "alternatives.json"

QQP = TaskData("qqp/train.tsv", ("question1", "question2"), "label", 64)
CELLS = {name: SETS[name] for name in ("home_depot", "wikiqa", "sst2", "trec")} | {"qqp": QQP}


def settings_of(task: TaskData, data: Path, share: float, effort: str) -> Settings:
    dev = (data / task.data).with_name("dev.tsv")
    return Settings(
        str(minilm_folder()), str(data / task.data), Budget(share=share, seq_len=task.length), text=task.text,
        label=task.label, group=task.group, test=str(dev) if dev.exists() else None, effort=Effort.named(effort),
    )  # fmt: skip


def standing(lines: list[dict[str, Any]], answer: str) -> dict[str, Any]:
    """The best other model inside the budget, on test rows, and how the pruned one stands to it.

    Where the answer is another model, that is the one, because intervals are of differences to the answer.
    """
    if answer.startswith(PRUNED):
        others = [line for line in lines if line["inside"] and not line["name"].startswith(PRUNED)]
        if not others:
            return {"next": None, "stands": "alone"}
        best = max(others, key=lambda line: line["quality"]["value"])
        low, high = best["difference"]["ci95"]
        name, value, ci95 = best["name"], -best["difference"]["value"], [-high, -low]
    else:
        pruned = next(line for line in lines if line["name"] == PRUNED)
        name, value, ci95 = answer, pruned["difference"]["value"], pruned["difference"]["ci95"]
    stands = "below" if ci95[1] < 0 else "above" if value > 0 else "level"
    return {"next": name, "difference": value, "ci95": ci95, "stands": stands}


def cell(name: str, share: int, options: argparse.Namespace, profile: Path | None) -> dict[str, Any]:
    run = options.folder / f"{name}-{share}"
    settings = settings_of(CELLS[name], options.data, share / 100, options.effort)
    first = options.folder / f"{name}-{options.shares[0]}"
    if run != first:
        settings = replace(settings, model=str(first / "teacher"), teacher_ready=True)
    begun = time.monotonic()
    result = prune(settings, run, ConsoleReporter(), profile)
    found: dict[str, Any] = {"metric": result["dense"]["metric"], "seconds": round(time.monotonic() - begun)}
    quality = json.loads((run / "verify.json").read_text())["quality"]["all"]
    found |= {"dense": quality["dense"], "answer": quality["pruned"], "difference": quality["difference"]}
    if (run / "alternatives.json").exists():
        compared = json.loads((run / "alternatives.json").read_text())
        found |= {"lines": compared["lines"], "name": compared["answer"], "why": compared["why"]}
        return found | standing(compared["lines"], compared["answer"])
    return found | {"name": "dense, faster precisions", "stands": "lossless"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--folder", type=Path, required=True, help="where runs are kept")
    parser.add_argument("--sets", type=lambda text: text.split(","), default=list(CELLS))
    parser.add_argument("--shares", type=lambda text: [int(each) for each in text.split(",")], default=[50, 25, 10])
    parser.add_argument("--effort", default="quick")
    parser.add_argument("--json", action="store_true", help="print the result")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    cells = json.loads(RESULTS.read_text())["cells"] if RESULTS.exists() else {}
    for name in options.sets:
        for share in options.shares:
            key = f"{name} {share} %"
            if key in cells:
                continue
            profile = options.folder / f"{name}-{options.shares[0]}" / "profile.json"
            cells[key] = cell(name, share, options, profile if profile.exists() else None) | provenance()
            write_json(RESULTS, {"effort": options.effort, "cells": cells})
            print(key, cells[key]["stands"], cells[key]["name"], flush=True)
    print(Counter(found["stands"] for found in cells.values()))
    if options.json:
        print(json.dumps({"cells": cells}))


if __name__ == "__main__":
    main()
