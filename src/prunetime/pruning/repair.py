"""Repair of a pruned encoder: what its sub-layers still compute is made to stand in for what they no longer do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from prunetime.core.arch import ATTENTION_MATRICES, LayerSpec
from prunetime.errors import InputError
from prunetime.models.batches import TrainingBatch, TrainingData
from prunetime.models.encoder import SequenceClassifier
from prunetime.models.layers import EncoderLayer
from prunetime.models.threads import training_on
from prunetime.models.tokens import PADDING, kinds_of
from prunetime.pruning.least_squares import Moments

SUBLAYERS = ("attention", "ffn")

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Strengths of the ridge, as shares of the mean square of what a matrix reads."""

HELD_BACK = 4
"""Every fourth row chooses the strength, and whether a matrix is changed at all."""

BATCH = 32

TOKENS = 8_192
"""So many tokens are read: half or twice as many make MiniLM-L6 agree as well with its teacher."""

LEAST_ROWS = 256


@dataclass(frozen=True)
class Repaired:
    """One output matrix after a repair.

    Attributes:
        layer: The layer, from 0.
        sublayer: `attention` or `ffn`.
        ridge: The strength of the ridge, one of `RIDGES`; None where the matrix stayed as it was.
        error: What is left of the squared error on rows held back, as a share of that before.
    """

    layer: int
    sublayer: str
    ridge: float | None
    error: float


def repair(
    student: SequenceClassifier, dense: SequenceClassifier, data: TrainingData, seed: int = 0, threads: int = 1
) -> list[Repaired]:
    """Solves the output matrices of a pruned encoder again, for their sums with the residual to be the dense one's.

    Sub-layer by sub-layer, `attention_output` and `ffn_output` and their biases become the least-squares solution that
    brings the residual stream of `student`, with all that it lost before, nearest to the one of `dense`: the ridge
    draws to the weights that are there. It reads no labels. Kwon et al. (arXiv 2204.09656) and K-prune (arXiv
    2308.03449) tune a pruned encoder so, without training.

    Matrices in blocks stay as they are. A matrix is changed only where that makes the error smaller on rows that did
    not fit it.

    Args:
        student: The pruned encoder; its weights are changed.
        dense: The encoder that it was cut out of.
        data: The rows to draw from: about `TOKENS` tokens are read, drawn by `seed`.
        seed: Draws the rows.
        threads: The threads that torch computes with.

    Raises:
        InputError: `student` drops tokens, so that its residual stream has other rows than that of `dense`.
    """
    if any(layer.tokens < 1.0 for layer in student.spec.layers):
        raise InputError(f"a repair compares the tokens of two encoders, and {student.spec} drops tokens")
    found: list[Repaired] = []
    if not _can_stand_in(student):
        return found
    modes = [(model, model.training) for model in (student, dense)]
    with torch.no_grad(), training_on(threads):
        for model, _ in modes:
            model.eval()
        streams = [_Stream.of(student, dense, batch) for batch in batches_to_read(data, seed)]
        for index, (own, whole) in enumerate(zip(student.layers, dense.layers, strict=True)):
            for stream in streams:
                stream.advance_dense(whole)
            for sublayer in SUBLAYERS:
                output = getattr(own, f"{sublayer}_output", None)
                if isinstance(output, nn.Linear):
                    moments = [Moments.zeros(output.in_features, output.out_features) for _ in range(2)]
                    for stream in streams:
                        stream.add_to(moments, own, sublayer)
                    found.append(Repaired(index, sublayer, *_solve(output, *moments)))
            for stream in streams:
                stream.advance_student(own)
        for model, training in modes:
            model.train(training)
    return found


def _can_stand_in(student: SequenceClassifier) -> bool:
    """Whether something is left in the first sub-layer that lost something, or after it."""
    full = LayerSpec.full(student.config.dims)
    lost = False
    for layer in student.spec.layers:
        of_attention = layer.heads, layer.attention_rows, any(b.matrix in ATTENTION_MATRICES for b in layer.blocks)
        lost = lost or of_attention != (full.heads, full.attention_rows, False)
        if lost and layer.has_attention:
            return True
        lost = lost or (layer.ffn, layer.ffn_rows, bool(layer.blocks)) != (full.ffn, full.ffn_rows, False)
        if lost and layer.has_ffn:
            return True
    return False


def batches_to_read(data: TrainingData, seed: int) -> Iterator[TrainingBatch]:
    """Gives batches of about `TOKENS` tokens of `data`, drawn by `seed`."""
    rows = max(LEAST_ROWS, round(TOKENS / max(1.0, float(data.lengths.mean()))))
    chosen = np.random.default_rng(seed).permutation(len(data))[:rows]
    chosen = chosen[np.argsort(data.lengths[chosen], kind="stable")]
    for start in range(0, len(chosen), BATCH):
        yield data.batch(chosen[start : start + BATCH])


@dataclass
class _Stream:
    """The residual streams [rows, tokens, hidden] of both encoders for one batch, between two layers.

    `totals` are, of the layer that comes next, what the dense one's sub-layers leave of the residual before a LayerNorm
    that follows.
    """

    student: Tensor
    dense: Tensor
    kinds: Tensor
    totals: dict[str, Tensor]

    @classmethod
    def of(cls, student: SequenceClassifier, dense: SequenceClassifier, batch: TrainingBatch) -> _Stream:
        ids, types = batch["input_ids"], batch.get("token_type_ids")
        kinds = kinds_of(ids, batch["attention_mask"], dense.embeddings.separator)
        return cls(student.embeddings(ids, types), dense.embeddings(ids, types), kinds, {})

    def advance_dense(self, layer: EncoderLayer) -> None:
        with ExitStack() as stack:
            totals = {sublayer: stack.enter_context(_total(layer, sublayer)) for sublayer in SUBLAYERS}
            self.dense = layer(self.dense, self.kinds, None, None)[0]
        self.totals = {sublayer: seen[0] for sublayer, seen in totals.items()}

    def advance_student(self, layer: EncoderLayer) -> None:
        self.student = layer(self.student, self.kinds, None, None)[0]

    def add_to(self, moments: Sequence[Moments], layer: EncoderLayer, sublayer: str) -> None:
        """Adds what the output matrix of a sub-layer reads, and by how much its residual is off, to the moments of rows
        that fit (the first) and of rows held back."""
        output, kept = getattr(layer, f"{sublayer}_output"), getattr(layer, f"{sublayer}_rows")
        with _total(layer, sublayer) as total, seen_by(output.register_forward_pre_hook) as read:
            layer(self.student, self.kinds, None, None)
        off = self.totals[sublayer] - total[0]
        off = off if kept is None else off[..., kept.long()]
        real = self.kinds != PADDING
        held_back = torch.arange(len(real)) % HELD_BACK == HELD_BACK - 1
        for side, rows in zip(moments, (~held_back, held_back), strict=True):
            side.add(read[0][rows][real[rows]], off[rows][real[rows]])


@contextmanager
def seen_by(register: Any) -> Iterator[list[Tensor]]:
    """Within, a hook of a module, which `register` registers, adds the first tensor of the inputs or outputs."""
    seen: list[Tensor] = []

    def note(_: nn.Module, *seen_by_hook: Any) -> None:
        first = seen_by_hook[-1]
        seen.append(first[0] if isinstance(first, tuple) else first)

    handle: RemovableHandle = register(note)
    try:
        yield seen
    finally:
        handle.remove()


def _total(layer: EncoderLayer, sublayer: str) -> Any:
    """Sees the sum of a sub-layer and the residual, where it is the input of a LayerNorm or the layer's output."""
    if not layer.pre_norm and hasattr(layer, f"{sublayer}_norm"):
        return seen_by(getattr(layer, f"{sublayer}_norm").register_forward_pre_hook)
    if sublayer == "attention" and hasattr(layer, "ffn_norm"):
        return seen_by(layer.ffn_norm.register_forward_pre_hook)
    return seen_by(layer.register_forward_hook)


def _solve(output: nn.Linear, fitted: Moments, held_back: Moments) -> tuple[float | None, float]:
    """Changes a matrix and its bias; returns the ridge that was taken, and the share of the error that is left."""
    if not fitted.square or not held_back.square or not float(fitted.gram.diagonal()[1:].sum()):
        return None, 1.0
    errors = {ridge: held_back.error(fitted.solution(ridge)) / held_back.square for ridge in RIDGES}
    ridge = min(errors, key=errors.__getitem__)
    if errors[ridge] >= 1.0:
        return None, 1.0
    added = (fitted + held_back).solution(ridge).to(output.weight.dtype)
    output.weight.add_(added[1:].T)
    output.bias.add_(added[0])
    return ridge, errors[ridge]
