"""The stage that tunes structures that need no search: the dense model, its first layers, and a uniform structure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from prunetime.core.arch import ArchSpec, Dims
from prunetime.core.arrays import Weights
from prunetime.core.mask import Mask
from prunetime.core.progress import Progress
from prunetime.models.compact import compact, prefix_mask
from prunetime.models.encoder import weights_of
from prunetime.pipeline.context import MODELS, Context, stage
from prunetime.pipeline.stages.libraries import FOLDER
from prunetime.pipeline.stages.profile import MARGIN
from prunetime.pipeline.stages.tune import final_plan, order_weight, provenance
from prunetime.pipeline.student import distil, manifest_of, ordered_teacher, sub_network, write_artifact
from prunetime.search.evolution import uniform_baselines
from prunetime.training.checkpoints import discard_checkpoints


@dataclass(frozen=True)
class Structure:
    """A structure that needs no search: what it keeps, and the weights that it is tuned from, which are those of
    `origin`, an artifact of the run."""

    name: str
    mask: Mask
    weights: Weights
    origin: str = "teacher"


def structures(context: Context) -> dict[str, Structure]:
    """The dense model, and the first layers and the uniform structure that are predicted to be inside the budget.

    A structure that does not fit is not there.
    """
    dense, dims, target_us = context.teacher, context.config.dims, context.budget_us * MARGIN
    full = Mask.full(dims)
    found = {"dense-tuned": Structure("dense, tuned as long", full, dense.weights)}
    for count in range(dims.layers - 1, 0, -1):
        mask = Mask.first_layers(dims, count)
        if context.latency.predict(mask.spec(), context.budget) <= target_us:
            name = f"first {count} layers" if count > 1 else "first layer"
            found["first-layers"] = Structure(name, mask, compact(dense.weights, mask, dims))
            break
    space = replace(context.space, tokens=False, blocks=None)
    uniform = uniform_baselines(space, lambda spec: context.latency.predict(spec, context.budget), target_us)
    if uniform:
        origin, base = _ordered(context)
        mask = prefix_mask(base, most_even([space.spec(genome) for genome in uniform], dims), dims)
        found["uniform"] = Structure("uniform", mask, compact(base, mask, dims), origin)
    return found


def most_even(specs: Sequence[ArchSpec], dims: Dims) -> ArchSpec:
    """Returns the one, of structures with equal layers, that keeps most of what it keeps the smaller share of: heads or
    FFN neurons. The one with most weights may have no heads at all."""

    def least_share(spec: ArchSpec) -> float:
        return min(spec.layers[0].heads / dims.heads, spec.layers[0].ffn / dims.ffn)

    return max(specs, key=lambda spec: (least_share(spec), spec.weights(dims)))


def _ordered(context: Context) -> tuple[str, Weights]:
    """The name of an artifact of the run and its weights, with heads and FFN neurons in order of importance: of the
    elastic encoder, where one was trained."""
    if context.run.path("elastic").exists():
        return "teacher" if context.run_plan.repairs else "elastic", context.elastic.weights
    return "teacher", ordered_teacher(context)


def _tune_inputs(context: Context, folder: str, structure: Structure) -> list[Any]:
    teacher, elastic = (context.run.path(f"{model}/manifest.json") for model in MODELS)
    manifests = [teacher.read_text(), structure.origin == "elastic" and elastic.read_text()]
    plans = [context.run_plan.to_json(), context.plan.to_json()]
    order = order_weight(context)
    return [folder, structure.mask.to_json(), manifests, plans, provenance(context), *([order] if order else [])]


@stage(
    "alternative-{folder}",
    lambda _, structure, **__: f"Tune what one would take instead: {structure.name}",
    [f"{FOLDER}/{{folder}}"],
    inputs=_tune_inputs,
)
def tune_alternative(context: Context, progress: Progress, folder: str, structure: Structure) -> None:
    """Distils the teacher into a structure that needs no search, for as many steps as into the pruned model."""
    source, work = context.source, context.run.path(f"work/{folder}")
    student = sub_network(context, structure.weights, structure.mask)
    distil(context, student, work, progress, context.plan, order=order_weight(context))
    manifest = manifest_of(source, student, context.plan, provenance(context) | {"role": structure.name})
    weights = weights_of(student)
    manifest = replace(manifest, plan=final_plan(context, manifest, weights))
    write_artifact(context.run.path(f"{FOLDER}/{folder}"), source, manifest, weights)
    discard_checkpoints(work)
