"""Several processes that train one model together, as torchrun starts them; each is a rank."""

from __future__ import annotations

from collections.abc import Iterator

import torch.distributed as dist
from torch import Tensor
from torch.utils.data import Sampler


def mean_over_ranks(values: Tensor) -> Tensor:
    """The mean over the ranks of what each of them has, without a gradient; `values` where this process is alone.

    Gradients are averaged over ranks. A rank that divides its sum by the mean over ranks of the counts, rather than by
    its own count, has its part in the mean over the rows of all ranks.
    """
    if not dist.is_initialized():
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


class Share(Sampler[list[int]]):
    """Of every batch, the rows of this rank: as many as the others', or one less; and as long, in a batch by length."""

    def __init__(self, batches: Sampler[list[int]], rank: int, ranks: int) -> None:
        self._batches = batches
        self._rank = rank
        self._ranks = ranks

    def __len__(self) -> int:
        return len(self._batches)  # type: ignore[arg-type]  # torch declares no length of samplers

    def __iter__(self) -> Iterator[list[int]]:
        return (rows[self._rank :: self._ranks] for rows in self._batches)
