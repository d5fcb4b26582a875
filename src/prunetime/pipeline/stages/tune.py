"""The stage that tunes the chosen sub-network, and decides in which precisions it is run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from prunetime.core import artifact
from prunetime.core.arrays import Weights
from prunetime.core.mask import Mask
from prunetime.core.precision import PrecisionPlan
from prunetime.core.progress import Progress
from prunetime.inference.engine import Engine
from prunetime.latency import plans
from prunetime.latency.synthetic import random_batch
from prunetime.models.encoder import from_weights, weights_of
from prunetime.pipeline.context import Context, stage
from prunetime.pipeline.pretrained import hub_id
from prunetime.pipeline.student import THREADS, distil, manifest_of, write_artifact
from prunetime.settings import AUTO
from prunetime.training.checkpoints import discard_checkpoints

Begin = Callable[[Mask], Weights]
"""Gives the weights of what a mask keeps, before they are tuned."""


def _provenance(context: Context) -> dict[str, Any]:
    base = hub_id(context.settings.model)
    known = {"model": context.settings.model, "seed": context.settings.seed}
    return known | ({"base_model": base} if base else {})


def _tune_inputs(context: Context, **_: Any) -> dict[str, Any]:
    run = context.run
    mask = Mask.from_json(run.read("mask.json"))
    return {"mask": mask.to_json(), "chosen": run.read("chosen.json"), "provenance": _provenance(context)}


@stage("tune", "Tune the sub-network", ["candidate"], inputs=_tune_inputs)
def tune(context: Context, progress: Progress, begin: Begin) -> None:
    """Distils the teacher into the chosen sub-network, and chooses the precisions it is run in."""
    run, source, dense = context.run, context.source, context.teacher
    mask = Mask.from_json(run.read("mask.json"))
    student = from_weights(dense.manifest.config, begin(mask), spec=mask.spec())
    distil(context, student, run.path("work/tune"), progress)
    manifest = manifest_of(source, student, dense.manifest.plan, _provenance(context))
    weights = weights_of(student)
    plan = final_plan(context, manifest, weights)
    write_artifact(run.path("candidate"), source, replace(manifest, plan=plan), weights)
    discard_checkpoints(run.path("work/tune"))


def final_plan(context: Context, manifest: artifact.Manifest, weights: Weights) -> PrecisionPlan:
    """How the candidate is run, with the metric on valid rows that this was measured to lose against fp32."""
    settings, budget, config, value = context.settings, context.budget, manifest.config, context.metric_on_valid
    if settings.precision == "fp32":
        return PrecisionPlan()
    quick = plans.EngineArguments(config, weights, manifest.spec, THREADS)
    exact = value(quick.engine(PrecisionPlan()))

    def loss(engine: Engine) -> float:
        return context.better(exact - value(engine))

    if settings.precision != AUTO:
        plan = PrecisionPlan.uniform(settings.precision)
        return replace(plan, quality_loss=loss(quick.engine(plan)))
    model = replace(quick, threads=budget.threads)
    return plans.choose(model, random_batch(config, budget.batch, budget.seq_len), loss, settings.max_loss)
