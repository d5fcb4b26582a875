"""What the repair of a pruned model brings, before tuning and after: beginnings of the structure that a run chose.

    python bench/repair.py --run RUN [--run RUN ..] [--rows 0,2400,9600] --folder FOLDER --json

RUN is a run folder of `bench/alternatives.py`, or of another `prune` that searched. Its chosen structure begins with
the teacher's weights as they are, and repaired, and is tuned on so many rows as the run tunes. Of test rows: the
metric, and the agreement with the teacher (`search.evaluate.agreement`).

Writes bench/results/repair.json, and goes on after what is there.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from provenance import provenance

from prunetime.core.artifact import write_json
from prunetime.core.mask import Mask
from prunetime.inference.engine import Engine
from prunetime.models.compact import compact
from prunetime.models.encoder import SequenceClassifier, from_weights, weights_of
from prunetime.pipeline.context import Context
from prunetime.pipeline.progress import ConsoleReporter
from prunetime.pipeline.run import Run
from prunetime.pipeline.student import THREADS, distil, engine_of, ordered_teacher, sub_network
from prunetime.search.evaluate import agreement
from prunetime.settings import Settings
from prunetime.training.checkpoints import discard_checkpoints

RESULTS = Path(__file__).parent / "results" / "repair.json"

BEGINNINGS = ("as it is", "repaired")


def context_of(run: Path, rows: int) -> Context:
    """The context of a run that tunes on so many rows."""
    found = Context(
        Run(run, ConsoleReporter()), Settings.from_json(json.loads((run / "run.json").read_text())["settings"])
    )
    plan, train = found.run_plan, len(found.source.roles.train)
    plan = replace(plan, tune_rows=min(rows, train) or plan.tune_rows, tune_epochs=max(1.0, rows / train))
    return replace(found, settings=replace(found.settings, effort=plan))


def begun(context: Context, mask: Mask, beginning: str) -> SequenceClassifier:
    weights = compact(ordered_teacher(context), mask, context.config.dims)
    if beginning == "repaired":
        return sub_network(context, weights, mask)
    return from_weights(context.config, weights, spec=mask.spec())


def measured(context: Context, model: SequenceClassifier) -> dict[str, float]:
    """The metric on test rows and the agreement with the teacher, in the precisions that were searched in."""
    source, inputs, test = context.source, context.source.test, context.source.roles.test
    engine = Engine(model.config, weights_of(model), THREADS, spec=model.spec, plan=context.plan)
    logits, expected = engine.logits(inputs.tokens), engine_of(context.teacher).logits(inputs.tokens)
    value = source.metric.value(source.task.at_half(inputs.scores(logits)), test.labels, test.groups)
    return {"metric": value, "agreement": agreement(logits, expected, choice=source.task.traits.choice)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, action="append", required=True)
    parser.add_argument("--rows", type=lambda text: [int(each) for each in text.split(",")], default=[0, 2_400, 9_600])
    parser.add_argument("--folder", type=Path, required=True, help="where trainings are kept until they are done")
    parser.add_argument("--json", action="store_true", help="print the result")
    options = parser.parse_args()
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"runs": {}}
    for run in options.run:
        of_run: dict[str, Any] = found["runs"].setdefault(run.name, {})
        for rows in options.rows:
            context = context_of(run, rows)
            mask = Mask.from_json(context.run.read("mask.json"))
            if "dense" not in of_run:
                dense = from_weights(context.config, context.teacher.weights)
                of_run |= {"name": context.source.metric.name, "dense": measured(context, dense)["metric"]}
            for beginning in (each for each in BEGINNINGS if f"{each}, {rows}" not in of_run):
                begin = time.monotonic()
                student = begun(context, mask, beginning)
                seconds, folder = time.monotonic() - begin, options.folder / f"{run.name}-{beginning}-{rows}"
                if rows:
                    distil(context, student, folder, lambda *_: None, context.plan)
                    discard_checkpoints(folder)
                of_run[f"{beginning}, {rows}"] = measured(context, student) | {"seconds_to_begin": round(seconds, 2)}
                write_json(RESULTS, provenance() | found)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
