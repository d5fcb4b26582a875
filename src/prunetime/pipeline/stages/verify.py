"""The last stage: is the candidate right, good, and inside the budget on this machine?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from prunetime.core import artifact
from prunetime.core.arrays import Weights
from prunetime.core.budget import Budget
from prunetime.core.machine import this_machine
from prunetime.core.progress import Progress
from prunetime.errors import DefectError
from prunetime.inference.engine import Engine
from prunetime.inference.model import Model
from prunetime.inference.ragged import Ragged
from prunetime.latency.measure import LatencySummary, summarise
from prunetime.latency.predictor import setting_name
from prunetime.latency.timing import Job, SamplesBySetting, time_artifacts
from prunetime.models.encoder import SequenceClassifier, from_weights
from prunetime.pipeline.context import Context, stage
from prunetime.pipeline.source import Source
from prunetime.pipeline.stages.measure import MEASUREMENTS, calls_each_round
from prunetime.pipeline.student import THREADS
from prunetime.pipeline.verdict import Verdict, judge
from prunetime.tasks.data import Examples
from prunetime.tasks.metrics import evaluate, evaluate_difference

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
    got = Engine(candidate.manifest.config, candidate.weights, spec=candidate.manifest.spec).logits(tokens)
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


def quality(source: Source, models: dict[str, Model]) -> dict[str, Any]:
    """Metric of the engine's answers on the test rows, and on every slice; `difference` is pruned minus dense."""
    test, inputs = source.roles.test, source.test
    scores = {name: inputs.scores(model.engine.logits(inputs.tokens)) for name, model in models.items()}
    parts: dict[str, Examples] = {"all": test}
    parts |= {part.name: part.select(test, source.roles.train) for part in source.slices}
    row_of = {int(row): index for index, row in enumerate(test.rows)}
    report: dict[str, Any] = {}
    for name, part in parts.items():
        at = np.array([row_of[int(row)] for row in part.rows])
        chosen = {model: scores[model][at] for model in scores}
        estimates = {m: evaluate(source.metric, s, part.labels, part.groups) for m, s in chosen.items()}
        difference = evaluate_difference(source.metric, chosen["pruned"], chosen["dense"], part.labels, part.groups)
        report[name] = {m: e.to_json() | {"rows": e.rows} for m, e in (*estimates.items(), ("difference", difference))}
    return report


def _verify_inputs(context: Context) -> list[Any]:
    manifests = [(context.run.path(f"{name}/manifest.json")).read_text() for name in ("teacher", "candidate")]
    return [manifests, context.budget.to_json()]


@stage("verify", "Verify on this machine", ["verify.json"], inputs=_verify_inputs)
def measure_candidate(context: Context, progress: Progress) -> None:
    """Measures parity and latency of the candidate and, inside the budget, its quality on the test rows."""
    run, budget, dense, timing = context.run, context.budget, context.teacher, context.settings.timing
    candidate = artifact.read(run.path("candidate"))
    difference = parity(context.source, candidate)
    folders = {"dense": str(run.path("teacher")), "pruned": str(run.path("candidate"))}
    job = Job(folders, budget, timing.verify_rounds, calls_each_round(context), timing.verify_seconds)
    timed, verdict = measure_until_decided(job, progress)
    samples = timed[budget.scope, budget.condition]
    latency = {name: summarise(values, budget.statistic) for name, values in samples.items()}
    found = {
        "budget": budget.to_json(),
        "budget_us": budget.resolve(latency["dense"].of(budget.statistic).value),
        "verdict": verdict.to_json(),
        "latency": summaries(timed, budget.statistic),
        "parity": difference,
        "predicted_us": run.read("chosen.json")["predicted_us"],
        "spec": candidate.manifest.spec.to_json(),
        "machine": this_machine().to_json(),
    }
    if verdict.met:  # test rows are read once, for the model that will be given
        measured = quality(context.source, {"dense": Model(dense, THREADS), "pruned": Model(candidate, THREADS)})
        weights = {"dense": dense.weights, "pruned": candidate.weights}
        found["quality"] = measured
        found |= {
            name: row(context.source, budget, latency[name], measured["all"][name], weights[name]) for name in weights
        }
    run.write("verify.json", found)


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
            setting: {name: np.concatenate((rows, more[setting][name])) for name, rows in samples.items()}
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
