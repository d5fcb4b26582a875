"""Distillation: how far a student's logits, hidden states and attention scores are from its teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from prunetime.core.task_kind import Choice
from prunetime.errors import InputError
from prunetime.models.autograd import apply
from prunetime.models.encoder import Output
from prunetime.models.losses import all_reduce_mean, mean_over_rows
from prunetime.models.rank_consistency import order_distance
from prunetime.models.tokens import take


@dataclass(frozen=True)
class Distillation:
    """The weights of the terms of the distilled loss: task + logits + hidden states + attention scores, as in MLPruning
    (arXiv 2105.14636).

    `logits` weighs the divergence at `temperature` (Hinton et al., arXiv 1503.02531), `hidden` the squared error of
    the hidden states after the embeddings and after each layer, and `attention` that of what the softmax of each layer
    is of (TinyBERT, arXiv 1909.10351); the last is off by default: it wants a student with all heads of its teacher.
    `order` weighs the distance between the orders of a group's rows (`order_distance`; None: without).
    """

    task: float = 1.0
    logits: float = 1.0
    hidden: float = 1.0
    attention: float = 0.0
    temperature: float = 2.0
    order: float | None = None

    def __post_init__(self) -> None:
        if min(self.task, self.logits, self.hidden, self.attention, self.order or 0.0) < 0 or self.temperature <= 0:
            raise InputError(f"{self}: weights must be at least 0 and the temperature above 0")


def distilled_loss(
    task_loss: Tensor,
    student: Output,
    teacher: Output,
    tokens: Tensor,
    weights: Distillation,
    *,
    heads: Sequence[Tensor | None] | None = None,
    choice: Choice = "outputs",
    groups: Tensor | None = None,
) -> Tensor:
    """Returns the weighted sum of the loss terms for one batch, a scalar; `tokens` [rows, tokens] is 0 for padding.

    `heads` (a mask [heads] for each layer, None for all) are those whose attention scores count; `groups` [rows] are
    what rows are ordered within.
    """
    loss = weights.task * task_loss
    if weights.logits:
        logits = student.logits, teacher.logits
        loss = loss + weights.logits * logits_distance(*logits, weights.temperature, tokens, choice)
    if weights.hidden:
        states, kept = (student.hidden_states, teacher.hidden_states), student.kept
        loss = loss + weights.hidden * hidden_distance(*states, tokens, kept)
    if weights.attention:
        scores = student.attention_scores, teacher.attention_scores
        loss = loss + weights.attention * attention_distance(*scores, tokens, heads)
    if weights.order and groups is not None:
        loss = loss + weights.order * order_distance(student.logits, teacher.logits, groups)
    return loss


def logits_distance(
    student: Tensor, teacher: Tensor, temperature: float, tokens: Tensor | None = None, choice: Choice = "outputs"
) -> Tensor:
    """Returns temperature^2 x KL(teacher || student) of the softened choices; the mean squared error of a single logit;
    of embeddings 1 - cosine.

    Where every output is a choice between yes and no, it is the mean over outputs. Of logits [rows, tokens, outputs]:
    the mean over the outputs' choices of a token, or over the choices of an output
    by the `tokens` [rows, tokens] that are no padding.
    """
    student, teacher = student.float(), teacher.float()
    if choice == "embedding":
        return mean_over_rows(1.0 - functional.cosine_similarity(student, teacher))
    if student.shape[1] == 1 and student.dim() == 2:
        return mean_over_rows((student - teacher)[:, 0].square())
    if choice == "yes-no":  # whose log odds are the logit
        student, teacher = (torch.stack((torch.zeros_like(logits), logits), dim=-1) for logits in (student, teacher))
    among = 1 if choice == "tokens" else -1
    log_student = functional.log_softmax(student / temperature, dim=among)
    log_teacher = functional.log_softmax(teacher / temperature, dim=among)
    divergence = functional.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(among)
    if tokens is not None and student.dim() == 3 and choice == "outputs":
        divergence = (divergence * tokens).sum(1) / tokens.sum(1)
    return temperature**2 * mean_over_rows(divergence.flatten())


def hidden_distance(
    student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], tokens: Tensor, kept: tuple[Tensor | None, ...] = ()
) -> Tensor:
    """Returns the mean over layers of |student - teacher|^2 / |teacher|^2, both summed over the student's tokens.

    So it is of the same scale in every layer and model. `kept` is the student's `Output.kept`.
    """
    present, at, distances, sizes = tokens, None, [], []
    for s, t, left in zip(student, teacher, (None, *(kept or (None,) * (len(student) - 1))), strict=True):
        if left is not None:
            own = left.clamp(min=0)
            at = own if at is None else at.gather(1, own)
            present = present.gather(1, own) * (left >= 0)
        expected = t if at is None else take(t, at)
        distances.append(apply(_Difference, s, expected, present))
        sizes.append(_squares(expected * present.unsqueeze(-1).to(expected.dtype)))
    return (torch.stack(distances) / all_reduce_mean(torch.stack(sizes))).mean()


class _Difference(torch.autograd.Function):
    """The sum of the squares of `s` - `t` [rows, tokens, hidden] over the tokens that are `present` [rows, tokens], in
    a few passes over memory; the gradient is of `s` alone."""

    @staticmethod
    def forward(ctx: Any, s: Tensor, t: Tensor, present: Tensor) -> Tensor:
        difference = s - t
        difference.mul_(present.unsqueeze(-1).to(difference.dtype))
        ctx.dtype = s.dtype
        ctx.save_for_backward(difference)
        return _squares(difference)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (difference,) = ctx.saved_tensors
        return (difference * (2.0 * gradients[0])).to(ctx.dtype), None, None


def _squares(x: Tensor) -> Tensor:
    """Returns the sum of squares, at least in float32."""
    norm: Tensor = torch.linalg.vector_norm(x, dtype=torch.promote_types(x.dtype, torch.float32))
    return norm.square()


def attention_distance(
    student: Sequence[Tensor | None],
    teacher: Sequence[Tensor | None],
    tokens: Tensor,
    heads: Sequence[Tensor | None] | None = None,
) -> Tensor:
    """Returns the mean over layers of |student - teacher|^2 / |teacher|^2 of attention scores [rows, heads, tokens,
    tokens], both summed over pairs of tokens and over `heads`; a layer without attention counts as equal.

    Raises InputError where student and teacher have not the same number of heads.
    """
    pairs = tokens[:, None, :, None] * tokens[:, None, None, :]
    distances, sizes = [], []
    for s, t, kept in zip(student, teacher, heads or (None,) * len(student), strict=True):
        if s is None or t is None:
            continue
        if s.shape != t.shape:
            raise InputError(f"attention scores {tuple(s.shape)} cannot be distilled from {tuple(t.shape)}")
        weights = pairs if kept is None else pairs * kept.detach()[:, None, None]
        distances.append(((s - t).float().square() * weights).sum())
        sizes.append((t.float().square() * weights).sum())
    if not distances:
        return tokens.new_zeros((), dtype=torch.float32)
    there = all_reduce_mean(torch.stack(sizes)).clamp(min=torch.finfo(torch.float32).tiny)  # 0 where no head counts
    return (torch.stack(distances) / there).sum() / len(student)
