"""A head that starts from the frozen encoder: a linear model of what its last layer reads, in place of random weights.

Fine-tuning then begins at what the embeddings know already, and does not distort them to fit a random head (Kumar et
al., arXiv 2202.10054).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from prunetime.core.arrays import Float32Array
from prunetime.core.config import Activation
from prunetime.core.precision import PrecisionPlan
from prunetime.inference.engine import Engine
from prunetime.models.batches import TrainingData
from prunetime.models.encoder import SequenceClassifier, weights_of
from prunetime.training.linear import LINEAR_MODELS, STRENGTHS, fit_linear

ROWS = 6_000
"""The most rows that a head is fitted to: a linear layer learns little from more."""

TOKENS = 40_000
"""The most tokens of these rows where a row of features is one of a token."""

STRAIGHT: dict[Activation, tuple[float, float]] = {
    "identity": (1.0, 0.0),
    "tanh": (0.5, 0.0),
    "relu": (1.0, 4.0),
    "gelu": (1.0, 4.0),
}
"""Where activations are almost straight: rows with this deviation around this mean come out nearly as they went in."""


def start_head(model: SequenceClassifier, data: TrainingData, threads: int) -> bool:
    """Sets the head of `model`, in place, to a linear model of the features of its encoder, in one pass of the engine.

    A dense layer before the last one, which is as random as the last, passes its features on.

    Args:
        model: An encoder with a fresh head.
        data: The rows; up to `ROWS` of them are used.
        threads: The engine's.

    Returns:
        Whether tasks of this kind have such a start; without one nothing is changed.
    """
    task, config = data.task, model.config
    if task.kind not in LINEAR_MODELS or config.rows == "embedding":
        return False
    drawn = np.random.default_rng(0).permutation(len(data))[:ROWS]  # rows of a file may be in order of their labels
    if config.reads_every_token:
        drawn = drawn[: 1 + int(np.searchsorted(np.cumsum(data.lengths[drawn]), TOKENS))]
    data = data.select(drawn)
    rows = hidden_rows(model, data, threads)
    with torch.no_grad():
        pass_on(model, rows)
        features = model.head.before_last(torch.from_numpy(rows)).double().numpy()
    mean, deviation = features.mean(0), float(np.sqrt(features.var(0).mean()))
    found = fit_linear(task.kind, (features - mean) / deviation, data.labels, config.outputs, STRENGTHS)
    weight = found.weight / deviation
    last = model.get_submodule(config.head_layers[-1][0])
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight.copy_(torch.from_numpy(weight))
        last.bias.copy_(torch.from_numpy(found.bias - weight @ mean))
    return True


def hidden_rows(model: SequenceClassifier, data: TrainingData, threads: int) -> Float32Array:
    """Returns the rows [rows, hidden], in bf16, that the head of `model` reads: pooled ones, or those of all tokens."""
    config = model.config
    if config.reads_every_token:
        config = config.with_token_embeddings()
    else:
        config = replace(config, rows="embedding", outputs=config.dims.hidden, head=None, normalize=False)
    encoder = {name: array for name, array in weights_of(model).items() if not name.startswith("head.")}
    return Engine(config, encoder, threads, plan=PrecisionPlan.uniform("bf16")).logits(data.tokens)


def pass_on(model: SequenceClassifier, rows: Float32Array) -> None:
    """Sets a dense layer at the beginning of the family's own head to pass on `rows` [rows, hidden], scaled and shifted
    to where its activation is straight."""
    name, layer = model.config.head_layers[0]
    if name != "head.dense":
        return
    dense = model.get_submodule(name)
    assert isinstance(dense, nn.Linear)
    deviation, mean = STRAIGHT[layer.activation]
    scale = deviation / float(np.sqrt(rows.var(0).mean()))
    dense.weight.copy_(scale * torch.eye(layer.width))
    dense.bias.copy_(torch.from_numpy(mean - scale * rows.mean(0)))
