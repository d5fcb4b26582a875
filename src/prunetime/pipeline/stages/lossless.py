"""The stages that ask whether anything has to be pruned: faster precisions alone may bring the dense model inside."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from prunetime.core.mask import Mask
from prunetime.core.precision import PrecisionPlan
from prunetime.core.progress import Progress
from prunetime.latency import plans
from prunetime.latency.measure import pinned
from prunetime.latency.timing import calls_of
from prunetime.pipeline.context import Context, stage
from prunetime.pipeline.run import Run
from prunetime.pipeline.stages.measure import judge_briefly
from prunetime.pipeline.stages.tune import final_plan, provenance
from prunetime.pipeline.stages.verify import verify
from prunetime.pipeline.student import write_artifact
from prunetime.pipeline.verdict import Verdict

FASTER = 1.15
"""Precisions that are mixed may be so much faster than the fastest single one; a budget beyond that is not tried."""


def _inputs(context: Context) -> list[Any]:
    manifest = context.run.path("teacher/manifest.json").read_text()
    settings = context.settings
    return [manifest, context.budget.to_json(), context.plan.to_json(), settings.precision, settings.max_loss]


@stage("lossless", "Try faster precisions of the dense model", ["lossless.json"], inputs=_inputs)
def try_precisions(context: Context, _: Progress) -> None:
    """Chooses the fastest precisions in which the dense model loses at most `--max-loss`, and times it in them."""
    dense, budget, source = context.teacher, context.budget, context.source
    plan = final_plan(context, dense.manifest, dense.weights)
    model = plans.EngineArguments(dense.manifest.config, dense.weights, dense.manifest.spec, budget.threads)
    with pinned(budget.threads):
        calls = {
            name: calls_of(model.engine(each), context.config, source.tokenizer, source.task.read_together, budget)
            for name, each in (("dense", context.reference), ("pruned", plan))
        }
        verdict = judge_briefly(context, calls)
    loss = plan.quality_loss
    met = verdict.met and (loss is None or loss <= context.settings.max_loss)
    found = {"plan": plan.to_json(), "verdict": verdict.to_json(), "met": met}
    context.run.write("lossless.json", found)


@stage(
    "take-dense",
    "Take the dense model in these precisions",
    ["candidate", "mask.json", "chosen.json", "gate.json"],
    inputs=lambda context: [*_inputs(context), context.run.read("lossless.json")],
)
def take_dense(context: Context, _: Progress) -> None:
    """Leaves the dense model in the precisions that were found as the candidate."""
    run, dense, found = context.run, context.teacher, context.run.read("lossless.json")
    plan, verdict = PrecisionPlan.from_json(found["plan"]), Verdict.from_json(found["verdict"])
    mask = Mask.full(context.config.dims)
    manifest = replace(dense.manifest, plan=plan, provenance={**dense.manifest.provenance, **provenance(context)})
    write_artifact(run.path("candidate"), context.source, manifest, dense.weights)
    run.write("mask.json", mask.to_json())
    run.write("gate.json", verdict.to_json())
    run.write("chosen.json", {"predicted_us": verdict.measured.value * (context.dense_us if verdict.share else 1.0)})


def answer_without_pruning(context: Context) -> bool:
    """Takes the dense model in faster precisions, where it is inside the budget so and loses nothing, and verifies it.

    Returns whether that is the answer; where it is not, everything is as if it had not been tried.
    """
    if context.settings.precision == "fp32" or context.dense_in_plan_us > FASTER * context.budget_us:
        return False
    try_precisions(context)
    if not is_lossless(context.run):
        return False
    take_dense(context)
    found = context.run.read("lossless.json")
    plan, verdict = PrecisionPlan.from_json(found["plan"]), Verdict.from_json(found["verdict"])
    context.run.reporter.say(
        f"the dense model in {plan.described()} measures {verdict.describe()} and loses "
        f"{max(0.0, plan.quality_loss or 0.0):.4f} of {context.source.valid_metric.name} on valid rows: nothing has to "
        f"be pruned{'' if context.beside else ', and nothing is compared with it'}"
    )
    if verify(context).met:
        return True
    context.run.write("lossless.json", found | {"met": False})
    context.run.forget("take-dense")
    return False


def is_lossless(run: Run) -> bool:
    """Whether the dense model in faster precisions was found to be inside the budget of a run, and to lose nothing."""
    return run.path("lossless.json").exists() and bool(run.read("lossless.json")["met"])
