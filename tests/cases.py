"""Random encoders, weights and batches, and the forward pass in float64 that everything else is compared with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from prunetime.arch import GRAINS, TILE, ArchSpec, Dims, KeptBlocks, LayerSpec, block_grid
from prunetime.blocks import to_blocks
from prunetime.config import FAMILIES, EncoderConfig, Rotary
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

    def norm(name: str, x: Doubles) -> Doubles:
        return layer_norm(x, w[f"{name}.weight"], w[f"{name}.bias"], config.layer_norm_eps)

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
            x = x + w["embeddings.position.weight"][family.position_offset + np.arange(len(ids))]
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
        if config.rows != "tokens":
            x = x[:1] if config.pooling == "first" else x.mean(axis=0, keepdims=True)
        if config.rows == "embedding":
            logits.append(x)
            continue
        if config.rows == "pooled" or family.head_norm:
            x = HEAD_ACTIVATIONS[family.head_activation](linear("head.dense", x))
        if family.head_norm:
            x = norm("head.norm", x)
        logits.append(linear("head.output", x))
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


def random_config(rng: np.random.Generator, **fixed: Any) -> EncoderConfig:
    """A small encoder of random sizes, a BERT; `fixed` sets any of the fields of `Dims`, or of the config's own.

    Without `fixed`, sizes are whole tiles: 1-3 layers, 2-4 heads of 16 or 32, hidden = heads x head_dim.
    """
    family = fixed.get("family", "bert")
    heads = int(fixed.get("heads", rng.choice([2, 4])))
    head_dim = int(fixed.get("head_dim", rng.choice([16, 32])))
    dims = Dims(
        layers=int(fixed.get("layers", rng.integers(1, 4))),
        hidden=int(fixed.get("hidden", heads * head_dim)),
        heads=heads,
        head_dim=head_dim,
        ffn=int(fixed.get("ffn", TILE * rng.integers(2, 7))),
        vocabulary=int(fixed.get("vocabulary", rng.integers(20, 200))),
        positions=int(fixed.get("positions", 64 + FAMILIES[family].position_offset)),
        gated=FAMILIES[family].gated,
    )
    return EncoderConfig(
        family=family,
        dims=dims,
        embedding=int(fixed.get("embedding", dims.hidden)),
        token_types=int(fixed.get("token_types", 2)),
        layer_norm_eps=1e-12,
        outputs=dims.hidden if fixed.get("rows") == "embedding" else int(fixed.get("outputs", rng.integers(1, 4))),
        separator=fixed.get("separator"),
        rows=fixed.get("rows", "pooled"),
        pooling=fixed.get("pooling", "first"),
        rotary=ROTARY[: dims.layers] if FAMILIES[family].rotary else (),
    )


ROTARY = (Rotary(160_000.0), Rotary(10_000.0, 6), Rotary(10_000.0, 1), Rotary(160_000.0), Rotary(500.0, 100))
"""Layers that see all tokens, near ones, neighbours, and a window that is never too small."""


def family_fields(family: str, embedding: int = 24, pooling: str = "mean") -> dict[str, Any]:
    """What `random_config` takes for an encoder of the family; ELECTRA's embeddings are `embedding` wide, ModernBERT
    reads pooled rows by `pooling`."""
    fields: dict[str, Any] = {"family": family}
    if family == "modernbert":
        fields |= {"token_types": 1, "pooling": pooling}
    if family in ("roberta", "xlm-roberta", "camembert"):
        fields["token_types"] = 1
    return fields | ({"embedding": embedding} if family == "electra" else {})


def any_family(rng: np.random.Generator) -> dict[str, Any]:
    """Those of one of them."""
    family, embedding, pooling = rng.choice(list(FAMILIES)), rng.choice([8, 24, 64]), rng.choice(["first", "mean"])
    return family_fields(str(family), int(embedding)) | {"pooling": str(pooling)}


def random_spec(
    config: EncoderConfig, rng: np.random.Generator, blocks: bool = False, tokens: bool = False
) -> ArchSpec:
    """Any spec that fits: uneven layers, pruned output rows, and now and then a sub-layer that is gone.

    With `blocks` about half of the matrices are in blocks of any grain, none to all of them kept; with `tokens` about
    half of the layers that have attention drop some.
    """
    dims = config.dims

    def rows(limit: int, least: int) -> int:
        return int(rng.choice([*range(least, limit, TILE), limit]))

    spec = ArchSpec(
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
    return _with_blocks_and_tokens(spec, dims, rng, blocks, tokens)


def _with_blocks_and_tokens(
    spec: ArchSpec, dims: Dims, rng: np.random.Generator, blocks: bool, tokens: bool
) -> ArchSpec:
    def some_blocks(matrix: str, shape: tuple[int, int]) -> KeptBlocks:
        grain = GRAINS[rng.integers(len(GRAINS))]
        least = matrix == "key"  # without keys every token receives the same attention, and rounding would choose
        return KeptBlocks(matrix, *grain, int(rng.integers(least, math.prod(block_grid(shape, *grain)) + 1)))

    layers = []
    for layer in spec.layers:
        shapes = layer.matrix_shapes(dims).items() if blocks else ()
        kept = tuple(some_blocks(matrix, shape) for matrix, shape in shapes if rng.random() < 0.5)
        share = float(rng.uniform(0.05, 1.0)) if tokens and layer.has_attention and rng.random() < 0.5 else 1.0
        layers.append(replace(layer, blocks=kept, tokens=share))
    return ArchSpec(tuple(layers))


def random_mask(config: EncoderConfig, rng: np.random.Generator, blocks: bool = False, tokens: bool = False) -> Mask:
    """Any mask that fits, in the counts of `random_spec` except that output rows, too, may all be pruned."""
    dims, spec = config.dims, random_spec(config, rng)
    for index in range(config.dims.layers):
        if rng.random() < 0.1:
            spec = spec.with_layer(index, **{str(rng.choice(["attention_rows", "ffn_rows"])): 0})
    spec = _with_blocks_and_tokens(spec, dims, rng, blocks, tokens)
    widths: dict[str, Any] = dict(zip(PARTS, (dims.heads, dims.hidden, dims.ffn, dims.hidden), strict=True))
    scores = []
    for layer in spec.layers:
        grids = {block.matrix: block.grid(layer.matrix_shapes(dims)[block.matrix]) for block in layer.blocks}
        scores.append({name: rng.standard_normal(shape) for name, shape in (widths | grids).items()})
    return rank(scores, spec)


def random_weights(config: EncoderConfig, spec: ArchSpec, rng: np.random.Generator) -> Weights:
    """Weights of an encoder of `spec`, scaled so that activations stay of order one and no part is negligible.

    The kept blocks of a matrix are drawn uniformly, so that its rows of blocks are uneven.
    """
    dims = config.dims
    weights: Weights = {}

    def normal(name: str, shape: tuple[int, ...], scale: float) -> None:
        weights[name] = (rng.standard_normal(shape) * scale).astype(np.float32)

    def linear(name: str, outputs: int, inputs: int, gain: float = 1.0) -> None:
        normal(f"{name}.weight", (outputs, inputs), gain / math.sqrt(inputs))
        normal(f"{name}.bias", (outputs,), 0.2)

    def norm(name: str, width: int = dims.hidden) -> None:
        weights[f"{name}.weight"] = rng.uniform(0.5, 1.5, width).astype(np.float32)
        normal(f"{name}.bias", (width,), 0.2)

    def rows(name: str, kept: int) -> None:
        if kept < dims.hidden:
            weights[name] = np.sort(rng.choice(dims.hidden, kept, replace=False)).astype(np.int32)

    def in_blocks(name: str, kept: KeptBlocks) -> None:
        weight = weights.pop(f"{name}.weight")
        grid = kept.grid(weight.shape)
        chosen = np.zeros(math.prod(grid), np.bool_)
        chosen[rng.choice(len(chosen), kept.kept, replace=False)] = True
        blocks, block_index = to_blocks(weight, chosen.reshape(grid), kept.rows, kept.columns)
        louder = np.float32(math.sqrt(len(chosen) / max(kept.kept, 1)))
        weights[f"{name}.blocks"], weights[f"{name}.block_index"] = blocks * louder, block_index

    normal("embeddings.word.weight", (dims.vocabulary, config.embedding), 1.0)
    if not FAMILIES[config.family].rotary:
        normal("embeddings.position.weight", (dims.positions, config.embedding), 0.5)
    if FAMILIES[config.family].token_types:
        normal("embeddings.token_type.weight", (config.token_types, config.embedding), 0.5)
    norm("embeddings.norm", config.embedding)
    if config.projects:
        linear("embeddings.project", dims.hidden, config.embedding)
    gains = {"query": 1.5, "key": 1.5}
    for index, layer in enumerate(spec.layers):
        name = f"layers.{index}"
        for matrix, shape in layer.matrix_shapes(dims).items():
            linear(f"{name}.{matrix}", *shape, gain=gains.get(matrix, 1.0))
            if matrix == "query" and FAMILIES[config.family].relative_positions:
                normal(f"{name}.position_bias", (layer.heads, 32), 1.0)
            kept_blocks = layer.blocks_of(matrix)
            if kept_blocks:
                in_blocks(f"{name}.{matrix}", kept_blocks)
            if matrix == "attention_output":
                if config.has_norm(index, "attention_norm"):
                    norm(f"{name}.attention_norm")
                rows(f"{name}.attention_rows", layer.attention_rows)
            if matrix == "ffn_output":
                norm(f"{name}.ffn_norm")
                rows(f"{name}.ffn_rows", layer.ffn_rows)
    if FAMILIES[config.family].pre_norm:
        norm("final_norm")
    if config.has_dense:
        linear("head.dense", dims.hidden, dims.hidden)
    if config.has_head_norm:
        norm("head.norm")
    if config.rows != "embedding":
        linear("head.output", config.outputs, dims.hidden)
    return weights


def random_ragged(config: EncoderConfig, rng: np.random.Generator, lengths: Iterable[int]) -> Ragged:
    """Sequences of these lengths with random token ids and types."""
    ids: Sequence[list[int]] = [rng.integers(0, config.dims.vocabulary, length).tolist() for length in lengths]
    types = [np.sort(rng.integers(0, config.token_types, len(row))).tolist() for row in ids]
    return Ragged.of(ids, types)
