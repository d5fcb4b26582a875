"""Rank consistency: how far a student orders the rows of a group otherwise than its teacher."""

from __future__ import annotations

import torch
from torch import Tensor

from prunetime.models.losses import all_gather_rows, over_all_ranks

TEMPERATURE = 4.0
"""Scores are divided by it, so that not only the first of a group counts."""


def order_distance(student: Tensor, teacher: Tensor, groups: Tensor) -> Tensor:
    """Returns temperature^2 x the mean over groups of KL(teacher || student), of the shares of a group's rows.

    Shares are the softened softmax of what rows are ordered by, over the rows of equal `groups` [rows], as ListNet
    compares scores and labels (Cao et al., ICML 2007). A group of one row does not count. On several ranks, groups are
    of the rows of all of them. `student` and `teacher` are logits [rows, 1] or [rows, 2].
    """
    student, teacher, groups = (all_gather_rows(each) for each in (_scores(student), _scores(teacher), groups))
    together = groups[:, None] == groups[None, :]
    log_student, log_teacher = (_log_shares(scores, together) for scores in (student, teacher))
    sizes = together.sum(1)
    count = ((sizes > 1) / sizes).sum().clamp(min=1.0)  # the groups of several rows
    divergence = (log_teacher.exp() * (log_teacher - log_student)).sum() / count
    return TEMPERATURE**2 * over_all_ranks(divergence)


def _scores(logits: Tensor) -> Tensor:
    """What rows are ordered by, [rows], softened: the logit, or the log odds of the second of two classes."""
    logits = logits.float() / TEMPERATURE
    return logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]


def _log_shares(scores: Tensor, together: Tensor) -> Tensor:
    """The logarithm of the softmax of `scores` [rows] over the rows that are `together` [rows, rows] with each."""
    return scores - torch.where(together, scores, -torch.inf).logsumexp(1)
