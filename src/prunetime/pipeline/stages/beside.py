"""The stage that tunes other pretrained models, which stand beside the pruned one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from prunetime.core.progress import Progress
from prunetime.models.encoder import weights_of
from prunetime.pipeline.beside import StaticSource
from prunetime.pipeline.context import Context, stage
from prunetime.pipeline.stages.tune import final_plan, order_weight, provenance
from prunetime.pipeline.student import distil_other, manifest_of, taught, write_artifact
from prunetime.training.checkpoints import discard_checkpoints

FOLDER = "alternatives/beside-{number}"
"""The artifact of such a model in the run folder."""


def _inputs(context: Context, number: int) -> list[Any]:
    teacher = context.run.path("teacher/manifest.json").read_text()
    plans = [context.run_plan.to_json(), context.plan.to_json()]
    order = order_weight(context)
    return [context.beside[number].digest, teacher, plans, _provenance(context, number), *([order] if order else [])]


def _provenance(context: Context, number: int) -> dict[str, Any]:
    other = context.beside[number]
    return provenance(context, other.model) | {"role": other.name}


@stage(
    "beside-{number}",
    lambda context, number: f"Tune what stands beside it: {context.beside[number].model}",
    [FOLDER],
    inputs=_inputs,
)
def tune_beside(context: Context, progress: Progress, number: int) -> None:
    """Distils the teacher into another pretrained model, which reads its own tokens, for as many steps as into the
    pruned model; to a static embedding it fits a head."""
    other, work = context.beside[number], context.run.path(f"work/beside-{number}")
    source, folder = other.source, context.run.path(FOLDER.format(number=number))
    if isinstance(source, StaticSource):
        static, data = source.static, taught(context, source)
        if not source.task.traits.reads_apart:
            static = static.fitted(source.task, data.tokens, data.labels)
        static.write(folder, **_provenance(context, number))
        return
    model = source.pretrained.model
    distil_other(context, source, work, progress, context.plan, order=order_weight(context))
    manifest, weights = manifest_of(source, model, context.plan, _provenance(context, number)), weights_of(model)
    manifest = replace(manifest, plan=final_plan(context, manifest, weights, source))
    write_artifact(folder, source, manifest, weights)
    discard_checkpoints(work)
