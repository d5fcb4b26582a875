"""Importance scores: how much each head and row, or each block of weights, matters to the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from torch import Tensor

from prunetime.core.arch import BlockShape, Dims, block_grid
from prunetime.core.arrays import Float64Array, Weights
from prunetime.core.artifact import write_bytes
from prunetime.core.mask import PARTS, Scores, part_widths
from prunetime.core.progress import Progress
from prunetime.errors import InputError
from prunetime.models.batches import TrainingBatch, TrainingData
from prunetime.models.encoder import SequenceClassifier, linears_of, weights_of
from prunetime.models.losses import drawn_labels, task_losses
from prunetime.models.mask_variables import block_sums, ones
from prunetime.models.threads import training_on
from prunetime.pruning.methods import Criterion

BATCH = 32

OF_GRADIENT: dict[Criterion, Callable[[Tensor], Tensor]] = {"fisher": torch.square, "taylor": torch.abs}
"""What is averaged over samples of the gradient of a mask variable, for criteria that read data."""


def measure_importance(
    model: SequenceClassifier,
    data: TrainingData,
    criterion: Criterion = "fisher",
    rows: int = 512,
    seed: int = 0,
    threads: int = 1,
    *,
    on_progress: Progress | None = None,
) -> Scores:
    """Measures how much each head and row matters, on `rows` rows drawn by `seed` (all where there are no more).

    `fisher`: the diagonal of the empirical Fisher information, the mean over samples of (dLoss/dm)^2 with the mask
    variable m of a part (Kwon et al., "A Fast Post-Training Pruning Framework for Transformers", arXiv 2204.09656).
    `taylor`: what taking a part away changes in the loss to first order, the mean of |dLoss/dm| (Michel et al., arXiv
    1905.10650, section 4.1). Without data, `magnitude`: the sum of squares of a part's weights (Han et al., arXiv
    1506.02626), and `movement`: nothing matters yet, so that learned masks go by how weights move alone (Sanh et al.,
    arXiv 2005.07683). `on_progress` gets (rows done, rows in all).

    Data without labels has those of `drawn_labels`: the diagonal of the Fisher information itself.
    """
    dims = model.config.dims
    if criterion == "magnitude":
        return _magnitudes(weights_of(model), dims)
    widths = part_widths(dims)
    scores: Scores = [{name: np.zeros(width) for name, width in widths.items()} for _ in range(dims.layers)]
    if criterion == "movement":
        return scores

    generator = torch.Generator().manual_seed(seed)

    def add(batch: TrainingBatch) -> None:
        labels = batch.pop("labels")
        variables = ones(dims, len(batch["input_ids"]))
        logits = model(**batch, mask_variables=variables).logits
        labels = labels if data.labelled else drawn_labels(logits, data.task, generator)
        losses = task_losses(logits, labels, data.task)
        gradients = iter(
            torch.autograd.grad(losses.sum(), [getattr(layer, name) for layer in variables for name in PARTS])
        )
        for layer in scores:
            for name in PARTS:
                layer[name] += OF_GRADIENT[criterion](next(gradients).double()).sum(0).numpy()

    with training_on(threads):
        seen = look_at(model, data, (rows, seed, BATCH), add, on_progress)
    return [{name: total / seen for name, total in layer.items()} for layer in scores]


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

    generator = torch.Generator().manual_seed(seed)

    def add(batch: TrainingBatch) -> None:
        labels, logits = batch.pop("labels"), model(**batch).logits
        labels = labels if data.labelled else drawn_labels(logits, data.task, generator)
        loss = task_losses(logits, labels, data.task).sum()
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


def look_at(
    model: SequenceClassifier,
    data: TrainingData,
    sample: tuple[int, int, int],
    each: Callable[[TrainingBatch], None],
    on_progress: Progress | None,
) -> int:
    """Calls `each` with batches of rows drawn from `data`, the model without dropout; returns how many rows they had.

    `sample` is (rows, seed, rows of a batch); all rows where there are no more. `on_progress` gets (rows done, of).
    """
    rows, seed, at_once = sample
    chosen = np.random.default_rng(seed).permutation(len(data))[:rows]
    chosen = chosen[np.argsort(data.lengths[chosen], kind="stable")]
    training = model.training
    model.eval()
    for start in range(0, len(chosen), at_once):
        each(data.batch(chosen[start : start + at_once]))
        if on_progress:
            on_progress(min(start + at_once, len(chosen)), len(chosen))
    model.train(training)
    return len(chosen)


def _magnitudes(weights: Weights, dims: Dims) -> Scores:
    def squares(layer: int, matrix: str, axis: int) -> Float64Array:
        weight: Float64Array = weights[f"layers.{layer}.{matrix}.weight"].astype(np.float64)
        return np.asarray(np.square(weight).sum(axis), np.float64)

    scores: Scores = []
    for layer in range(dims.layers):
        inner = sum(squares(layer, matrix, 1) for matrix in ("query", "key", "value"))
        inner = np.asarray(inner + squares(layer, "attention_output", 0))
        rows = squares(layer, "ffn_input", 1) + squares(layer, "ffn_output", 0)
        scores.append(
            {
                "heads": inner.reshape(dims.heads, dims.head_dim).sum(1),
                "attention_rows": squares(layer, "attention_output", 1),
                "ffn": rows + squares(layer, "ffn_gate", 1) if dims.gated else rows,
                "ffn_rows": squares(layer, "ffn_output", 1),
            }
        )
    return scores


def rank_transform(scores: Scores) -> Scores:
    """Replaces the scores of each part by their ranks, evenly from 0 (the lowest) to 1.

    Learned masks start from these, comparable with what training adds. Equal scores of a whole part become zeros.
    """
    return [{name: _rank_transform(values) for name, values in layer.items()} for layer in scores]


def _rank_transform(values: Float64Array) -> Float64Array:
    if values.min() == values.max():
        return np.zeros_like(values)
    order = values.ravel().argsort(kind="stable").argsort()
    return (order / max(1, values.size - 1)).reshape(values.shape)


def save_scores(scores: Scores, path: Path) -> None:
    """Writes `layers.{i}.{part}`, float64, as a safetensors file; raises InputError where it cannot be written."""
    write_bytes(path, save({f"layers.{i}.{name}": layer[name] for i, layer in enumerate(scores) for name in PARTS}))


def load_scores(path: Path, dims: Dims) -> Scores:
    """Raises InputError where the file is damaged or holds the scores of another encoder."""
    widths = part_widths(dims)
    expected = {f"layers.{i}.{name}": (width,) for i in range(dims.layers) for name, width in widths.items()}
    try:
        arrays = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot read importance scores ({error}); compute them again") from error
    if {name: array.shape for name, array in arrays.items()} != expected:
        raise InputError(f"{path} holds importance scores of another encoder; compute them again")
    return [{name: arrays[f"layers.{i}.{name}"] for name in PARTS} for i in range(dims.layers)]
