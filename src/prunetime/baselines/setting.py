"""The setting that a baseline is built for: one encoder, and batches of one shape."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from prunetime.core.arrays import Float32Array, Int64Array, Weights
from prunetime.core.config import EncoderConfig
from prunetime.inference.ragged import Ragged
from prunetime.latency.synthetic import random_batch

CHECKED = 32
"""Sequences, at least, whose logits are checked: two or three would make the largest error a matter of luck."""

CALIBRATED = 64
"""Sequences, at least, for engines that need to see activations before they quantise them."""

BatchShape = tuple[int, int]
"""Sequences of a batch, and tokens of each."""

LogitsCall = Callable[[], Float32Array]

Bind = Callable[[Ragged], LogitsCall]
"""Takes a batch of a shape that it knows; the call that it returns gives the logits, [sequences, outputs]."""


@dataclass(frozen=True)
class BenchmarkSetting:
    """An encoder of dense matrices, and the setting: `batch` sequences of `seq_len` tokens on `threads` threads."""

    config: EncoderConfig
    weights: Weights
    batch: int
    seq_len: int
    threads: int

    @property
    def shape(self) -> BatchShape:
        return self.batch, self.seq_len

    @property
    def checked(self) -> list[Ragged]:
        """Batches of random sequences whose logits are checked; the first of them is what is timed."""
        return self._batches[0]

    @property
    def calibration(self) -> list[Ragged]:
        """Batches of other random sequences."""
        return self._batches[1]

    @property
    def _batches(self) -> tuple[list[Ragged], list[Ragged]]:
        checked, others = (math.ceil(sequences / self.batch) for sequences in (CHECKED, CALIBRATED))
        drawn = random_batch(self.config, (checked + others) * self.batch, self.seq_len)
        batches = list(drawn.batches(self.batch * self.seq_len))
        return batches[:checked], batches[checked:]


def inputs_of(batch: Ragged) -> dict[str, Int64Array]:
    """The inputs of an exported encoder by name, [sequences, longest] each."""
    names = ("input_ids", "attention_mask", "token_type_ids")
    return {name: array.astype(np.int64) for name, array in zip(names, batch.padded(0), strict=True)}
