"""Rounds in torch what the engine rounds: the activations and weights that matrix products are of.

Gradients pass the rounding as if it were not there (the straight-through estimator; Bengio et al., arXiv 1308.3432).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from prunetime.core.precision import Precision
from prunetime.models.autograd import apply

LARGEST_BYTE = 127
LARGEST_UNSIGNED_BYTE = 255

SMALLEST_RANGE = 2.0**-100
"""The engine takes a row of a smaller range for zeros."""


def quantised_rows(x: Tensor, precision: Precision) -> Tensor:
    """Returns activations as a matrix of a precision reads them.

    Args:
        x: The activations [.., inputs]. Every row has, in int8, a scale and a zero point of its own, such that its
            range and zero are in the 256 numbers.
        precision: That of the matrix.

    Returns:
        Rounded float32 numbers in the shape of `x`; for fp32, `x` itself.
    """
    return _rounded(x, precision, _int8_rows)


def quantised_weight(weight: Tensor, precision: Precision) -> Tensor:
    """Returns a weight matrix as it is packed for a precision.

    Args:
        weight: The matrix [outputs, inputs]. Every output has, in int8, a scale of its own, by which its greatest
            magnitude is 127.
        precision: That of the matrix.

    Returns:
        Rounded float32 numbers in the shape of `weight`; for fp32, `weight` itself.
    """
    return _rounded(weight, precision, _int8_weight)


def _rounded(numbers: Tensor, precision: Precision, to_int8: Callable[[Tensor], Tensor]) -> Tensor:
    if precision == "fp32":
        return numbers
    rounding = _bf16 if precision == "bf16" else to_int8
    return apply(_StraightThrough, numbers, rounding)


class _StraightThrough(torch.autograd.Function):
    """Rounds on the way forward, and passes the gradient on as it is."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor, rounded: Callable[[Tensor], Tensor]) -> Tensor:
        return rounded(x.float())

    @staticmethod
    def backward(_ctx: Any, *gradients: Any) -> Any:
        return gradients[0], None


def _bf16(x: Tensor) -> Tensor:
    return x.bfloat16().float()


def _int8_rows(x: Tensor) -> Tensor:
    low, high = torch.aminmax(x, dim=-1, keepdim=True)
    low, high = low.clamp_(max=0.0), high.clamp_(min=0.0)
    scale, inverse = _scale_and_inverse(high - low, LARGEST_UNSIGNED_BYTE)
    zero = (-low * inverse).round_()
    steps = (x * inverse).round_()
    torch.minimum(steps, LARGEST_UNSIGNED_BYTE - zero, out=steps)  # the least number is rounded as the zero point is
    return steps.mul_(scale)


def _int8_weight(weight: Tensor) -> Tensor:
    low, high = torch.aminmax(weight, dim=-1, keepdim=True)
    scale, inverse = _scale_and_inverse(torch.maximum(high, -low), LARGEST_BYTE)
    return (weight * inverse).round_().mul_(scale)


def _scale_and_inverse(extent: Tensor, numbers: int) -> tuple[Tensor, Tensor]:
    """Returns what one step is, and what to multiply by to count steps, where `numbers` of them are `extent`."""
    tiny = extent < SMALLEST_RANGE
    return torch.where(tiny, 1.0, extent / numbers), torch.where(tiny, 0.0, numbers / extent)
