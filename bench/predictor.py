"""How far predicted latencies are off: MiniLM-L6, 48 tokens, one thread, in units of dense timed in the same rounds.

    python bench/predictor.py --genomes 200 --json

On random genomes from 15 to 100 % of dense, and on what searches end in: the best of the recorded table that are
predicted to take at most 5 % less than they may. Each is measured in three passes, minutes apart, and the median
counts: a neighbour of the virtual machine can make one a tenth too slow. What is measured is kept in --out, so that a
stopped run goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from home_depot_data import MARGIN, SHARES
from provenance import provenance
from search import RESULTS, recorded_table

from prunetime.cli.runs import minilm_folder
from prunetime.core.arch import ArchSpec
from prunetime.core.artifact import write_json
from prunetime.core.budget import Budget
from prunetime.inference.tokenize import Tokenizer
from prunetime.latency import profiling
from prunetime.latency.sublayers import ProfileKey
from prunetime.models import families
from prunetime.pipeline.pretrained import tokenizer_of
from prunetime.pipeline.progress import ConsoleReporter
from prunetime.pipeline.run import digest_of
from prunetime.search.archive import preference
from prunetime.search.space import Genome, Space, fit_to

BUDGET = Budget(share=1.0, seq_len=48)
NEAR, FINALISTS = 0.05, 10
PASSES = 3


class Predictor:
    """A latency profile of MiniLM-L6, recorded on this machine."""

    def __init__(self, out: Path, reporter: ConsoleReporter) -> None:
        pretrained = families.load(str(minilm_folder()), outputs=2)
        self.config, self.space, self.reporter = pretrained.config, Space(pretrained.config.dims), reporter
        key = ProfileKey.here(self.config, BUDGET.threads, BUDGET.batch, BUDGET.seq_len)
        recorded = out / "profile.json"
        if not recorded.exists():
            tokenizer = Tokenizer(tokenizer_of(pretrained, BUDGET.seq_len).content, BUDGET.seq_len)
            with reporter.stage("Measure sub-layers") as progress:
                fresh = profiling.record(self.config, tokenizer, True, BUDGET, on_progress=progress)
            write_json(recorded, fresh.to_json())
        self.profile = profiling.read(recorded, key)
        self.measured = out / f"measured-{digest_of(key.to_json())[:12]}.jsonl"

    def share(self, genome: Genome) -> float:
        """Predicted, of dense."""
        return self.profile.units(self.space.spec(genome)) / self.profile.units(ArchSpec.full(self.space.dims))

    def random(self, count: int) -> list[Genome]:
        found = []
        for rng in (np.random.default_rng([0, number]) for number in range(count)):
            fitted = fit_to(self.space.levels, self.share, self.space.random(rng), rng.uniform(0.15, 1.0), rng)
            found += [fitted[0]] if fitted else []
        return found

    def finalists(self) -> list[Genome]:
        """The best of the table for each budget, of which its searches used up to a `MARGIN`."""
        shares = {evaluation: self.share(evaluation.genome) for evaluation in recorded_table()}
        found = []
        for most in (MARGIN * budget for budget in SHARES):
            near = sorted((e for e, share in shares.items() if (1 - NEAR) * most < share <= most), key=preference)
            found += [e.genome for e in near[:FINALISTS]]
        return found

    def measure(self, genomes: Sequence[Genome]) -> dict[Genome, list[float]]:
        """The shares of dense that each took in `PASSES` passes; what was measured before is not measured again."""
        lines = self.measured.read_text().splitlines() if self.measured.exists() else []
        known: dict[Genome, list[float]] = {genome: [] for genome in genomes}
        for line in map(json.loads, lines):
            known.setdefault(tuple(line["genome"]), []).append(line["share"])
        missing = [genome for number in range(PASSES) for genome in known if len(known[genome]) <= number]
        specs = [self.space.spec(genome) for genome in missing]
        with self.measured.open("a") as file, self.reporter.stage(f"Measure {len(known)} genomes") as progress:
            shares = profiling.shares_of_dense(self.profile.key, self.config, specs)
            for done, (genome, share) in enumerate(zip(missing, shares, strict=True), start=1):
                known[genome].append(share)
                file.write(json.dumps({"genome": genome, "share": share}) + "\n")
                file.flush()
                progress(done, len(missing))
        return known

    def error(self, genomes: Sequence[Genome], measured: Mapping[Genome, Sequence[float]]) -> dict[str, Any]:
        predicted = [self.share(genome) for genome in genomes]
        return profiling.PredictionError.of(predicted, [float(np.median(measured[g])) for g in genomes]).to_json()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--genomes", type=int, default=200, help="random ones")
    parser.add_argument("--out", type=Path, default=Path("runs/predictor"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    predictor = Predictor(options.out, ConsoleReporter())
    sets = {"random": predictor.random(options.genomes), "finalists": predictor.finalists()}
    measured = predictor.measure([genome for genomes in sets.values() for genome in genomes])
    result = {name: predictor.error(genomes, measured) for name, genomes in sets.items()}
    for name, error in result.items():
        print(
            f"{name:10}{error['specs']:4} genomes: mean error {error['mape']:.1f} %, median {error['median']:.1f} %, "
            f"worst {error['worst']:.1f} %, Spearman {error['spearman']:.4f}, {error['within_5']:.0%} within 5 %"
        )
    write_json(RESULTS / "predictor.json", provenance() | {"noisy": predictor.profile.noisy, "error": result})
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
