"""How to train: the settings of fine-tuning, distillation and elastic training."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch

from prunetime.core.precision import PrecisionPlan
from prunetime.errors import InputError
from prunetime.models.distill import Distillation
from prunetime.training.stopping import LearningCurve, Stopping

TrainingPrecision = Literal["fp32", "bf16"]
Device = Literal["cpu", "cuda"]


def best_device() -> Device:
    """Returns a GPU where torch finds one. Training there is faster but not repeatable to the byte."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def best_precision() -> TrainingPrecision:
    """Returns bf16 where it is multiplied in hardware (a GPU, AVX-512 BF16 or AMX), fp32 elsewhere."""
    if best_device() == "cuda":
        return "bf16"
    cpu = torch.cpu
    return "bf16" if cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported() else "fp32"


@dataclass(frozen=True)
class FakeQuantisation:
    """The end of a training, in which the trained model computes what the engine does with `plan`.

    It is the last `share` of the steps, or the cooldown of the learning rate where that is shorter.
    """

    plan: PrecisionPlan
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise InputError(f"the share of the steps that are fake-quantised is {self.share}: above 0, at most 1")


@dataclass(frozen=True)
class TrainingSettings:
    """The settings of a training. The learning rate rises over the `warmup` share of the steps, then falls to 0.

    With `stopping` the epochs are the most, the rate stays at its peak until valid rows say so, and it rises over no
    more steps than are between two looks at them. `threads` are those of the CPU. `checkpoint_steps` is the number of
    steps between checkpoints. Weight decay is that of AdamW and applies to matrices only, not to embeddings, biases and
    norms. `distillation` is from a teacher. `fake_quantisation` is of the trained model.
    """

    epochs: float
    batch_size: int = 32
    learning_rate: float = 5e-5
    warmup: float = 0.1
    weight_decay: float = 0.01
    seed: int = 0
    threads: int = 1
    precision: TrainingPrecision = "fp32"
    device: Device = "cpu"
    checkpoint_steps: int = 200
    distillation: Distillation = field(default_factory=Distillation)
    stopping: Stopping | None = None
    fake_quantisation: FakeQuantisation | None = None

    def __post_init__(self) -> None:
        if not self.epochs > 0 or self.batch_size < 1 or self.threads < 1 or self.checkpoint_steps < 1:
            raise InputError(f"{self}: epochs must be above 0; batch_size, threads and checkpoint_steps at least 1")
        if not self.learning_rate > 0 or not 0 <= self.warmup <= 1 or self.weight_decay < 0:
            raise InputError(f"{self}: learning_rate must be above 0, warmup in 0..1, weight_decay at least 0")
        if self.precision not in ("fp32", "bf16"):
            raise InputError(f"precision is {self.precision!r}: train in fp32 or bf16")

    def steps(self, rows: int) -> int:
        """Returns the number of optimizer steps on `rows` rows."""
        return math.ceil(self.epochs * math.ceil(rows / self.batch_size))

    def rising_steps(self, steps: int) -> int:
        """Returns the number of steps, of `steps` in all, in which the learning rate rises."""
        rising = math.ceil(self.warmup * steps)
        return min(rising, self.stopping.every) if self.stopping else rising

    def plan_at(self, step: int, curve: LearningCurve) -> PrecisionPlan:
        """Returns the precisions that the trained model computes a step in, once so many are done."""
        begin, end = curve.cooldown
        quantised = self.fake_quantisation
        if quantised is None or step < max(begin, (1.0 - quantised.share) * end):
            return PrecisionPlan()
        return quantised.plan
