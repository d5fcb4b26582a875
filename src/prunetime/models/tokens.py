"""Dropping tokens in torch: which tokens of a padded batch a layer keeps.

Tokens are ranked by constraint-aware token pruning's score (arXiv 2306.14393): the attention that a token received,
summed over the heads and over the queries of its own sequence.
"""

from __future__ import annotations

import torch
from torch import Tensor

from prunetime.core.arch import tokens_kept

PADDING, WORD, SEPARATOR, FIRST = -1, 0, 1, 2
"""Kinds of token: a token of a greater kind stays before one of a smaller, whatever attention they received."""


def kinds_of(input_ids: Tensor, attention_mask: Tensor, separator: int | None) -> Tensor:
    """Returns the kind of each token of `input_ids` [batch, tokens]; where `attention_mask` is 0 there is padding."""
    kinds = torch.full_like(input_ids, WORD)
    if separator is not None:
        kinds = kinds.masked_fill(input_ids == separator, SEPARATOR)
    kinds[:, 0] = FIRST
    return kinds.masked_fill(attention_mask == 0, PADDING)


def most_attended(received: Tensor, kinds: Tensor, share: float) -> Tensor:
    """Returns the indices [batch, most kept], int64 and ascending, of the tokens that stay; -1 after the last.

    Of each sequence `share` of its tokens (see `tokens_kept`): by kind, then by the attention `received`
    [batch, tokens], then the lower index. There are as many columns as a sequence without padding would keep, so that a
    GPU need not be asked for the longest.
    """
    length = kinds.shape[1]
    counts = (share * (kinds != PADDING).sum(1).double()).ceil().clamp(min=1)  # `tokens_kept` of every sequence
    most = tokens_kept(share, length)
    order = received.argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, kinds.gather(1, order).argsort(dim=1, descending=True, stable=True))[:, :most]
    beyond = torch.arange(most, device=order.device) >= counts[:, None]
    kept = order.masked_fill(beyond, length).sort(dim=1).values
    return kept.masked_fill(kept == length, -1)


def take(x: Tensor, kept: Tensor) -> Tensor:
    """Returns the tokens `kept` of `x` [batch, tokens, hidden]; any token where `kept` is -1."""
    return x.gather(1, kept.clamp(min=0).unsqueeze(-1).expand(-1, -1, x.shape[2]))
