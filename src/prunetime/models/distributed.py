"""What several processes that train one model need of each other; torchrun starts them, and each is a rank."""

from __future__ import annotations

from collections.abc import Iterator

import torch.distributed as dist
from torch import Tensor
from torch.utils.data import Sampler


def all_reduce_mean(values: Tensor) -> Tensor:
    """Returns the mean of `values` over all ranks, without a gradient; `values` themselves where there is one process.

    Gradients are averaged over ranks. A rank that divides its sum by the mean over ranks of the counts, rather than by
    its own count, has its part in the mean over the rows of all ranks.
    """
    if not dist.is_initialized():
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


class DistributedBatchSampler(Sampler[list[int]]):
    """Splits every batch of a batch sampler over the ranks, and yields the part of this rank.

    Parts differ by at most one row. Rows are dealt out in turn, so that the parts of a batch that is sorted by length
    have rows of about the same lengths.
    """

    def __init__(self, batches: Sampler[list[int]], rank: int, world_size: int) -> None:
        self._batches = batches
        self._rank = rank
        self._world_size = world_size

    def __len__(self) -> int:
        return len(self._batches)  # type: ignore[arg-type]  # torch declares no length of samplers

    def __iter__(self) -> Iterator[list[int]]:
        return (rows[self._rank :: self._world_size] for rows in self._batches)
