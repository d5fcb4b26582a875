"""The demo's models, and what one would take instead: latency, quality and size of each.

    make demo
    prunetime pick runs/demo --latency 8% --out runs/demo8
    python bench/demo.py runs/demo runs/demo8 --json

Writes bench/results/demo.json. All figures are the runs' own: latencies of one run were taken in turn, and quality is
that on the rows that the run read at the end only. Of the first run it has all lines of the comparison, of the others
the answer.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

from provenance import provenance

from prunetime.core import artifact
from prunetime.pipeline.source import load_source
from prunetime.settings import Settings

RESULTS = Path(__file__).parent / "results"


def stage_seconds(run: Path) -> dict[str, float]:
    """What each stage of a run took, from the times at which the stages noted that they were done."""
    done = sorted((file.stat().st_mtime, file.stem) for file in (run / "stages").glob("*.json"))
    return {name: round(end - start, 1) for (start, _), (end, name) in itertools.pairwise(done)}


def models_of(run: Path, *, all_lines: bool) -> list[dict[str, Any]]:
    """The models that a run compared, the answer with its size; or only that."""
    names = ("alternatives.json", "result.json", "run.json")
    compared, result, begun = (json.loads((run / name).read_text()) for name in names)
    models = []
    for line in compared["lines"]:
        is_answer = line["name"] == compared["answer"]
        if not (all_lines or is_answer):
            continue
        model = {"name": line["name"], "inside": line["inside"], "p50_us": line["latency"]["p50_us"]}
        model |= {"share": line["share"]["value"], **line["quality"], "budget": None}
        if is_answer:
            model["budget"] = begun["settings"]["budget"]["share"]
            model["parameters"] = result["pruned"]["params"]
            model["bytes"] = (run / "artifact" / artifact.WEIGHTS).stat().st_size
        models.append(model)
    return models


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders of one search")
    parser.add_argument("--json", action="store_true", help="print the result")
    options = parser.parse_args()
    first, *others = options.runs
    models = models_of(first, all_lines=True) + [model for run in others for model in models_of(run, all_lines=False)]
    settings = Settings.from_json(json.loads((first / "run.json").read_text())["settings"])
    source, budget = load_source(settings, print), settings.budget
    setting = {"model": "MiniLM-L6", "tokens": budget.seq_len, "batch": budget.batch, "threads": budget.threads}
    facts = {"metric": source.metric.name, "rows": len(source.roles.test), "models": models}
    found = provenance() | setting | facts | {"seconds": stage_seconds(first)}
    artifact.write_json(RESULTS / "demo.json", found)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
