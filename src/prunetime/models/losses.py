"""The losses of tasks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from prunetime.core.task import Task
from prunetime.core.task_kind import TaskKind
from prunetime.inference.tagging import NO_LABEL


def task_losses(logits: Tensor, labels: Tensor, task: Task) -> Tensor:
    """Returns the loss of every example, of float32 `logits` [rows, outputs] or, of tokens, [rows, tokens, outputs].

    Cross entropy of class indices; binary cross entropy of graded labels; squared error of floats; for `labels`
    [rows, 2] of answers the mean of the cross entropies of where they start and end, of all the row's tokens; for
    words' [rows, tokens] the mean over those with one; for pairs' [rows / 2] the squared error of two rows' cosine.
    """
    return LOSSES[task.kind](kept_of(logits, task), labels)


def _of_words(logits: Tensor, labels: Tensor) -> Tensor:
    losses = functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=NO_LABEL, reduction="none")
    return losses.sum(1) / (labels != NO_LABEL).sum(1).clamp(min=1)


def _of_cosines(embeddings: Tensor, labels: Tensor) -> Tensor:
    return (functional.cosine_similarity(embeddings[0::2], embeddings[1::2]) - labels).square()


LOSSES: dict[TaskKind, Callable[[Tensor, Tensor], Tensor]] = {
    "classification": partial(functional.cross_entropy, reduction="none"),
    "relevance": lambda logits, labels: functional.binary_cross_entropy_with_logits(
        logits[:, 0], labels, reduction="none"
    ),
    "regression": lambda logits, labels: functional.mse_loss(logits[:, 0], labels, reduction="none"),
    "question-answering": lambda logits, labels: functional.cross_entropy(logits, labels, reduction="none").mean(1),
    "token-classification": _of_words,
    "similarity": _of_cosines,
}
"""The loss of every example, from logits (what is kept of embeddings) and labels."""


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
