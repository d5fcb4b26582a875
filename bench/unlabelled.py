"""Pruning without labels: Home Depot with its labels hidden beside the run with labels, and similarity of single texts.

    python bench/unlabelled.py --data DATA --folder FOLDER --json

Both Home Depot runs begin with the same teacher (MiniLM-L6 fine-tuned on `--teacher-rows` rows) and are judged on the
rows of dev.tsv, which neither has trained or chosen on. Similarity is of MiniLM-L6 as it is, pruned on the titles of
Home Depot alone, and judged on STS-B. Runs resume.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from provenance import provenance

from prunetime.cli.runs import minilm_folder
from prunetime.core.artifact import write_json
from prunetime.core.budget import Budget
from prunetime.core.effort import RunPlan
from prunetime.latency.settings import TimingSettings
from prunetime.pipeline.progress import ConsoleReporter
from prunetime.pipeline.prune import prune
from prunetime.settings import Settings

RESULTS = Path(__file__).parent / "results"
SHARE, SIMILARITY_SHARE, LENGTH = 0.25, 0.5, 48
TIMING = TimingSettings(verify_seconds=0.0, verify_rounds=12, verify_calls=20, retry_seconds=20.0)
COLUMNS: dict[str, Any] = {"text": ("query", "title"), "group": "query"}


def write_columns(source: Path, out: Path, columns: Sequence[str], rows: int | None = None) -> str:
    """Writes some columns of a TSV file, each of their rows once."""
    with source.open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    lines = dict.fromkeys("\t".join(row[name] for name in columns) for row in table)
    out.write_text("\n".join(["\t".join(columns), *list(lines)[:rows]]) + "\n", encoding="utf-8")
    return str(out)


def figures(result: dict[str, Any], run: Path) -> dict[str, Any]:
    quality = json.loads((run / "verify.json").read_text(encoding="utf-8"))["quality"]["all"]
    share = result["pruned"]["p50_us"] / result["dense"]["p50_us"]
    return {"metric": result["dense"]["metric"], "share_of_dense": share, **quality}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with home_depot and stsb")
    parser.add_argument("--folder", type=Path, required=True, help="where runs are kept")
    parser.add_argument("--teacher-rows", type=int, default=16_000)
    parser.add_argument("--rows", type=int, default=6_000, help="of tuning")
    parser.add_argument("--evaluations", type=int, default=60)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    minilm, home_depot, folder, reporter = (
        str(minilm_folder()),
        options.data / "home_depot",
        options.folder,
        ConsoleReporter(),
    )
    folder.mkdir(parents=True, exist_ok=True)
    plan = RunPlan(
        "quick", teacher_rows=options.teacher_rows, teacher_epochs=1, tune_rows=options.rows, tune_epochs=1,
        learning_rate=1e-4, tune_learning_rate=1e-4, elastic_learning_rate=5e-5, importance_rows=512,
        elastic_rows=0, elastic_epochs=1, evaluations=options.evaluations, score_rows=500, finalists=8,
        finalist_rows=1_500,
    )  # fmt: skip
    hidden = write_columns(home_depot / "train.tsv", folder / "hidden.tsv", ("query", "title"))
    titles = write_columns(home_depot / "train.tsv", folder / "titles.tsv", ("title",), options.rows)

    def run(name: str, model: str, data: str, test: Path, share: float, profile: Path | None, **more: Any) -> Any:
        budget = Budget(share=share, seq_len=LENGTH)
        settings = Settings(model, data, budget, test=str(test), effort=plan, precision="fp32", timing=TIMING, **more)
        return figures(prune(settings, folder / name, reporter, profile), folder / name)

    dev, labelled = home_depot / "dev.tsv", {"label": "label", **COLUMNS}
    result = {"with labels": run("labels", minilm, str(home_depot / "train.tsv"), dev, SHARE, None, **labelled)}
    profile, teacher = folder / "labels" / "profile.json", str(folder / "labels" / "teacher")
    given = {"teacher_ready": True, **labelled}
    result["without labels"] = run("hidden", teacher, hidden, dev, SHARE, profile, **given)
    stsb = options.data / "stsb" / "dev.tsv"
    result["similarity"] = run("texts", minilm, titles, stsb, SIMILARITY_SHARE, None, task="similarity")
    write_json(RESULTS / "unlabelled.json", provenance() | {"plan": plan.to_json(), "result": result})
    for name, found in result.items():
        print(
            f"{name}: {found['metric']} {found['pruned']['value']:.4f}, dense {found['dense']['value']:.4f}, at "
            f"{found['share_of_dense']:.1%} of dense; agreement {found.get('agreement', {}).get('value')}"
        )
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
