"""An auxiliary loss beside the loss that a `transformers.Trainer` computes: its gradient enters at the model's outputs.

`Trainer` may take the model's own loss, smooth labels, call a `compute_loss_func`, or be a subclass that has its own
`compute_loss`. All of them compute a loss from the outputs of the model, so a function on the outputs sees every
backward pass, whoever computed the loss.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers import TrainerState, TrainingArguments
from transformers.trainer_utils import has_length

from prunetime.errors import InputError


class AuxiliaryLoss:
    """Adds the gradient of an auxiliary loss to every backward pass through the outputs that it was added to.

    It is weighed as `Trainer` weighs a loss: the mean over a step's batches, times the scale of a gradient scaler.
    """

    def __init__(self) -> None:
        self._scaler: Any = None
        self._batches = 1
        self._passes = 0

    def begin(self, scaler: Any) -> None:
        """Begins a training, whose gradient scaler is `scaler` (None: it has none)."""
        self._scaler = scaler

    def begin_step(self, batches: int) -> None:
        """Begins a step that accumulates the gradients of so many batches."""
        self._batches, self._passes = batches, 0

    def check_step(self) -> None:
        """Raises InputError where the gradient of the step came from no output."""
        if not self._passes:
            raise InputError(
                "the loss of this training is not computed from the outputs of the model whose masks are learned, so "
                "that nothing can be added to it: compute it from logits or loss of what `model(**inputs)` returns"
            )

    def added_to(self, outputs: list[Tensor], auxiliary: Tensor, weight: float) -> tuple[Tensor, ...]:
        """Returns `outputs` unchanged; their gradients are weighed by `weight`, and bring along that of `auxiliary`."""
        added: tuple[Tensor, ...] = _Added.apply(self, weight, auxiliary, *outputs)  # type: ignore[no-untyped-call]  # torch has no type for it
        return added

    def gradient_of(self, auxiliary: Tensor) -> Tensor:
        """Counts a backward pass, and returns the gradient of `auxiliary` in it."""
        self._passes += 1
        scale = self._scaler.get_scale() if self._scaler is not None else 1.0
        return torch.full_like(auxiliary, scale / self._batches)


class _Added(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, owner: AuxiliaryLoss, weight: float, auxiliary: Tensor, *outputs: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.owner, ctx.weight = owner, weight
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(auxiliary.detach())
        return tuple(output.view_as(output) for output in outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        (auxiliary,) = ctx.saved_tensors
        weighed = (None if gradient is None else gradient * ctx.weight for gradient in gradients)
        return None, None, ctx.owner.gradient_of(auxiliary), *weighed


class GradientAccumulation:
    """Counts the batches that each step of a `Trainer` accumulates; the last step of an epoch may have fewer."""

    def __init__(self, arguments: TrainingArguments, state: TrainerState, batches: Any) -> None:
        """`batches` is the data loader. A training that is resumed skips the steps it has made of an epoch."""
        self._usual = arguments.gradient_accumulation_steps
        length = len(batches) if has_length(batches) else 0
        self._steps, self._last = -(-length // self._usual), length % self._usual or self._usual
        resumed = self._steps and not arguments.ignore_data_skip
        self._skipped = state.global_step % self._steps if resumed else 0
        self._done = 0

    def begin_epoch(self) -> None:
        self._done, self._skipped = self._skipped, 0

    def next_step(self) -> int:
        """Begins the next step, and returns how many batches it accumulates."""
        self._done += 1
        return self._last if self._done == self._steps else self._usual
