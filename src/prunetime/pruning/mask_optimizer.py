"""An AdamW for the scores and thresholds of masks, beside any optimizer of the weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from prunetime.pruning.masks import LearnedMasks


class MaskOptimizer(nn.Module):
    """An AdamW, with torch's defaults and no decay, for the scores and thresholds of `masks`.

    Its moments are buffers of a module, so that a checkpoint of the model holds them, and a training that is resumed
    goes on as it would have. `Trainer` makes its optimizer before a callback can tell it of another learning rate, and
    restores it before `on_train_begin`: so the masks have an optimizer of their own, whichever the weights have.
    """

    def __init__(self, masks: LearnedMasks) -> None:
        super().__init__()
        self._learned: list[Tensor] = list(masks.parameters())
        self._rate = masks.step.learning_rate
        for index, parameter in enumerate(self._learned):
            self.register_buffer(f"mean_{index}", torch.zeros_like(parameter))
            self.register_buffer(f"square_{index}", torch.zeros_like(parameter))
            self.register_buffer(f"steps_{index}", torch.zeros((), device=parameter.device))

    def _buffers_named(self, name: str) -> list[Tensor]:
        return [self.get_buffer(f"{name}_{index}") for index in range(len(self._learned))]

    def step(self, schedule: float) -> None:
        """Takes a step of `schedule` times the learning rate, and clears the gradients, so that no other optimizer uses
        them. It skips gradients that are not finite, as a scaler makes them that scales too far."""
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._learned]
        if all(bool(gradient.isfinite().all()) for gradient in gradients):
            with torch.no_grad():
                adamw(
                    self._learned,
                    gradients,
                    self._buffers_named("mean"),
                    self._buffers_named("square"),
                    [],
                    self._buffers_named("steps"),
                    amsgrad=False,
                    beta1=0.9,
                    beta2=0.999,
                    lr=schedule * self._rate,
                    weight_decay=0.0,
                    eps=1e-8,
                    maximize=False,
                )
        for parameter in self._learned:
            parameter.grad = None


def schedule_of(optimizer: torch.optim.Optimizer) -> float:
    """Returns the learning rate of an optimizer as a share of its first one; 1 without a rate."""
    group: dict[str, Any] = optimizer.param_groups[0]
    now, first = group.get("lr"), group.get("initial_lr", optimizer.defaults.get("lr"))
    return float(now) / float(first) if now is not None and first else 1.0
