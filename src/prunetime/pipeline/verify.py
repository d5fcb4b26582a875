"""The last stage: is the candidate right, good, and inside the budget on this machine?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from prunetime.core import artifact
from prunetime.core.arch import ArchSpec
from prunetime.core.budget import Budget
from prunetime.core.estimate import Estimate
from prunetime.core.machine import this_machine
from prunetime.core.mask import Mask
from prunetime.core.precision import PrecisionPlan
from prunetime.errors import DefectError, InputError
from prunetime.inference.engine import Engine
from prunetime.inference.model import Model
from prunetime.inference.ragged import Ragged
from prunetime.latency.measure import NOISY, LatencySummary, Samples, pinned, ratio, summarise
from prunetime.latency.predictor import LatencyProfile, setting_name
from prunetime.latency.timing import Job, SamplesBySetting, calls_of_specs, time_artifacts, time_budget, time_settings
from prunetime.models.encoder import SequenceClassifier, from_weights
from prunetime.pipeline.run import Progress, Run
from prunetime.pipeline.settings import Settings
from prunetime.pipeline.source import Source
from prunetime.pipeline.stages import THREADS
from prunetime.tasks.data import Examples
from prunetime.tasks.metrics import evaluate, evaluate_difference

SECONDS = 60.0
ROUNDS = 24
CALLS = 40
"""Timed calls of each model in each round; three times as many for p99."""
CLEAR = 2.0
"""A p99 is inside a budget of so many times what the dense model takes, however noisy the machine is."""
MEASUREMENTS = 3
"""At most, of SECONDS each, while noise keeps the interval on both sides of the limit."""

PARITY_ROWS = 128
PARITY_TOLERANCE = 1e-3
"""Largest difference between a torch and an engine logit, as a share of the largest logit, both in float32."""


@dataclass(frozen=True)
class Verdict:
    """`estimate` and `limit` are microseconds, or shares of dense for a budget that is a share; see `Budget`."""

    met: bool
    noisy: bool
    estimate: Estimate
    limit: float
    share: bool

    def to_json(self) -> dict[str, Any]:
        others = {name: getattr(self, name) for name in ("met", "noisy", "limit", "share")}
        return others | self.estimate.to_json("measured")

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Verdict:
        return cls(data["met"], data["noisy"], Estimate.from_json(data, "measured"), data["limit"], data["share"])

    @property
    def measured(self) -> float:
        return self.estimate.value

    @property
    def ci95(self) -> tuple[float, float]:
        return self.estimate.ci95

    @property
    def undecided(self) -> bool:
        """Whether a longer measurement could say otherwise."""
        return self.ci95[0] <= self.limit < self.ci95[1]

    def describe(self) -> str:
        scale, unit = (100.0, "% of dense") if self.share else (1.0, "us")
        shown = self.estimate.scaled(scale)
        return f"{shown.value:.4g} {unit} (95 % interval {shown.low:.4g} to {shown.high:.4g})"


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


def gate(run: Run, source: Source, budget: Budget, plan: PrecisionPlan) -> Verdict:
    """A short measurement of the chosen spec with random weights, so that no hour of tuning goes into a miss."""
    config = source.pretrained.config
    specs = {"dense": ArchSpec.full(config.dims), "pruned": Mask.from_json(run.read("mask.json")).spec()}

    def work(progress: Progress) -> None:
        with pinned(budget.threads):
            calls = calls_of_specs(specs, config, source.tokenizer, source.task.read_together, budget, plan)
            timed = time_settings(calls, Job({}, budget, ROUNDS // 2, CALLS // 2, seconds=0.0), progress)
        run.write("gate.json", judge(budget, timed).to_json())

    inputs = [specs["pruned"].to_json(), budget.to_json(), plan.to_json()]
    run.do("gate", "Measure the chosen structure", inputs, ["gate.json"], work)
    return Verdict.from_json(run.read("gate.json"))


def check_tail(run: Run, source: Source, budget: Budget, plan: PrecisionPlan, latency: LatencyProfile) -> None:
    """Measures, for a budget on p99, whether this machine can judge one; leaves `tail.json`.

    The dense model is timed as dense and candidate will be, against itself. A budget of `CLEAR` times the dense model's
    p99 needs no such precision.

    Raises InputError where it cannot.
    """
    _, dense_us = latency.floor_and_dense(budget)
    if budget.statistic != "p99" or budget.resolve(dense_us) >= CLEAR * dense_us:
        return
    config, setting = source.pretrained.config, (budget.scope, budget.condition)
    specs = dict.fromkeys(("dense", "pruned"), ArchSpec.full(config.dims))

    def work(progress: Progress) -> None:
        samples: dict[str, Samples] = {}
        with pinned(budget.threads):
            calls = calls_of_specs(specs, config, source.tokenizer, source.task.read_together, budget, plan)
            for number in range(MEASUREMENTS):
                more = time_budget(calls, budget, ROUNDS, _calls_each_round(budget))
                samples = {name: np.concatenate((samples.get(name, more[name][:0]), more[name])) for name in more}
                progress(number + 1, MEASUREMENTS)
                if not judge(budget, {setting: samples}).noisy:
                    break
        check_judged(judge(budget, {setting: samples}))
        run.write("tail.json", summarise(samples["dense"], budget.statistic).to_json())

    run.do("tail", "Measure how far the p99 varies", [budget.to_json(), plan.to_json()], ["tail.json"], work)


def _calls_each_round(budget: Budget) -> int:
    return CALLS * (3 if budget.statistic == "p99" else 1)


def check_judged(itself: Verdict) -> None:
    """Raises InputError where the p99 of the dense model, or its ratio to `itself`, is not known well enough."""
    if itself.noisy:
        raise InputError(
            f"the p99 of the dense model is {itself.describe()}: an interval of {itself.estimate.width:.0%}, "
            f"and at most {NOISY:.0%} can be judged by. The machine is too noisy to judge a p99: run it again when it "
            "is quiet (`prunetime doctor` says why it is not), or give --statistic p50"
        )


def verify(run: Run, source: Source, settings: Settings, dense: artifact.Artifact) -> Verdict:
    """Parity and latency of the candidate and, inside the budget, quality on the test rows; leaves `verify.json`."""
    budget = settings.budget

    def work(progress: Progress) -> None:
        candidate = artifact.read(run.path("candidate"))
        difference = parity(source, candidate)
        folders = {"dense": str(run.path("teacher")), "pruned": str(run.path("candidate"))}
        calls = _calls_each_round(budget)
        timed, verdict = settle(Job(folders, budget, ROUNDS, calls, SECONDS), progress)
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
            measured = quality(source, {"dense": Model(dense, THREADS), "pruned": Model(candidate, THREADS)})
            weights = {"dense": dense.weights, "pruned": candidate.weights}
            found["quality"] = measured
            found |= {
                name: row(source, budget, latency[name], measured["all"][name], weights[name]) for name in weights
            }
        run.write("verify.json", found)

    inputs = [(run.path(f"{name}/manifest.json")).read_text() for name in ("teacher", "candidate")]
    run.do("verify", "Verify on this machine", [inputs, budget.to_json()], ["verify.json"], work)
    return Verdict.from_json(run.read("verify.json")["verdict"])


def settle(job: Job, on_round: Progress) -> tuple[SamplesBySetting, Verdict]:
    """Samples of `job`, measured again in another process while they leave it undecided, and what they say."""
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


def judge(budget: Budget, timed: SamplesBySetting) -> Verdict:
    """Whether the upper end of the statistic's 95 % interval is inside the budget (of the ratio, for a share)."""
    samples = timed[budget.scope, budget.condition]
    if budget.share is None:
        latency = summarise(samples["pruned"], budget.statistic)
        estimate, limit = latency.of(budget.statistic), budget.resolve(0.0)
    else:
        estimate, limit = ratio(samples["pruned"], samples["dense"], budget.statistic), budget.share
    return Verdict(estimate.high <= limit, estimate.is_wider_than(NOISY), estimate, limit, budget.share is not None)


def summaries(timed: SamplesBySetting, statistic: str) -> dict[str, dict[str, Any]]:
    """Latency of both models in every setting, as JSON."""
    return {
        setting_name(scope, condition, statistic).rsplit("/", 1)[0]: {
            name: summarise(values, statistic).to_json() for name, values in samples.items()
        }
        for (scope, condition), samples in timed.items()
    }


def row(
    source: Source, budget: Budget, latency: LatencySummary, estimate: dict[str, Any], weights: artifact.Weights
) -> dict[str, Any]:
    """What the result says of one model."""
    return {
        "p50_us": latency.p50_us,
        "p99_us": latency.p99_us,
        "ci95_us": list(latency.of(budget.statistic).ci95),
        "metric": source.metric.name,
        "value": estimate["value"],
        "ci95": estimate["ci95"],
        "params": int(sum(array.size for name, array in weights.items() if not name.endswith("_rows"))),
    }
