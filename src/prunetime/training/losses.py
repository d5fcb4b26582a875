"""What training minimises: the task's loss, and how far a student is from its teacher."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from prunetime.task import Task
from prunetime.training.ranks import mean_over_ranks


def task_losses(logits: Tensor, labels: Tensor, task: Task) -> Tensor:
    """Loss of every row, [rows], of float32 `logits` [rows, outputs] or, of answers, [rows, tokens, outputs].

    Cross entropy of class indices; binary cross entropy of graded labels; squared error of floats; for `labels`
    [rows, 2] of answers the mean of the cross entropies of where they start and end, of all the row's tokens.
    """
    if task.kind == "question-answering":
        return functional.cross_entropy(logits, labels, reduction="none").mean(1)
    if task.kind == "classification":
        return functional.cross_entropy(logits, labels, reduction="none")
    if task.kind == "relevance":
        return functional.binary_cross_entropy_with_logits(logits[:, 0], labels, reduction="none")
    return functional.mse_loss(logits[:, 0], labels, reduction="none")


def mean_over_rows(losses: Tensor) -> Tensor:
    """The mean of `losses` [rows]; on several ranks, this one's part in the mean over the rows of all."""
    return losses.sum() / mean_over_ranks(losses.new_tensor(len(losses)))
