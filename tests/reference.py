"""The forward pass in float64 that everything else is compared with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from prunetime.core.arch import ArchSpec
from prunetime.core.config import FAMILIES, Activation, EncoderConfig, Pooling
from prunetime.inference.ragged import Ragged

Weights = dict[str, NDArray[Any]]
Doubles = NDArray[np.float64]

error_function = np.vectorize(math.erf, otypes=[np.float64])


def gelu(x: Doubles) -> Doubles:
    """x times the standard normal distribution function at x (the erf form of GELU)."""
    return np.asarray(0.5 * x * (1.0 + error_function(x / math.sqrt(2.0))), np.float64)


def layer_norm(x: Doubles, weight: NDArray[Any], bias: NDArray[Any], eps: float) -> Doubles:
    centred = x - x.mean(axis=-1, keepdims=True)
    deviation = np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + eps)
    return np.asarray(centred / deviation * weight.astype(np.float64) + bias.astype(np.float64), np.float64)


def softmax(x: Doubles) -> Doubles:
    exponentials = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True), np.float64)


def pooled(pooling: Pooling, rows: Doubles, skipped: int = 0) -> Doubles:
    """[hidden], of the rows [tokens, hidden] of a sequence but for the first `skipped`, as sentence-transformers'
    documentation of its poolings has it; without any row left, zeros, or for `first` the first row of all."""
    left = rows[skipped:]
    if not len(left):
        return rows[0] if pooling == "first" else np.zeros(rows.shape[1])
    weights = np.arange(1.0, len(rows) + 1)[skipped:]
    found = {
        "first": left[0],
        "lasttoken": left[-1],
        "mean": left.mean(axis=0),
        "max": left.max(axis=0),
        "mean_sqrt_len": left.sum(axis=0) / math.sqrt(len(left)),
        "weightedmean": weights @ left / weights.sum(),
    }
    return np.asarray(found[pooling], np.float64)


ACTIVATIONS: dict[Activation, Callable[[Doubles], Doubles]] = {
    "identity": lambda x: x,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0.0),
    "gelu": gelu,
}


class Reference(NamedTuple):
    """`logits` [rows, outputs] (or [tokens, outputs]); `kept[layer][row]`, the ascending indices of the tokens that the
    layer keeps of those of the sequence `row` that came into it; `received[layer][row]`, what they go by: the attention
    that each token received, infinite for the first one and for separators."""

    logits: Doubles
    kept: list[list[NDArray[np.int64]]]
    received: list[list[Doubles]]


Kept = Sequence[Sequence[Sequence[int] | NDArray[Any]]]


def multiply_exactly(_matrix: str, x: Doubles, w: Doubles) -> Doubles:
    return np.asarray(x @ w.T, np.float64)


def attend_exactly(
    _layer: str, q: Doubles, k: Doubles, v: Doubles, bias: Doubles | float = 0.0
) -> tuple[Doubles, Doubles]:
    probabilities = softmax(q @ k.T / math.sqrt(q.shape[1]) + bias)
    return probabilities @ v, probabilities.sum(axis=0)


class Arithmetic(NamedTuple):
    """How the reference computes: `multiply(matrix, x, w)` is x w^T; `attend(layer, q, k, v, bias)`, of one head of one
    sequence, what its queries read and what every key received."""

    multiply: Callable[[str, Doubles, Doubles], Doubles] = multiply_exactly
    attend: Callable[[str, Doubles, Doubles, Doubles, Doubles | float], tuple[Doubles, Doubles]] = attend_exactly


exactly = Arithmetic()


def reference_logits(
    config: EncoderConfig,
    weights: Mapping[str, NDArray[Any]],
    ragged: Ragged,
    spec: ArchSpec | None = None,
    kept: Kept | None = None,
    arithmetic: Arithmetic = exactly,
) -> Doubles:
    """The logits of `reference`."""
    return reference(config, weights, ragged, spec, kept, arithmetic).logits


def reference(
    config: EncoderConfig,
    weights: Mapping[str, NDArray[Any]],
    ragged: Ragged,
    spec: ArchSpec | None = None,
    kept: Kept | None = None,
    arithmetic: Arithmetic = exactly,
) -> Reference:
    """The encoder in float64 throughout. What `weights` lacks is gone; `spec` says how many tokens its layers keep.

    `kept`, as in `Reference`, chooses the tokens in place of the attention that they received.
    """
    w = dense_matrices(config, weights)
    family = FAMILIES[config.family]

    def linear(name: str, x: Doubles) -> Doubles:
        return np.asarray(arithmetic.multiply(name, x, w[f"{name}.weight"]) + w[f"{name}.bias"], np.float64)

    def norm(name: str, x: Doubles, eps: float = config.layer_norm_eps) -> Doubles:
        return layer_norm(x, w[f"{name}.weight"], w[f"{name}.bias"], eps)

    def before(name: str, x: Doubles) -> Doubles:
        """What a sub-layer reads; the first attention of an encoder whose norms come first has none."""
        return norm(name, x) if family.pre_norm and name != "layers.0.attention_norm" else x

    def after(name: str, x: Doubles) -> Doubles:
        return x if family.pre_norm else norm(name, x)

    def add_rows(x: Doubles, rows: NDArray[Any] | None, y: Doubles) -> Doubles:
        total = x.copy()
        total[:, slice(None) if rows is None else rows] += y
        return total

    def attention(index: int, x: Doubles) -> tuple[Doubles, Doubles]:
        """What the heads read, and the attention that each token received."""
        layer = f"layers.{index}"
        q, k, v = (linear(f"{layer}.{name}", x) for name in ("query", "key", "value"))
        size = config.dims.head_dim
        distances = np.abs(np.arange(len(x))[:, None] - np.arange(len(x)))
        heads = [slice(start, start + size) for start in range(0, q.shape[1], size)]
        parts = []
        for head, h in enumerate(heads):
            bias: Doubles | float = 0.0
            if family.relative_positions:
                bias = w[f"{layer}.position_bias"][head][distance_buckets(len(x))]
            q_head, k_head = q[:, h], k[:, h]
            if family.rotary:
                q_head, k_head = (turned(part, config.rotary[index].theta) for part in (q_head, k_head))
                bias = np.where(distances > (config.rotary[index].window or len(x)), -np.inf, 0.0)
            parts.append(arithmetic.attend(layer, q_head, k_head, v[:, h], bias))
        contexts, received = zip(*parts, strict=True)
        return np.concatenate(contexts, axis=1), np.sum(received, axis=0)

    logits: list[Doubles] = []
    chosen: list[list[NDArray[np.int64]]] = [[] for _ in range(config.dims.layers)]
    scores: list[list[Doubles]] = [[] for _ in range(config.dims.layers)]
    for row in range(len(ragged)):
        span = slice(int(ragged.offsets[row]), int(ragged.offsets[row + 1]))
        ids, types = ragged.ids[span], ragged.types[span]
        x = w["embeddings.word.weight"][ids]
        if not family.rotary:
            x = x + w["embeddings.position.weight"][positions_of(ids, family.position_offset)]
        if family.token_types:
            x = x + w["embeddings.token_type.weight"][types]
        x = norm("embeddings.norm", x)
        if config.projects:
            x = linear("embeddings.project", x)
        for index in range(config.dims.layers):
            layer, stay, score = f"layers.{index}", np.arange(len(x)), np.zeros(len(x))
            if f"{layer}.query.weight" in w:
                context, received = attention(index, before(f"{layer}.attention_norm", x))
                update = linear(f"{layer}.attention_output", context)
                x = after(f"{layer}.attention_norm", add_rows(x, weights.get(f"{layer}.attention_rows"), update))
                score = np.where(ids == config.separator, np.inf, received)
                score[0] = np.inf
                if spec is not None:
                    stay = most_attended(received, ids, spec.layers[index].tokens_kept(len(x)), config.separator)
            if kept is not None:
                stay = np.asarray(kept[index][row], np.int64)
            chosen[index].append(stay)
            scores[index].append(score)
            x, ids = x[stay], ids[stay]
            if f"{layer}.ffn_input.weight" in w:
                read = before(f"{layer}.ffn_norm", x)
                inner = gelu(linear(f"{layer}.ffn_input", read))
                if family.gated:
                    inner = inner * linear(f"{layer}.ffn_gate", read)
                update = linear(f"{layer}.ffn_output", inner)
                x = after(f"{layer}.ffn_norm", add_rows(x, weights.get(f"{layer}.ffn_rows"), update))
        x = before("final_norm", x)
        if not config.reads_every_token:
            skipped = 0 if ragged.skipped is None else int(ragged.skipped[row])
            x = pooled(config.pooling, x, skipped)[None]
        for name, head_layer in config.head_layers:
            if head_layer.kind == "dense":
                x = ACTIVATIONS[head_layer.activation](linear(name, x))
            else:
                x = norm(name, x, head_layer.eps)
        logits.append(x / max(float(np.linalg.norm(x)), 1e-12) if config.normalize else x)
    return Reference(np.concatenate([np.zeros((0, config.outputs)), *logits]), chosen, scores)


def turned(x: Doubles, theta: float) -> Doubles:
    """Queries or keys [tokens, head_dim] of one head at their positions (RoFormer, arXiv 2104.09864, section 3.4.2),
    with angles rounded as transformers rounds them."""
    half = x.shape[1] // 2
    slowing = np.float32(1.0 / theta ** (np.arange(half) / half))
    angle = (np.arange(len(x), dtype=np.float32)[:, None] * slowing).astype(np.float64)
    complex_numbers = (x[:, :half] + 1j * x[:, half:]) * np.exp(1j * angle)
    return np.concatenate((complex_numbers.real, complex_numbers.imag), axis=1)


def distance_buckets(length: int) -> NDArray[np.int64]:
    """[queries, keys]: in which of 32 buckets each distance falls, as T5 says it."""

    def bucket(distance: int) -> int:
        half, far = (16 if distance > 0 else 0), abs(distance)
        if far < 8:
            return half + far
        return half + min(15, 8 + math.floor(8 * math.log(far / 8) / math.log(128 / 8) + 1e-9))

    return np.array([[bucket(key - query) for key in range(length)] for query in range(length)], np.int64)


def most_attended(received: Doubles, ids: NDArray[Any], count: int, separator: int | None) -> NDArray[np.int64]:
    """Indices, ascending, of `count` tokens: the first of all, then separators, then by the attention received."""
    order = sorted(range(len(ids)), key=lambda i: (i != 0, ids[i] != separator, -received[i], i))
    return np.sort(np.array(order[:count], np.int64))


def dense_matrices(config: EncoderConfig, weights: Mapping[str, NDArray[Any]]) -> dict[str, Doubles]:
    """The arrays in float64, with every matrix that is stored in blocks written out."""
    dense = {name: array.astype(np.float64) for name, array in weights.items() if array.dtype != np.int32}
    for name in [name.removesuffix(".blocks") for name in weights if name.endswith(".blocks")]:
        blocks, (layer, _, matrix) = dense.pop(f"{name}.blocks"), name.rpartition(".")
        inputs = {"attention_output": f"{layer}.query.bias", "ffn_output": f"{layer}.ffn_input.bias"}
        columns = len(weights[inputs[matrix]]) if matrix in inputs else config.dims.hidden
        across = -(-columns // blocks.shape[2])
        padded = np.zeros((len(weights[f"{name}.bias"]) + blocks.shape[1], across * blocks.shape[2]))
        for block, index in zip(blocks, weights[f"{name}.block_index"].tolist(), strict=True):
            row, column = index // across * blocks.shape[1], index % across * blocks.shape[2]
            padded[row : row + blocks.shape[1], column : column + blocks.shape[2]] = block
        dense[f"{name}.weight"] = padded[: len(weights[f"{name}.bias"]), :columns]
    return dense


def positions_of(ids: np.ndarray, offset: int) -> np.ndarray:
    """Those of `create_position_ids_from_input_ids` of transformers (RoBERTa), where padding has a position."""
    counted = ids != offset - 1 if offset else np.ones(len(ids), bool)
    return np.where(counted, offset + np.cumsum(counted) - 1, offset - 1)
