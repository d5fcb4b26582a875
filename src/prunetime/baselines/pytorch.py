"""PyTorch, eager."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from prunetime.baselines.setting import BenchmarkSetting, Bind, LogitsCall, inputs_of
from prunetime.core.arch import ArchSpec
from prunetime.inference.ragged import Ragged
from prunetime.models.encoder import from_weights

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def precisions() -> tuple[str, ...]:
    return tuple(DTYPES)


def prepare(setting: BenchmarkSetting, precision: str, spec: ArchSpec | None = None) -> Bind:
    """The encoder in torch, dropping tokens where `spec` says so. Threads are set for the whole process."""
    torch.set_num_threads(setting.threads)
    return binding(from_weights(setting.config, setting.weights, spec=spec).eval().to(DTYPES[precision]))


def binding(encoder: Callable[..., Any]) -> Bind:
    """Batches for `encoder`, which is called as `SequenceClassifier` is."""

    def bind(batch: Ragged) -> LogitsCall:
        inputs = tuple(torch.from_numpy(array) for array in inputs_of(batch).values())
        return torch.inference_mode()(lambda: encoder(*inputs).logits.float().numpy())

    return bind
