"""What bench/home_depot.py came to: quality of every choice beside uniform, its measured latency, and trust in scores.

    python bench/home_depot_results.py --folder F --json

AUC on `dev`, read here only, mean over tuning seeds, with 95 % intervals of a bootstrap over queries, paired with
uniform; latency as a share of dense timed in the same rounds. Run it on the machine that the latency profiles are of.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from home_depot import read_lines
from home_depot_data import MODELS, Prepared, Rows
from home_depot_scoring import AUC, EVERY_ROW
from numpy.typing import NDArray
from provenance import provenance

from prunetime.core.arch import ArchSpec
from prunetime.core.artifact import write_json
from prunetime.core.estimate import Estimate
from prunetime.latency import profiling
from prunetime.search.proxy_validation import ProxyValidation

RESULTS = Path(__file__).parent / "results"
RESAMPLES = 1_000
PASSES = 5

Floats = NDArray[np.float64]
Row = dict[str, Any]


def aucs(rows: Rows, scores: Sequence[Sequence[float]]) -> Floats:
    """Mean AUC of some models' scores: of all rows first, then of each resample of the queries, the same for all."""
    inverse = np.unique(rows.groups, return_inverse=True)[1]
    groups = int(inverse.max()) + 1
    rng = np.random.default_rng(0)
    drawn = [np.bincount(rng.integers(0, groups, groups), minlength=groups) for _ in range(RESAMPLES)]
    counts = np.array([np.ones(groups), *drawn])
    of_models = []
    for each in scores:
        statistic = AUC.prepare(np.array(each), rows.labels, inverse)
        of_models.append(np.concatenate([statistic(part) for part in np.array_split(counts, 20)]))
    return np.asarray(np.mean(of_models, axis=0), np.float64)


def with_interval(values: Floats) -> Row:
    """`values` of all rows and of resamples."""
    return Estimate.of_resamples(values[0], values[1:]).to_json()


def quality(prepared: Prepared, tuned: Sequence[Row]) -> list[Row]:
    """A row for every method at every budget."""
    of_choice: Mapping[tuple[float, str], list[Row]] = defaultdict(list)
    for row in tuned:
        if row["model"] == prepared.model and row["method"] != "trust":
            of_choice[row["share"], row["method"]].append(row)
    rows = prepared.rows("dev")
    parts = {"all": rows, "unseen": rows.select(np.flatnonzero(rows.unseen))}
    shares = measured(prepared, {choice: found[0] for choice, found in of_choice.items()})

    @cache
    def of(choice: tuple[float, str], part: str) -> Floats:
        kept = rows.unseen if part == "unseen" else np.ones(len(rows.labels), np.bool_)
        return aucs(parts[part], [np.array(row["dev_scores"])[kept] for row in of_choice[choice]])

    table = []
    for (share, method), found in sorted(of_choice.items()):
        row: Row = {"model": prepared.model, "budget": share, "method": method, "seeds": len(found)}
        row["choose_auc"] = float(np.mean([one["choose_auc"] for one in found]))
        for part in parts:
            row[part] = with_interval(of((share, method), part))
            if (share, "uniform") in of_choice and method != "uniform":
                row[f"{part}_over_uniform"] = with_interval(of((share, method), part) - of((share, "uniform"), part))
        table.append(row | {"measured_share": shares.get((share, method))})
    return table


def measured(prepared: Prepared, choices: Mapping[tuple[float, str], Row]) -> dict[tuple[float, str], float]:
    """Of dense; for every structure the median of some passes, because a neighbour of the machine can spoil one."""
    specs = {key: row["spec"] for key, row in choices.items() if "spec" in row and key[1] != "dense"}
    distinct = {json.dumps(spec): ArchSpec.from_json(spec) for spec in specs.values()}
    passes = [
        list(profiling.shares_of_dense(prepared.latency.key, prepared.config, list(distinct.values())))
        for _ in range(PASSES)
    ]
    shares = dict(zip(distinct, np.median(passes, axis=0).tolist(), strict=True))
    return {key: shares[json.dumps(spec)] for key, spec in specs.items()}


def trust(tuned: Sequence[Row]) -> Row:
    """Between elastic score and AUC (on rows to choose by) after tuning."""
    of_budget: Mapping[float, list[tuple[float, float]]] = defaultdict(list)
    for row in tuned:
        if row["method"] == "trust":
            of_budget[row["share"]].append((row["elastic"][f"agreement {EVERY_ROW}"], row["choose_auc"]))
    points = {budget: np.array(found) for budget, found in sorted(of_budget.items())}
    genomes = {str(budget): len(found) for budget, found in points.items()}
    return {"genomes": genomes} | ProxyValidation.of(list(points.values())).to_json()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    tuned = read_lines(options.folder / "tuned.jsonl")
    table = [row for model in MODELS for row in quality(Prepared(options.folder, model), tuned)]
    for row in table:
        line = f"{row['model']} {row['budget']:.2f} {row['method']:16}{row['all']['value']:.4f}"
        if over := row.get("all_over_uniform"):
            line += f", over uniform {over['value']:+.4f} ({over['ci95'][0]:+.4f} to {over['ci95'][1]:+.4f})"
        print(f"{line}, unseen {row['unseen']['value']:.4f}, measured {row['measured_share']}")
    result = {"quality": table, "trust": trust(tuned)}
    print(result["trust"])
    write_json(RESULTS / "home_depot.json", provenance() | result)
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
