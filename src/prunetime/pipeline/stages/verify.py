"""The last stage: is the candidate right, good, and inside the budget on this machine?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prunetime.core import artifact
from prunetime.core.arrays import Array, Int64Array, Weights
from prunetime.core.budget import Budget
from prunetime.core.machine import this_machine
from prunetime.core.precision import PrecisionPlan
from prunetime.core.progress import Progress
from prunetime.errors import DefectError
from prunetime.inference.engine import Engine, RunnableModel
from prunetime.inference.ragged import Ragged
from prunetime.latency.measure import LatencySummary, Samples, summarise
from prunetime.latency.predictor import setting_name
from prunetime.latency.timing import Job, SamplesBySetting, time_artifacts
from prunetime.models.encoder import SequenceClassifier, from_weights
from prunetime.pipeline.context import Context, stage
from prunetime.pipeline.source import Source
from prunetime.pipeline.stages.measure import MEASUREMENTS, calls_each_round
from prunetime.pipeline.student import engine_of
from prunetime.pipeline.verdict import Verdict, judge
from prunetime.tasks.confusion import Confusion
from prunetime.tasks.data import Examples
from prunetime.tasks.metrics import AGREEMENT, agreed_labels, evaluate, evaluate_difference, order_kept

PARITY_ROWS = 128
PARITY_TOLERANCE = 1e-3
"""Largest difference between a torch and an engine logit, as a share of the largest logit, both in float32."""


def parity(source: Source, candidate: artifact.Artifact) -> float:
    """Largest difference between torch's and the engine's fp32 logits on valid rows, relative to the largest logit.

    What the candidate's plan loses shows in its quality, which is that of the engine's answers.

    Raises DefectError above the tolerance: the two do not run the same model.
    """
    valid = source.valid.tokens
    tokens = valid.select(np.arange(min(PARITY_ROWS, len(valid))))
    model = from_weights(candidate.manifest.config, candidate.weights, spec=candidate.manifest.spec)
    expected = torch_logits(model, tokens, source.pretrained.pad_token_id)
    got = Engine.of(candidate, plan=PrecisionPlan()).logits(tokens)
    difference = float(np.abs(got - expected).max() / max(1.0, float(np.abs(expected).max())))
    if difference > PARITY_TOLERANCE:
        raise DefectError(
            f"torch and the engine differ by {difference:.2g} of the largest logit on the candidate, the limit is "
            f"{PARITY_TOLERANCE:g}"
        )
    return difference


def torch_logits(model: SequenceClassifier, tokens: Ragged, pad_id: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Logits [rows, outputs] of a torch model, or [tokens, outputs] with a row per token: as the engine gives them."""
    model.eval()
    parts = []
    for part in tokens.batches(2048):
        inputs = [torch.from_numpy(array.astype(np.int64)) for array in part.padded(pad_id)]
        with torch.no_grad():
            skipped = None if part.skipped is None else torch.from_numpy(part.skipped.astype(np.int64))
            logits = model(*inputs, skipped=skipped).logits
        parts.append((logits if logits.dim() == 2 else logits[inputs[1] == 1]).numpy())
    return np.concatenate(parts)


def scores_on_test(
    source: Source, engines: Mapping[str, RunnableModel], rows: Int64Array | None = None
) -> dict[str, Array]:
    """The scores of the test rows, or those at `rows`, by each engine, by its name, as metrics read them
    (`Task.at_half`)."""
    inputs = source.test if rows is None else source.test.select(rows)
    return {
        name: source.task_for(engine).at_half(inputs.scores(engine.logits(inputs.tokens)))
        for name, engine in engines.items()
    }


def quality(source: Source, scores: Mapping[str, Array]) -> dict[str, Any]:
    """Metric of the scores of the test rows, and on every slice; `difference` is pruned minus dense.

    Rows without labels have those that the dense model gives them. Where only the test rows have some, `agreement` says
    how far the pruned model's answers are the dense one's.
    """
    test = source.roles.test
    parts: dict[str, Examples] = {"all": test}
    parts |= {part.name: part.select(test, source.roles.train) for part in source.slices}
    row_of = {int(row): index for index, row in enumerate(test.rows)}
    report: dict[str, Any] = {}
    for name, part in parts.items():
        at = np.array([row_of[int(row)] for row in part.rows])
        chosen = {model: scores[model][at] for model in scores}
        labels = part.labels if test.labelled else agreed_labels(source.task, chosen["dense"])
        estimates = {m: evaluate(source.metric, s, labels, part.groups) for m, s in chosen.items()}
        difference = evaluate_difference(source.metric, chosen["pruned"], chosen["dense"], labels, part.groups)
        estimates["difference"] = difference
        if test.labelled and not source.labelled:
            taught = agreed_labels(source.task, chosen["dense"])
            estimates["agreement"] = evaluate(AGREEMENT, chosen["pruned"], taught, part.groups)
        report[name] = {m: e.to_json() | {"rows": e.rows} for m, e in estimates.items()}
    return report


def behaviour(source: Source, scores: Mapping[str, Array]) -> dict[str, Any]:
    """What the `scores` say beside the metric: how far the order of a group's rows is kept, and which classes are
    confused."""
    test, task, found = source.roles.test, source.task, dict[str, Any]()
    grouped = task.is_ranking and test.group is not None
    if grouped and (kept := order_kept(scores["pruned"], scores["dense"], test.groups)):
        found["order_kept"] = kept.to_json()
    if task.traits.score == "softmax" and test.labelled:
        confusion = {name: Confusion.of(task.labels, of_model, test.labels) for name, of_model in scores.items()}
        found["confusion"] = {"labels": task.labels} | {name: each.to_json() for name, each in confusion.items()}
    return found


def _verify_inputs(context: Context) -> list[Any]:
    manifests = [(context.run.path(f"{name}/manifest.json")).read_text() for name in ("teacher", "candidate")]
    return [manifests, context.budget.to_json()]


@stage("verify", "Verify on this machine", ["verify.json"], inputs=_verify_inputs)
def measure_candidate(context: Context, progress: Progress) -> None:
    """Measures parity and latency of the candidate and, inside the budget, its quality on the test rows."""
    run, candidate = context.run, artifact.read(context.run.path("candidate"))
    difference = parity(context.source, candidate)
    timed, verdict = measure_until_decided(verification(context, run.path("candidate")), progress)
    found = {"parity": difference, "predicted_us": run.read("chosen.json")["predicted_us"]}
    scores = None
    if verdict.met:  # test rows are read for models that may be given, and for no other
        engines = {"dense": engine_of(context.teacher), "pruned": engine_of(candidate)}
        scores = scores_on_test(context.source, engines)
    run.write("verify.json", found | measured_record(context, candidate, timed, verdict, scores))


def verification(context: Context, folder: Path) -> Job:
    """The timing by which the artifact of a folder, called pruned, is judged beside the dense model."""
    timing, folders = context.settings.timing, {"dense": str(context.run.path("teacher")), "pruned": str(folder)}
    return Job(folders, context.budget, timing.verify_rounds, calls_each_round(context), timing.verify_seconds)


def measured_record(
    context: Context,
    candidate: artifact.Artifact,
    timed: SamplesBySetting,
    verdict: Verdict,
    scores: Mapping[str, Array] | None,
) -> dict[str, Any]:
    """The figures of a candidate that was timed beside the dense model; its quality where both have `scores` of the
    test rows."""
    budget, dense = context.budget, context.teacher
    latency = {
        name: summarise(values, budget.statistic) for name, values in timed[budget.scope, budget.condition].items()
    }
    found = {
        "budget": budget.to_json(),
        "budget_us": budget.resolve(latency["dense"].of(budget.statistic).value),
        "verdict": verdict.to_json(),
        "latency": summaries(timed, budget.statistic),
        "predicted_dense_us": context.dense_us,
        "spec": candidate.manifest.spec.to_json(),
        "machine": this_machine().to_json(),
    }
    if scores:
        measured = quality(context.source, scores)
        weights = {"dense": dense.weights, "pruned": candidate.weights}
        found |= {"quality": measured, **behaviour(context.source, scores)}
        found |= {
            name: row(context.source, budget, latency[name], measured["all"][name], weights[name]) for name in weights
        }
    return found


def verify(context: Context) -> Verdict:
    """The verdict on the tuned candidate, measured in a fresh process."""
    measure_candidate(context)
    return Verdict.from_json(context.run.read("verify.json")["verdict"])


def measure_until_decided(job: Job, on_round: Callable[[int, int], None]) -> tuple[SamplesBySetting, Verdict]:
    """Samples of `job`, measured again in another process while they leave it undecided, and the verdict on them."""
    timed = time_artifacts(job, on_round)
    verdict = judge(job.budget, timed)
    for _ in range(MEASUREMENTS - 1):
        if not verdict.undecided:
            break
        more = time_artifacts(job, on_round)
        timed = {
            setting: {name: Samples.concatenate((rounds, more[setting][name])) for name, rounds in samples.items()}
            for setting, samples in timed.items()
        }
        verdict = judge(job.budget, timed)
    return timed, verdict


def summaries(timed: SamplesBySetting, statistic: str) -> dict[str, dict[str, Any]]:
    """Latency of both models in every setting, as JSON."""
    return {
        setting_name(scope, condition, statistic).rsplit("/", 1)[0]: {
            name: summarise(values, statistic).to_json() for name, values in samples.items()
        }
        for (scope, condition), samples in timed.items()
    }


def row(
    source: Source, budget: Budget, latency: LatencySummary, estimate: dict[str, Any], weights: Weights
) -> dict[str, Any]:
    """The figures of one model in the result."""
    return {
        "p50_us": latency.p50_us,
        "p99_us": latency.p99_us,
        "ci95_us": list(latency.of(budget.statistic).ci95),
        "metric": source.metric.name,
        "value": estimate["value"],
        "ci95": estimate["ci95"],
        "params": int(sum(array.size for name, array in weights.items() if not name.endswith("_rows"))),
    }
