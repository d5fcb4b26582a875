"""The stages that train what a search starts from: the teacher, importance, and the elastic encoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from prunetime.core import artifact
from prunetime.core.arch import ArchSpec
from prunetime.core.progress import Progress
from prunetime.models.encoder import SequenceClassifier, from_weights, weights_of
from prunetime.pipeline.context import PREFIX_REPAIR, Context, stage
from prunetime.pipeline.run import digest_of_files
from prunetime.pipeline.stages.search import scoring_rows
from prunetime.pipeline.student import (
    THREADS,
    engine_of,
    manifest_of,
    metric_on_valid,
    ordered_teacher,
    training_settings,
    tuning_seed,
    until_valid_rows_say,
    write_artifact,
)
from prunetime.pruning.importance import measure_importance, save_scores
from prunetime.pruning.prefix_repair import PrefixRepair
from prunetime.search.elastic import Sandwich
from prunetime.search.evaluate import Elastic, ElasticScorer
from prunetime.training.checkpoints import discard_checkpoints
from prunetime.training.distributed import fit_on_every_rank
from prunetime.training.head_start import start_head

SMALLEST = 0.05
"""Elastic training goes down to half the budget, but not below this share of the weights."""


@stage(
    "teacher",
    lambda context: "Take the model as the teacher" if context.source.teacher_ready else "Fine-tune the dense teacher",
    ["teacher"],
    inputs=lambda context: {**context.inputs, "plan": context.reference.to_json()},
)
def train_teacher(context: Context, progress: Progress) -> None:
    """Fine-tunes the dense model, or takes it as it is; a fresh head begins as a linear model of the frozen encoder's
    rows."""
    run, source, settings, amounts = context.run, context.source, context.settings, context.run_plan
    model = source.pretrained.model
    if not source.teacher_ready:
        data = source.training_data(amounts.teacher_rows, settings.seed)
        if not source.pretrained.has_head:
            start_head(model, data, THREADS)
        training = training_settings(context, amounts.teacher_epochs, amounts.learning_rate, amounts.teacher_batch)
        training, value = until_valid_rows_say(context, training, len(data)), metric_on_valid(context)
        trained = fit_on_every_rank(model, data, training, run.path("work/teacher"), None, progress, value=value)
        run.write("teacher.json", trained.curve.to_json())
    provenance = {"role": "teacher", "model": settings.model}
    manifest = manifest_of(source, model, context.reference, provenance)
    write_artifact(run.path("teacher"), source, manifest, weights_of(model))
    discard_checkpoints(run.path("work/teacher"))


@stage(
    "importance",
    "Importance of heads and rows",
    ["importance.safetensors"],
    inputs=lambda context: context.inputs,
)
def importance(context: Context, progress: Progress) -> None:
    """Measures how much every head and every FFN neuron of the teacher matters."""
    settings, rows, dense = context.settings, context.run_plan.importance_rows, context.teacher
    model = from_weights(dense.manifest.config, dense.weights)
    data = context.source.training_data(rows, settings.seed)
    scores = measure_importance(model, data, settings.importance, rows, settings.seed, THREADS, on_progress=progress)
    save_scores(scores, context.run.path("importance.safetensors"))


def _digests_of_ordered(context: Context) -> list[str]:
    """What the ordered teacher depends on."""
    importance_digest = digest_of_files([context.run.path("importance.safetensors")])
    return [context.run.path("teacher/manifest.json").read_text(), importance_digest]


def _leave_elastic(context: Context, model: SequenceClassifier) -> None:
    """Leaves a model as the encoder whose sub-networks a search scores."""
    manifest = manifest_of(context.source, model, context.plan, {"role": "elastic", "model": context.settings.model})
    write_artifact(context.run.path("elastic"), context.source, manifest, weights_of(model))


def _repair_inputs(context: Context) -> list[Any]:
    return [*_digests_of_ordered(context), context.run_plan.tune_rows, context.settings.seed]


@stage("repair", "Prepare the repair of sub-networks", ["elastic", PREFIX_REPAIR], inputs=_repair_inputs)
def prepare_repair(context: Context, _: Progress) -> None:
    """Puts heads and FFN neurons of the teacher in order of importance, and measures what its output matrices read, so
    that any sub-network is repaired in no time."""
    seed, model = tuning_seed(context), from_weights(context.config, ordered_teacher(context))
    data = context.source.training_data(context.run_plan.tune_rows, seed)
    PrefixRepair.of(model, data, seed, THREADS).save(context.run.path(PREFIX_REPAIR))
    _leave_elastic(context, model)


def _sandwich(context: Context) -> Sandwich:
    """The sub-networks from half the budget to all of dense, so that those of other budgets can be scored as well."""
    smallest = min(1.0, max(SMALLEST, round(context.budget_us / context.dense_in_plan_us / 2, 2)))
    return Sandwich(context.space, smallest, context.budget.seq_len)


def _elastic_inputs(context: Context) -> list[Any]:
    plan, seed = context.run_plan.to_json(), context.settings.seed
    return [*_digests_of_ordered(context), repr(_sandwich(context)), plan, seed]


def _agreement_on_valid(context: Context, sub_networks: Sandwich) -> Callable[[SequenceClassifier], float]:
    """Gives how far an elastic model agrees with the teacher on valid rows: the mean of the whole, and of sub-networks
    of all sizes, as a search will score them."""
    rows, dims = scoring_rows(context, context.run_plan.score_rows), context.config.dims
    specs = [ArchSpec.full(dims), *sub_networks.draw(np.random.default_rng(context.settings.seed))]

    def value(model: SequenceClassifier) -> float:
        return float(np.mean(list(ElasticScorer(Elastic(model.config, weights_of(model), THREADS), rows)(specs))))

    return value


@stage("elastic", "Train all sub-networks at once", ["elastic", "elastic.json"], inputs=_elastic_inputs)
def train_elastic(context: Context, progress: Progress) -> None:
    """Trains the sub-networks of the teacher all at once, heads and FFN neurons in order of importance.

    The whole is distilled from the teacher, for it has seen the labels already: on labels alone it learns the rows by
    heart. Leaves in `elastic.json` the metric of teacher, elastic encoder and its smallest
    sub-network.
    """
    run, source, settings, amounts, dense = (
        context.run, context.source, context.settings, context.run_plan, context.teacher
    )  # fmt: skip
    config, sub_networks = dense.manifest.config, _sandwich(context)
    model = from_weights(config, ordered_teacher(context))
    training = training_settings(context, amounts.elastic_epochs, amounts.elastic_learning_rate)
    data = source.training_data(amounts.elastic_rows, settings.seed + 1)
    teacher_model, folder = from_weights(config, dense.weights), run.path("work/elastic")
    training = until_valid_rows_say(context, training, len(data))
    special: Any = {"sub_networks": sub_networks, "value": _agreement_on_valid(context, sub_networks)}
    fit_on_every_rank(model, data, training, folder, teacher_model, progress, **special)
    _leave_elastic(context, model)
    discard_checkpoints(run.path("work/elastic"))
    value, engine = context.metric_on_valid, engine_of(artifact.read(run.path("elastic")))
    measured = {"teacher": value(engine_of(dense)), "whole": value(engine)}
    engine.select(sub_networks.smallest_spec())
    run.write("elastic.json", measured | {"smallest": value(engine)})


def teach(context: Context) -> None:
    """Trains the teacher, and says where its time ended before it was done."""
    train_teacher(context)
    if not context.run.path("teacher.json").exists():  # it was taken as it is, or is of version 0.1
        return
    curve = context.run.read("teacher.json")
    if not curve["stopped"] and curve["values"] and curve["best_step"] == curve["steps"]:
        value = context.better(curve["values"][-1][1])
        context.run.reporter.say(
            f"the teacher was still getting better when its time ended: {context.source.valid_metric.name} on valid "
            f"rows {value:.4f} after {curve['steps']} steps; with more --effort it may end higher"
        )


def elastic(context: Context) -> None:
    """Makes the encoder whose sub-networks a search scores: they are repaired or, where the plan has rows for it,
    trained all at once. Says what a trained one and its smallest sub-network came to."""
    if context.run_plan.repairs:
        prepare_repair(context)
        return
    train_elastic(context)
    found, metric, smallest = context.run.read("elastic.json"), context.source.valid_metric, _sandwich(context).smallest
    context.run.reporter.say(
        f"{metric.name} on valid rows: teacher {found['teacher']:.4f}, elastic {found['whole']:.4f}, "
        f"its smallest sub-network ({smallest:.0%} of the weights) {found['smallest']:.4f}"
    )
