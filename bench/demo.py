"""The demo's models: latency, quality and size of each, dense and pruned, in float32 and in int8.

    make demo
    prunetime pick runs/demo --latency 30% --out runs/demo30
    python bench/demo.py runs/demo runs/demo30 [--bench] --json

Writes bench/results/demo.json. Float32 latencies are the ones that `prune` and `pick` verified. Latencies of int8 come
from `prunetime bench` with `--bench`, which wants a quiet machine; without it, the dense model's is the one that
bench/results/engine.json has of the same shape, setting and machine, and the pruned models have none. Quality is that
of the engine on the rows that `prune` read at the end only.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from provenance import provenance

from prunetime.core import artifact
from prunetime.core.machine import this_machine
from prunetime.core.precision import Precision, PrecisionPlan
from prunetime.inference.model import Model
from prunetime.pipeline.source import Source, load_source
from prunetime.settings import Settings
from prunetime.tasks.metrics import evaluate

RESULTS = Path(__file__).parent / "results"
TOKENS = 32
INT8: Precision = "int8"


def quality(source: Source, folder: Path, precision: Precision) -> dict[str, Any]:
    """The metric of an artifact on the run's test rows, with its 95 % interval."""
    found = artifact.read(folder)
    manifest = replace(found.manifest, plan=PrecisionPlan.uniform(precision))
    model = Model(replace(found, manifest=manifest))
    test = source.roles.test
    estimate = evaluate(
        source.metric, source.test.scores(model.engine.logits(source.test.tokens)), test.labels, test.groups
    )
    return {"value": estimate.value, "ci95": list(estimate.ci95)}


def benched(folders: list[Path]) -> list[float]:
    """Microseconds of the artifacts in int8, timed in turns."""
    command = [sys.executable, "-m", "prunetime", "bench", *map(str, folders)]
    options = ["--seq-len", str(TOKENS), "--precision", INT8, "--json"]
    ran = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
    return [row["p50_us"] for row in json.loads(ran.stdout.splitlines()[-1])["rows"]]


def benched_before() -> float | None:
    """Microseconds of a dense MiniLM in int8 on this machine, from bench/results/engine.json."""
    for measured in json.loads((RESULTS / "engine.json").read_text())["machines"]:
        if measured["machine"]["id"] == this_machine().to_json()["id"]:
            rows = measured["cells"][f"minilm 1x{TOKENS} 1"]["rows"]
            ours = (row for row in rows if (row["model"], row["engine"]) == ("minilm", "prunetime"))
            return next((row["p50_us"] for row in ours if row["precision"] == INT8), None)
    return None


def stage_seconds(run: Path) -> dict[str, float]:
    """What each stage of a run took, from the times at which the stages noted that they were done."""
    done = sorted((file.stat().st_mtime, file.stem) for file in (run / "stages").glob("*.json"))
    return {name: round(end - start, 1) for (start, _), (end, name) in itertools.pairwise(done)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders of one search")
    parser.add_argument("--bench", action="store_true", help="time int8 as well")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    settings = Settings.from_json(json.loads((options.runs[0] / "run.json").read_text())["settings"])
    source = load_source(settings, print)
    results = [json.loads((run / "result.json").read_text()) for run in options.runs]
    budgets = [json.loads((run / "run.json").read_text())["settings"]["budget"]["share"] for run in options.runs]
    folders = [options.runs[0] / "teacher", *(run / "artifact" for run in options.runs)]
    fp32 = [results[0]["dense"], *(result["pruned"] for result in results)]
    int8 = benched(folders) if options.bench else [benched_before(), *(None for _ in options.runs)]
    rows = []
    for folder, budget, measured, int8_us in zip(folders, [None, *budgets], fp32, int8, strict=True):
        size = {"parameters": measured["params"], "bytes": (folder / artifact.WEIGHTS).stat().st_size}
        latencies: dict[Precision, float | None] = {"fp32": measured["p50_us"], INT8: int8_us}
        for precision, p50_us in latencies.items():
            row = {"budget": budget, "precision": precision, "p50_us": p50_us} | size
            rows.append(row | quality(source, folder, precision))
            print(rows[-1])
    setting = {"model": "MiniLM-L6", "tokens": TOKENS, "batch": 1, "threads": 1, "metric": source.metric.name}
    setting |= {"int8_latency": "`prunetime bench`" if options.bench else "engine.json (the same shape and setting)"}
    facts = {"rows": len(source.roles.test.labels), "models": rows, "seconds": stage_seconds(options.runs[0])}
    result = provenance() | setting | facts
    artifact.write_json(RESULTS / "demo.json", result)
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
