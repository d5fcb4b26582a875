"""How far float32 may be from exact: bounds derived from the arithmetic, and checks that hold results to them.

u = 2^-24 is the relative error of one rounding. A chain of k roundings is off by at most gamma(k) = k u / (1 - k u)
times the sum of the absolute values of what is added (Higham, Accuracy and Stability of Numerical Algorithms, 2002,
lemma 3.1 and section 3.1); that holds for any order of summation and with or without fused multiply-add. Numbers below
2^-126 are flushed to zero: that adds at most `TINY` an operation.

Each `check_*` takes a kernel as a function of arrays and raises AssertionError where it leaves its bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from reference import gelu

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

U = 2.0**-24
TINY = 2.0**-126
GELU_ERROR = 2e-6
"""The absolute error that the engine promises for GELU on [-20, 20]."""
EXP_ERROR = 4 * U
"""Relative error of the engine's 2^x: the reduction to |r| <= 1/2 and the scaling are exact; the fit of the polynomial
1 + r q(r) is within 1.9 u, its last step rounds once, and q, off by 1.4 u, counts r q(r) / 2^r <= 0.5 times."""

NARROW_EXP_ERROR = 1.2e-4
"""Relative error of the exp whose results are rounded to bf16: that of its fit."""


def gamma(k: int) -> float:
    return k * U / (1 - k * U)


def check_gemm(multiply: Callable[[Floats, Floats, Floats], Floats], x: Floats, w: Floats, bias: Floats) -> None:
    """multiply(x [m, k], w [n, k], bias [n]) is x w^T + bias: each output is a chain of k products and k additions."""
    inner = x.shape[1]
    x64, w64, b64 = (a.astype(np.float64) for a in (x, w, bias))
    bound = gamma(inner + 1) * (np.abs(x64) @ np.abs(w64).T + np.abs(b64)) + 2 * (inner + 1) * TINY
    assert_within(multiply(x, w, bias), x64 @ w64.T + b64, bound)


def to_bf16(x: NDArray[Any]) -> Doubles:
    """float32 numbers rounded to bf16, ties to even; denormals become zeros."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)
    return np.where(np.abs(x) < TINY, 0.0, rounded).astype(np.float64)


def int8_scales(w: Floats) -> Floats:
    """Scales [n, 1] of the bytes of weights [n, k]: the greatest magnitude of an output is 127."""
    largest = np.abs(w).max(axis=1, keepdims=True, initial=0.0)
    return np.where(largest < 2.0**-100, np.float32(1), largest / np.float32(127))


def to_int8_weights(w: Floats, scales: Floats | None = None) -> Doubles:
    """What the bytes of weights [n, k] stand for, with the scales [n, 1] of their rows or with given ones."""
    scales = int8_scales(w) if scales is None else scales
    largest = scales * np.float32(127)
    inverse = np.where(
        np.abs(w).max(axis=1, keepdims=True, initial=0.0) < 2.0**-100, np.float32(0), np.float32(127) / largest
    )
    return np.rint(w * inverse).astype(np.float64) * scales.astype(np.float64)


def to_int8_rows(x: Doubles) -> Doubles:
    """What rows [m, k] as bytes stand for: each its own scale and zero point, 0 and all numbers of it in 0..255."""
    low, high = np.minimum(x.min(axis=1, keepdims=True), 0.0), np.maximum(x.max(axis=1, keepdims=True), 0.0)
    scale = np.where(high > low, (high - low) / 255.0, 1.0)
    zero = np.rint(-low / scale)
    return np.asarray((np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale, np.float64)


def check_narrow_gemm(result: Floats, x: Doubles, w: Doubles, bias: Floats, precision: str) -> None:
    """`result` is x w^T + bias of numbers that are already rounded, x [m, k] and w [n, k].

    bf16: products of two bf16 are exact in float32, and every addition rounds once: a chain of k + 1 at most. int8: the
    sum of the products of bytes is exact; its conversion, the product of the two scales, and the last multiplication
    and addition round: four times. One more for `x`, which is given as rounded products of scale and byte.
    """
    exact = x @ w.T + bias
    magnitude = np.abs(x) @ np.abs(w).T
    roundings = x.shape[1] + 1 if precision == "bf16" else 5
    bound = gamma(roundings) * (magnitude + np.abs(bias)) + 2 * (x.shape[1] + 1) * TINY
    assert_within(result, exact, bound)


def check_gelu(activate: Callable[[Floats], Floats], x: Floats) -> None:
    assert_within(activate(x), gelu(x.astype(np.float64)), np.full(x.shape, GELU_ERROR))


def check_tanh(activate: Callable[[Floats], Floats], x: Floats) -> None:
    """(1 - e) / (1 + e) with e = exp(-2 |x|) in (0, 1].

    Its derivative in e is -2 / (1 + e)^2, so an error of `EXP_ERROR` e moves it by at most EXP_ERROR / 2, and the two
    roundings of -2 |x| / ln 2, of which e is the power of 2, by at most 0.9 u. Its own three roundings are of numbers
    of at most 1, 2 and 1, relative to a result of at most 1.
    """
    assert_within(activate(x), np.tanh(x.astype(np.float64)), np.full(x.shape, EXP_ERROR / 2 + U + gamma(3)))


def check_attention(attend: Callable[[Floats, Floats, Floats], Floats], q: Floats, k: Floats, v: Floats) -> None:
    """attend(q, k, v), each [length, d], is softmax(q k^T / sqrt(d)) v.

    A score is a sum of d products. How far it is below the greatest is rounded by that subtraction, by the four steps
    to log2(e) / sqrt(d) and by multiplying with it, before it enters 2^x: weight j is off by a factor of at most
    exp(delta_j) (1 + EXP_ERROR). The numerator and the denominator are chains of `length`; the reciprocal and the
    product add two roundings. Weights below 2^-126 are set to 0: off by at most 2e-38 each.
    """
    exact, weights, factor = _attention(q, k, v, EXP_ERROR)
    length = len(q)
    relative = factor**2 * (1 + gamma(2 * length + 4)) - 1
    bound = relative * (weights @ np.abs(v.astype(np.float64))) + 2e-38 * length * np.abs(v).max() + 2 * length * TINY
    assert_within(attend(q, k, v), exact, bound)


def _attention(q: Floats, k: Floats, v: Floats, exp_error: float) -> tuple[Doubles, Doubles, Doubles]:
    """Exact context and weights, and the factor that an unnormalised weight of every query may be off by."""
    d = q.shape[1]
    q64, k64, v64 = (a.astype(np.float64) for a in (q, k, v))
    scores = q64 @ k64.T / math.sqrt(d)
    below = scores - scores.max(axis=1, keepdims=True)
    weights = np.exp(below)
    weights /= weights.sum(axis=1, keepdims=True)
    magnitude = np.abs(q64) @ np.abs(k64).T / math.sqrt(d)
    delta = (gamma(d) * magnitude + gamma(6) * np.abs(below)).max(axis=1, keepdims=True)
    delta += gamma(d) * magnitude.max(axis=1, keepdims=True)  # of the greatest, which is subtracted
    return weights @ v64, weights, np.exp(delta) * (1 + exp_error)


def check_narrow_attention(result: Floats, q: Floats, k: Floats, v: Floats) -> None:
    """As `check_attention`, of numbers that are bf16 already: weights are off by `NARROW_EXP_ERROR`, and are rounded to
    bf16, by at most 2^-8 of themselves, where they multiply values."""
    exact, weights, factor = _attention(q, k, v, NARROW_EXP_ERROR)
    length = len(q)
    relative = factor**2 * (1 + 2.0**-8) * (1 + gamma(2 * length + 4)) - 1
    bound = relative * (weights @ np.abs(v.astype(np.float64))) + 2e-38 * length * np.abs(v).max() + 2 * length * TINY
    assert_within(result, exact, bound)


def check_layer_norm(result: Floats, summands: list[Floats], weight: Floats, bias: Floats, eps: float) -> None:
    """`result` is the LayerNorm of the sum of `summands` (each [tokens, n]), in any order of summation.

    The sum t of s summands is off by gamma(s - 1), the mean by gamma(n + 1) of mean |t| on top, and so on through
    c = t - mean, the variance (a chain of n fused squares, and the division), and 1 / sqrt(variance + eps), which is
    monotone: its error is the larger of those at both ends of the interval that the variance lies in.
    """
    n = result.shape[1]
    exact = [s.astype(np.float64) for s in summands]
    t = np.sum(exact, axis=0)
    t_error = gamma(len(exact)) * np.sum(np.abs(exact), axis=0)
    mean = t.mean(axis=1, keepdims=True)
    mean_error = (t_error + gamma(n + 1) * (np.abs(t) + t_error)).mean(axis=1, keepdims=True)
    c = t - mean
    c_error = t_error + mean_error
    c_error += U * (np.abs(c) + c_error)
    variance = (c * c).mean(axis=1, keepdims=True)
    spread = (2 * np.abs(c) * c_error + c_error**2).mean(axis=1, keepdims=True)
    spread += gamma(n + 4) * (variance + spread + eps)
    scale = 1 / np.sqrt(variance + eps)
    low = 1 / np.sqrt(variance + spread + eps)
    high = 1 / np.sqrt(np.maximum(variance + eps - spread, eps * 0.5))
    scale_error = np.maximum(scale - low, high - scale) + gamma(2) * high
    w64, b64 = weight.astype(np.float64), bias.astype(np.float64)
    product = np.abs(c) * scale_error + c_error * (scale + scale_error)
    bound = np.abs(w64) * product + gamma(3) * (np.abs(w64) * (np.abs(c) * scale + product) + np.abs(b64)) + 8 * TINY
    assert_within(result, c * scale * w64 + b64, bound)


def assert_within(result: Floats, exact: Doubles, bound: Doubles) -> None:
    """Every number is within its bound; names the worst one."""
    assert result.dtype == np.float32
    assert result.shape == exact.shape
    excess = np.abs(result - exact) / bound
    worst = np.unravel_index(np.nanargmax(np.where(np.isnan(excess), np.inf, excess)), excess.shape)
    assert excess[worst] <= 1.0, (
        f"at {tuple(map(int, worst))}: {result[worst]!r}, exactly {exact[worst]!r}; off by {excess[worst]:.3g} times "
        f"the bound of {bound[worst]:.3g}"
    )
