"""The losses of tasks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from prunetime.core.task import Task
from prunetime.core.task_kind import TaskKind
from prunetime.inference.tagging import NO_LABEL


def task_losses(logits: Tensor, labels: Tensor, task: Task) -> Tensor:
    """Returns the loss of every example, of float32 `logits` [rows, outputs] or, of tokens, [rows, tokens, outputs].

    Cross entropy of class indices; binary cross entropy of graded labels, and of labels [rows, outputs] that are 0 or 1
    its mean over outputs, as in transformers; squared error of floats; for `labels` [rows, 2] of answers the mean of
    the cross entropies of where they start and end, of all the row's tokens; for words' [rows, tokens] the mean over
    those with one; for pairs' [rows / 2] the squared error of two rows' cosine.
    """
    return LOSSES[task.kind](kept_of(logits, task), labels)


def _of_words(logits: Tensor, labels: Tensor) -> Tensor:
    losses = functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=NO_LABEL, reduction="none")
    return losses.sum(1) / (labels != NO_LABEL).sum(1).clamp(min=1)


def _of_cosines(embeddings: Tensor, labels: Tensor) -> Tensor:
    return (cosines_of_pairs(embeddings) - labels).square()


def cosines_of_pairs(embeddings: Tensor) -> Tensor:
    """Returns the cosines [pairs] of `embeddings` [2 x pairs, width], of which every two are a pair."""
    return functional.cosine_similarity(embeddings[0::2], embeddings[1::2])


LOSSES: dict[TaskKind, Callable[[Tensor, Tensor], Tensor]] = {
    "classification": partial(functional.cross_entropy, reduction="none"),
    "multi-label-classification": lambda logits, labels: functional.binary_cross_entropy_with_logits(
        logits, labels, reduction="none"
    ).mean(1),
    "relevance": lambda logits, labels: functional.binary_cross_entropy_with_logits(
        logits[:, 0], labels, reduction="none"
    ),
    "regression": lambda logits, labels: functional.mse_loss(logits[:, 0], labels, reduction="none"),
    "question-answering": lambda logits, labels: functional.cross_entropy(logits, labels, reduction="none").mean(1),
    "token-classification": _of_words,
    "similarity": _of_cosines,
}
"""The loss of every example, from logits (what is kept of embeddings) and labels."""


def drawn_labels(logits: Tensor, task: Task, generator: torch.Generator) -> Tensor:
    """Draws a label of every example from what the model itself says: a class by its softmax, good or bad by the
    sigmoid, a number with an error of 1. Of `logits` as in `task_losses`, for tasks of pooled rows and embeddings.

    The gradients of losses of such labels make the Fisher information (Kunstner et al., arXiv 1905.12558, section 2);
    with the model's scores themselves as labels they would be 0.
    """
    logits = kept_of(logits.detach().float(), task)
    if task.traits.score == "softmax":
        return torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    if task.traits.score == "sigmoid":
        drawn = torch.bernoulli(logits.sigmoid(), generator=generator)
        return drawn if task.traits.is_multi_label else drawn[:, 0]
    numbers = cosines_of_pairs(logits) if task.traits.reads_apart else logits[:, 0]
    return numbers + torch.randn(len(numbers), generator=generator)


def kept_of(embeddings: Tensor, task: Task) -> Tensor:
    """The numbers that the task keeps of `embeddings` [rows, width]; logits of other tasks as they are."""
    return embeddings[:, : task.embedding.truncate_dim] if task.traits.reads_apart else embeddings


def mean_over_rows(losses: Tensor) -> Tensor:
    """Returns the mean of `losses` [rows]; on several ranks, this rank's part in the mean over the rows of all."""
    return losses.sum() / all_reduce_mean(losses.new_tensor(len(losses)))


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


def all_gather_rows(values: Tensor) -> Tensor:
    """Returns `values` [rows] of all ranks, this rank's with their gradient; `values` where there is one process.

    A loss of them has this rank's part of the gradient only, and DDP divides it by the number of ranks: see
    `over_all_ranks`.
    """
    if not dist.is_initialized():
        return values
    counts = [torch.zeros((), dtype=torch.int64, device=values.device) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor(len(values), device=values.device))
    longest = int(max(counts))
    padded = values.detach().new_zeros(longest)
    padded[: len(values)] = values.detach()
    gathered = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(gathered, padded)
    parts = [part[: int(count)] for part, count in zip(gathered, counts, strict=True)]
    parts[dist.get_rank()] = values
    return torch.cat(parts)


def over_all_ranks(loss: Tensor) -> Tensor:
    """Returns a loss of rows of `all_gather_rows` as it is, and its gradient times the number of ranks."""
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    return ranks * loss - (ranks - 1) * loss.detach()
