"""Importance scores of blocks of weights, as `importance` has them of heads and rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from prunetime.core.arch import BlockShape, block_grid
from prunetime.core.mask import Scores
from prunetime.core.progress import Progress
from prunetime.models.batches import TrainingBatch, TrainingData
from prunetime.models.encoder import SequenceClassifier, linears_of
from prunetime.models.losses import task_losses
from prunetime.models.mask_variables import block_sums
from prunetime.models.threads import training_on
from prunetime.pruning.importance import OF_GRADIENT, look_at
from prunetime.pruning.methods import Criterion


def measure_block_importance(
    model: SequenceClassifier,
    data: TrainingData,
    block_shape: BlockShape,
    criterion: Criterion = "fisher",
    rows: int = 512,
    seed: int = 0,
    *,
    threads: int = 1,
    on_progress: Progress | None = None,
) -> Scores:
    """Measures how much each block of the dense matrices of `model`, pruned or not, matters to the loss.

    The scores are as in `measure_importance`, by matrix [row blocks, column blocks]. The gradient of a mask variable is
    the sum of weight x dLoss/dweight over its block, for one sample at a time.
    """
    weights = [{name: linear.weight for name, linear in layer.items()} for layer in linears_of(model.layers)]
    if criterion == "magnitude":
        return _arrays(weights, lambda weight: block_sums(weight.square(), block_shape))
    totals = [
        {
            name: torch.zeros(block_grid((len(weight), len(weight.T)), *block_shape)).double()
            for name, weight in layer.items()
        }
        for layer in weights
    ]

    def add(batch: TrainingBatch) -> None:
        labels = batch.pop("labels")
        loss = task_losses(model(**batch).logits, labels, data.task).sum()
        gradients = iter(torch.autograd.grad(loss, [weight for layer in weights for weight in layer.values()]))
        for total, layer in zip(totals, weights, strict=True):
            for name, weight in layer.items():
                total[name] += OF_GRADIENT[criterion](block_sums(weight.detach() * next(gradients), block_shape))

    seen = 1
    if criterion != "movement":
        with training_on(threads):
            seen = look_at(model, data, (rows, seed, 1), add, on_progress)
    return _arrays(totals, lambda total: total / seen)


def _arrays(layers: Sequence[Mapping[str, Tensor]], of: Callable[[Tensor], Tensor]) -> Scores:
    return [{name: of(values.detach()).numpy() for name, values in layer.items()} for layer in layers]
