"""Fake quantisation: an encoder in torch computes what the engine does with a precision plan, for training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prunetime.core.precision import PrecisionPlan
from prunetime.inference.engine import forward_plan
from prunetime.models.encoder import SequenceClassifier


@contextmanager
def fake_quantised(model: SequenceClassifier, plan: PrecisionPlan) -> Iterator[None]:
    """Within, matrix products of `model` are of numbers rounded as the engine rounds them with `plan`.

    Gradients pass the rounding as if it were not there. Attention is computed as without a plan: the engine rounds in
    it only where the CPU multiplies bf16, and there torch trains in bf16 as well. Of what torch and the engine compute
    in float32, the last bits differ; where such a bit decides how a number is rounded, so does that number.

    Args:
        model: An encoder, pruned or not; sub-networks of it (`models.prefix`) are rounded like it.
        plan: The precision of every matrix.

    Raises:
        InputError: the plan names a layer that the encoder has not.
    """
    plan.check(model.spec)
    precision = forward_plan(model.config, model.spec, plan).precision
    parts = {**{f"layers.{index}.": layer for index, layer in enumerate(model.layers)}, "head.": model.head}
    for prefix, part in parts.items():
        own = {name.removeprefix(prefix): of for name, of in precision.items() if name.startswith(prefix)}
        part.precisions = own
    try:
        yield
    finally:
        for part in parts.values():
            del part.precisions
