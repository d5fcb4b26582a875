"""Random encoders, weights and batches, and the forward pass in float64 that everything else is compared with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunetime.arch import TILE, ArchSpec, Dims, LayerSpec
from prunetime.config import FAMILIES, EncoderConfig
from prunetime.mask import PARTS, Mask, rank
from prunetime.runtime.ragged import Ragged

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


HEAD_ACTIVATIONS: dict[str, Callable[[Doubles], Doubles]] = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0.0),
    "gelu": gelu,
}


def reference_logits(config: EncoderConfig, weights: Mapping[str, NDArray[Any]], ragged: Ragged) -> Doubles:
    """Logits [rows, outputs] of the encoder, in float64 throughout. What `weights` lacks is gone."""
    w = {name: array.astype(np.float64) for name, array in weights.items() if not name.endswith("_rows")}
    family = FAMILIES[config.family]

    def linear(name: str, x: Doubles) -> Doubles:
        return np.asarray(x @ w[f"{name}.weight"].T + w[f"{name}.bias"], np.float64)

    def norm(name: str, x: Doubles) -> Doubles:
        return layer_norm(x, w[f"{name}.weight"], w[f"{name}.bias"], config.layer_norm_eps)

    def add_rows(x: Doubles, rows: NDArray[Any] | None, y: Doubles) -> Doubles:
        total = x.copy()
        total[:, slice(None) if rows is None else rows] += y
        return total

    def attention(layer: str, x: Doubles) -> Doubles:
        q, k, v = (linear(f"{layer}.{name}", x) for name in ("query", "key", "value"))
        size = config.dims.head_dim
        heads = [slice(start, start + size) for start in range(0, q.shape[1], size)]
        probabilities = [softmax(q[:, h] @ k[:, h].T / math.sqrt(size)) for h in heads]
        return np.concatenate([p @ v[:, h] for p, h in zip(probabilities, heads, strict=True)], axis=1)

    logits = []
    for row in range(len(ragged)):
        span = slice(int(ragged.offsets[row]), int(ragged.offsets[row + 1]))
        ids, types = ragged.ids[span], ragged.types[span]
        x = w["embeddings.word.weight"][ids]
        x = x + w["embeddings.position.weight"][family.position_offset + np.arange(len(ids))]
        if family.token_types:
            x = x + w["embeddings.token_type.weight"][types]
        x = norm("embeddings.norm", x)
        for index in range(config.dims.layers):
            layer = f"layers.{index}"
            if f"{layer}.query.weight" in w:
                update = linear(f"{layer}.attention_output", attention(layer, x))
                x = norm(f"{layer}.attention_norm", add_rows(x, weights.get(f"{layer}.attention_rows"), update))
            if f"{layer}.ffn_input.weight" in w:
                update = linear(f"{layer}.ffn_output", gelu(linear(f"{layer}.ffn_input", x)))
                x = norm(f"{layer}.ffn_norm", add_rows(x, weights.get(f"{layer}.ffn_rows"), update))
        hidden = HEAD_ACTIVATIONS[family.head_activation](linear("head.dense", x[:1]))
        logits.append(linear("head.output", hidden)[0])
    return np.array(logits, np.float64).reshape(len(ragged), config.outputs)


def random_config(rng: np.random.Generator, **fixed: Any) -> EncoderConfig:
    """A small BERT of random sizes; `fixed` sets any of the fields of `Dims`, `token_types` or `outputs`.

    Without `fixed`, sizes are whole tiles: 1-3 layers, 2-4 heads of 16 or 32, hidden = heads x head_dim.
    """
    heads = int(fixed.get("heads", rng.choice([2, 4])))
    head_dim = int(fixed.get("head_dim", rng.choice([16, 32])))
    dims = Dims(
        layers=int(fixed.get("layers", rng.integers(1, 4))),
        hidden=int(fixed.get("hidden", heads * head_dim)),
        heads=heads,
        head_dim=head_dim,
        ffn=int(fixed.get("ffn", TILE * rng.integers(2, 7))),
        vocabulary=int(fixed.get("vocabulary", rng.integers(20, 200))),
        positions=int(fixed.get("positions", 64)),
    )
    return EncoderConfig(
        family="bert",
        dims=dims,
        embedding=dims.hidden,
        token_types=int(fixed.get("token_types", 2)),
        layer_norm_eps=1e-12,
        outputs=int(fixed.get("outputs", rng.integers(1, 4))),
    )


def random_spec(config: EncoderConfig, rng: np.random.Generator) -> ArchSpec:
    """Any spec that fits: uneven layers, pruned output rows, and now and then a sub-layer that is gone."""
    dims = config.dims

    def rows(limit: int, least: int) -> int:
        return int(rng.choice([*range(least, limit, TILE), limit]))

    return ArchSpec(
        tuple(
            LayerSpec(
                heads=int(rng.integers(0, dims.heads + 1)),
                attention_rows=rows(dims.hidden, TILE),
                ffn=rows(dims.ffn, 0),
                ffn_rows=rows(dims.hidden, TILE),
            )
            for _ in range(dims.layers)
        )
    )


def random_mask(config: EncoderConfig, rng: np.random.Generator) -> Mask:
    """Any mask that fits, in the counts of `random_spec` except that output rows, too, may all be pruned."""
    spec = random_spec(config, rng)
    for index in range(config.dims.layers):
        if rng.random() < 0.1:
            spec = spec.with_layer(index, **{str(rng.choice(["attention_rows", "ffn_rows"])): 0})
    widths = dict(zip(PARTS, (config.dims.heads, config.dims.hidden, config.dims.ffn, config.dims.hidden), strict=True))
    scores = [{name: rng.standard_normal(width) for name, width in widths.items()} for _ in spec.layers]
    return rank(scores, spec)


def random_weights(config: EncoderConfig, spec: ArchSpec, rng: np.random.Generator) -> Weights:
    """Weights of an encoder of `spec`, scaled so that activations stay of order one and no part is negligible."""
    dims = config.dims
    weights: Weights = {}

    def normal(name: str, shape: tuple[int, ...], scale: float) -> None:
        weights[name] = (rng.standard_normal(shape) * scale).astype(np.float32)

    def linear(name: str, outputs: int, inputs: int, gain: float = 1.0) -> None:
        normal(f"{name}.weight", (outputs, inputs), gain / math.sqrt(inputs))
        normal(f"{name}.bias", (outputs,), 0.2)

    def norm(name: str) -> None:
        weights[f"{name}.weight"] = rng.uniform(0.5, 1.5, dims.hidden).astype(np.float32)
        normal(f"{name}.bias", (dims.hidden,), 0.2)

    def rows(name: str, kept: int) -> None:
        if kept < dims.hidden:
            weights[name] = np.sort(rng.choice(dims.hidden, kept, replace=False)).astype(np.int32)

    normal("embeddings.word.weight", (dims.vocabulary, config.embedding), 1.0)
    normal("embeddings.position.weight", (dims.positions, config.embedding), 0.5)
    if FAMILIES[config.family].token_types:
        normal("embeddings.token_type.weight", (config.token_types, config.embedding), 0.5)
    norm("embeddings.norm")
    for index, layer in enumerate(spec.layers):
        name = f"layers.{index}"
        inner = layer.heads * dims.head_dim
        if layer.has_attention:
            linear(f"{name}.query", inner, dims.hidden, gain=1.5)
            linear(f"{name}.key", inner, dims.hidden, gain=1.5)
            linear(f"{name}.value", inner, dims.hidden)
            linear(f"{name}.attention_output", layer.attention_rows, inner)
            norm(f"{name}.attention_norm")
            rows(f"{name}.attention_rows", layer.attention_rows)
        if layer.has_ffn:
            linear(f"{name}.ffn_input", layer.ffn, dims.hidden)
            linear(f"{name}.ffn_output", layer.ffn_rows, layer.ffn)
            norm(f"{name}.ffn_norm")
            rows(f"{name}.ffn_rows", layer.ffn_rows)
    linear("head.dense", dims.hidden, dims.hidden)
    linear("head.output", config.outputs, dims.hidden)
    return weights


def random_ragged(config: EncoderConfig, rng: np.random.Generator, lengths: Iterable[int]) -> Ragged:
    """Sequences of these lengths with random token ids and types."""
    ids: Sequence[list[int]] = [rng.integers(0, config.dims.vocabulary, length).tolist() for length in lengths]
    types = [np.sort(rng.integers(0, config.token_types, len(row))).tolist() for row in ids]
    return Ragged.of(ids, types)
