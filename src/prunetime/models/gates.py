"""Multipliers on the heads and rows of an unpruned encoder: a mask while training, or what gradients are taken of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prunetime.arch import Dims
from prunetime.mask import PARTS, Mask
from prunetime.models.compact import heads_and_rows_only


@dataclass(frozen=True)
class LayerGates:
    """Multipliers of one layer, each [n] or [batch, n], the same for every token.

    `heads` [.., heads] multiplies each head's context, `attention_rows` [.., hidden] the attention output after its
    bias, `ffn` [.., ffn] the activated FFN rows, `ffn_rows` [.., hidden] the FFN output after its bias. Where all
    heads (or all rows) of a sub-layer are exactly zero, the sub-layer is gone: its input passes on unchanged, and
    the gradient of its gates is zero.
    """

    heads: Tensor
    attention_rows: Tensor
    ffn: Tensor
    ffn_rows: Tensor


def from_mask(mask: Mask) -> list[LayerGates]:
    """One for what `mask` keeps and zero for the rest; raises InputError where it prunes blocks or tokens."""
    heads_and_rows_only(mask.spec())
    return [
        LayerGates(**{name: torch.from_numpy(getattr(layer, name).astype("float32")) for name in PARTS})
        for layer in mask.layers
    ]


def ones(dims: Dims, batch: int | None = None, requires_grad: bool = True) -> list[LayerGates]:
    """Gates that change nothing, [n], or [batch, n] for the gradient of each sample's loss with respect to them."""
    widths = dict(zip(PARTS, (dims.heads, dims.hidden, dims.ffn, dims.hidden), strict=True))
    rows = () if batch is None else (batch,)
    return [
        LayerGates(**{name: torch.ones(*rows, width, requires_grad=requires_grad) for name, width in widths.items()})
        for _ in range(dims.layers)
    ]


def over_tokens(gate: Tensor) -> Tensor:
    """`gate` [n] or [batch, n] as a multiplier of [batch, tokens, n]."""
    return gate.unsqueeze(-2)


def where_alive(inner: Tensor, rows: Tensor, changed: Tensor, unchanged: Tensor) -> Tensor:
    """`changed` [batch, tokens, hidden] where some of the gates `inner` and some of `rows` are not zero."""
    alive = (inner != 0).any(-1) & (rows != 0).any(-1)
    return torch.where(alive[..., None, None], changed, unchanged)
