"""Torch settings for training on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def training_on(threads: int) -> Iterator[None]:
    """Within, torch computes with `threads` threads, and attention with plain matrix products.

    On a CPU the backward pass of the fused attention is slower than that of the products it fuses: MiniLM-L6 without
    dropout trains 1.4 times as fast with them, on sequences of 20 tokens in bf16.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.set_num_threads(before)
