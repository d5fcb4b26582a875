"""The search against its rivals on real elastic scores: MiniLM-L6 on Home Depot, all at equal numbers of evaluations.

    python bench/search.py --data FOLDER --out runs/search --record 500     score so many more genomes into the table
    python bench/search.py --surrogate --seeds 10 --evaluations 200 --json  compare methods on a model of the table

Recording is resumable: teacher, elastic encoder and table go on where they were stopped, and the table
(bench/results/search_table.jsonl, with the latency profile and the importance beside it) is all that the comparison
needs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
from pathlib import Path

import numpy as np
from home_depot import settings_of

from prunetime import artifact
from prunetime.artifact import write_json
from prunetime.cli.progress import ConsoleReporter
from prunetime.pipeline import stages
from prunetime.pipeline.run import Run, digest_of
from prunetime.pipeline.settings import EFFORTS
from prunetime.pipeline.source import load_source
from prunetime.plan import Plan
from prunetime.runtime.latency import LatencyProfile
from prunetime.search.archive import Archive, Evaluation
from prunetime.search.space import Space, fit_to

RESULTS = Path(__file__).parent / "results"
TABLE, PROFILE, IMPORTANCE = (RESULTS / f"search_{name}" for name in ("table.jsonl", "profile.json", "importance.safetensors"))
EFFORT = dataclasses.replace(EFFORTS["standard"], name="home_depot", teacher_rows=40_000, elastic_rows=16_000)
SHARES = (0.25, 0.40, 0.60)
ROWS = 2_000
PLAN = Plan.uniform("int8")
"""Of scoring: the rank correlation with float32 scores is in the table's header."""


def prepared(data: Path, out: Path):
    """The source, the elastic encoder and the latency profile, made or found in the run folder `out`."""
    settings = settings_of(data, out, EFFORT, min(SHARES))
    run = Run(out, ConsoleReporter())
    with run.locked():
        source = load_source(settings, run.reporter.say)
        latency = stages.profile(run, source, settings.budget, Plan(), PROFILE if PROFILE.exists() else None)
        inputs = {"teacher": "home_depot 40000"}
        dense = stages.teacher(run, source, settings, Plan(), inputs)
        stages.importance(run, source, settings, dense, inputs)
        whole = stages.elastic(run, source, settings, dense, latency)
    return source, whole, latency, settings, run
