"""The stage that tunes the chosen sub-network, and decides in which precisions it is run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunetime.core import artifact
from prunetime.core.arrays import Weights
from prunetime.core.mask import Mask
from prunetime.core.precision import PrecisionPlan
from prunetime.core.progress import Progress, half_of
from prunetime.latency import plans
from prunetime.latency.measure import TimedCall, pinned, ratio
from prunetime.latency.synthetic import random_batch
from prunetime.latency.timing import time_budget
from prunetime.models.encoder import SequenceClassifier, weights_of
from prunetime.pipeline.context import Context, stage
from prunetime.pipeline.pretrained import hub_id
from prunetime.pipeline.source import Source
from prunetime.pipeline.student import THREADS, distil, manifest_of, metric_on_valid, sub_network, write_artifact
from prunetime.settings import AUTO
from prunetime.training.checkpoints import discard_checkpoints

if TYPE_CHECKING:
    from prunetime.training.stopping import LearningCurve

TUNED = "tune.json"
"""What the tuning came to by steps, and whether the rank-consistency loss was part of it."""

ORDER_WEIGHT = 1.0
"""The weight of the rank-consistency loss beside the others (bench/ranking.py)."""

ROUNDS, CALLS = 6, 12
"""By so many calls a pass in one plan is timed beside one in another."""

Begin = Callable[[Mask], Weights]
"""Gives the weights of what a mask keeps, before they are tuned."""


def provenance(context: Context, model: str | None = None) -> dict[str, Any]:
    """What an artifact says of where it comes from: of the pretrained `model`, by default the run's own."""
    model = model or context.settings.model
    base = hub_id(model)
    known = {"model": model, "seed": context.settings.seed}
    return known | ({"base_model": base} if base else {})


def _tune_inputs(context: Context, **_: Any) -> dict[str, Any]:
    run = context.run
    mask = Mask.from_json(run.read("mask.json"))
    inputs = {"mask": mask.to_json(), "chosen": run.read("chosen.json"), "provenance": provenance(context)}
    return inputs if context.plan == PrecisionPlan() else inputs | {"plan": context.plan.to_json()}


@stage("tune", "Tune the sub-network", ["candidate"], inputs=_tune_inputs)
def tune(context: Context, progress: Progress, begin: Begin) -> None:
    """Distils the teacher into the chosen sub-network, and chooses the precisions it is run in.

    Where the order of a group's rows is what counts, it does so without the rank-consistency loss and with it, and
    keeps what is better on valid rows.
    """
    run, source, mask = context.run, context.source, Mask.from_json(context.run.read("mask.json"))

    def tuned(folder: Path, progress: Progress, order: float | None = None) -> tuple[SequenceClassifier, LearningCurve]:
        student = sub_network(context, begin(mask), mask)
        return student, distil(context, student, folder, progress, context.plan, order=order)

    folders = run.path("work/tune"), run.path("work/tune-rank")
    if source.orders_groups:
        without = tuned(folders[0], half_of(progress, 0))
        ranked = tuned(folders[1], half_of(progress, 1), ORDER_WEIGHT)
        decision = _decided(context, without[0], ranked[0])
        student, curve = ranked if decision["weight"] else without
    else:
        student, curve = tuned(folders[0], progress)
        decision = None
    run.write(TUNED, curve.to_json() | ({"rank_consistency": decision} if decision else {}))
    manifest = manifest_of(source, student, context.plan, provenance(context))
    weights = weights_of(student)
    plan = inside_budget(context, manifest, weights, final_plan(context, manifest, weights))
    write_artifact(run.path("candidate"), source, replace(manifest, plan=plan), weights)
    for folder in folders:
        discard_checkpoints(folder)


def _decided(context: Context, without: SequenceClassifier, ranked: SequenceClassifier) -> dict[str, float | None]:
    """The metric on valid rows of what was tuned without the rank-consistency loss and with it, and the weight of that
    loss; None where it does not help."""
    value, metric = metric_on_valid(context, context.plan), context.source.valid_metric.name
    plain, ordered = value(without), value(ranked)
    weight = ORDER_WEIGHT if ordered > plain else None
    found = {"without": context.better(plain), "with": context.better(ordered)}
    context.run.reporter.say(
        f"{metric} on valid rows: {found['with']:.4f} tuned with the rank-consistency loss, {found['without']:.4f} "
        f"without: it is {'on' if weight else 'off'}"
    )
    return found | {"weight": weight}


def inside_budget(
    context: Context, manifest: artifact.Manifest, weights: Weights, plan: PrecisionPlan
) -> PrecisionPlan:
    """The precisions `plan`, or those that the structure was searched in, where it is predicted over the budget with
    others: each pass is timed in both."""
    budget, searched_in = context.budget, context.plan
    if replace(plan, quality_loss=None) == searched_in:
        return plan
    arguments = plans.EngineArguments(manifest.config, weights, manifest.spec, budget.threads)
    batch = random_batch(manifest.config, budget.batch, budget.seq_len)
    calls: dict[str, dict[str, TimedCall]] = {
        name: {budget.scope: partial(arguments.engine(of).logits, batch)}
        for name, of in (("plan", plan), ("searched in", searched_in))
    }
    with pinned(budget.threads):
        timed = time_budget(calls, budget, ROUNDS, CALLS)
    slower = ratio(timed["plan"], timed["searched in"], budget.statistic).value
    predicted_us = slower * float(context.run.read("chosen.json")["predicted_us"])
    if predicted_us <= context.budget_us:
        return plan
    quick = replace(arguments, threads=THREADS)
    loss = _loss_on_valid(context, quick, context.source)
    context.run.reporter.say(
        f"{plan.described()} would take {predicted_us:.0f} us, and the budget is {context.budget_us:.0f}: it is run in "
        f"{searched_in.described()}"
    )
    return replace(searched_in, quality_loss=loss(quick.engine(searched_in)))


def _loss_on_valid(context: Context, model: plans.EngineArguments, source: Source) -> plans.Loss:
    """Gives what an engine of `model`, which reads rows as those of `source`, loses of the metric on valid rows against
    fp32."""
    value = context.metric_of(source)
    exact = value(model.engine(PrecisionPlan()))
    return lambda engine: context.better(exact - value(engine))


def order_weight(context: Context) -> float | None:
    """The weight of the rank-consistency loss that the pruned model was tuned with; None without."""
    found = context.run.read(TUNED) if context.run.path(TUNED).exists() else {}
    weight: float | None = found.get("rank_consistency", {}).get("weight")
    return weight


def final_plan(
    context: Context, manifest: artifact.Manifest, weights: Weights, source: Source | None = None
) -> PrecisionPlan:
    """How a model is run that reads rows as those of `source` (by default the run's own), with the metric on valid rows
    that this was measured to lose against fp32."""
    settings, budget, config = context.settings, context.budget, manifest.config
    if settings.precision == "fp32":
        return PrecisionPlan()
    quick = plans.EngineArguments(config, weights, manifest.spec, THREADS)
    loss = _loss_on_valid(context, quick, source or context.source)
    if settings.precision != AUTO:
        plan = PrecisionPlan.uniform(settings.precision)
        return replace(plan, quality_loss=loss(quick.engine(plan)))
    model = replace(quick, threads=budget.threads)
    return plans.choose(model, random_batch(config, budget.batch, budget.seq_len), loss, settings.max_loss)
