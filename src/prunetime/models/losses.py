"""What training minimises: the task's loss, and how far a student is from its teacher."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from prunetime.core.task import Task
from prunetime.inference.tagging import NO_LABEL
from prunetime.models.distributed import all_reduce_mean


def task_losses(logits: Tensor, labels: Tensor, task: Task) -> Tensor:
    """Loss of every example, of float32 `logits` [rows, outputs] or, of tokens, [rows, tokens, outputs].

    Cross entropy of class indices; binary cross entropy of graded labels; squared error of floats; for `labels`
    [rows, 2] of answers the mean of the cross entropies of where they start and end, of all the row's tokens; for
    those of words [rows, tokens] the mean over the words that have one; for those of pairs [rows / 2] the squared error
    of the cosine of every two rows.
    """
    if task.kind == "token-classification":
        of_words = functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=NO_LABEL, reduction="none")
        return of_words.sum(1) / (labels != NO_LABEL).sum(1).clamp(min=1)
    if task.kind == "similarity":
        kept = kept_of(logits, task)
        return (functional.cosine_similarity(kept[0::2], kept[1::2]) - labels).square()
    if task.kind == "question-answering":
        return functional.cross_entropy(logits, labels, reduction="none").mean(1)
    if task.kind == "classification":
        return functional.cross_entropy(logits, labels, reduction="none")
    if task.kind == "relevance":
        return functional.binary_cross_entropy_with_logits(logits[:, 0], labels, reduction="none")
    return functional.mse_loss(logits[:, 0], labels, reduction="none")


def kept_of(embeddings: Tensor, task: Task) -> Tensor:
    """The numbers that the task keeps of `embeddings` [rows, width]."""
    return embeddings[:, : task.embedding.truncate_dim]


def mean_over_rows(losses: Tensor) -> Tensor:
    """The mean of `losses` [rows]; on several ranks, this one's part in the mean over the rows of all."""
    return losses.sum() / all_reduce_mean(losses.new_tensor(len(losses)))
