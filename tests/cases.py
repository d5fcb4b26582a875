"""Random encoders, weights and batches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np
from reference import Weights

from prunetime.core.arch import BLOCK_SHAPES, TILE, ArchSpec, Dims, KeptBlocks, LayerSpec, block_grid
from prunetime.core.blocks import to_blocks
from prunetime.core.config import FAMILIES, Activation, EncoderConfig, HeadLayer, Pooling, Rotary
from prunetime.core.mask import PARTS, Mask, rank
from prunetime.inference.ragged import Ragged


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
    head = fixed.get("head")
    outputs = dims.hidden if fixed.get("rows") == "embedding" else int(fixed.get("outputs", rng.integers(1, 4)))
    return EncoderConfig(
        family=family,
        dims=dims,
        embedding=int(fixed.get("embedding", dims.hidden)),
        token_types=int(fixed.get("token_types", 2)),
        layer_norm_eps=1e-12,
        outputs=head[-1].width if head else outputs,
        separator=fixed.get("separator"),
        rows=fixed.get("rows", "pooled"),
        pooling=fixed.get("pooling", "first"),
        rotary=ROTARY[: dims.layers] if FAMILIES[family].rotary else (),
        head=head,
        normalize=fixed.get("normalize", False),
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
    family, embedding, pooling = rng.choice(list(FAMILIES)), rng.choice([8, 24, 64]), rng.choice(POOLINGS)
    return family_fields(str(family), int(embedding)) | {"pooling": str(pooling)}


POOLINGS = ("first", "mean", "first", *get_args(Pooling))
"""All of them, the most usual ones more often."""


def random_head(rng: np.random.Generator) -> tuple[HeadLayer, ...]:
    """A few layers of a head, of any widths, that end with a dense layer or with LayerNorm."""
    kinds = rng.choice(["dense", "norm"], int(rng.integers(0, 4)))
    width, layers = int(rng.integers(1, 150)), []
    for kind in ("dense", *kinds):
        width = width if kind == "norm" else int(rng.integers(1, 150))
        activation = str(rng.choice(get_args(Activation))) if kind == "dense" else "identity"
        layers.append(HeadLayer(kind, width, activation, float(rng.choice([1e-5, 1e-2]))))
    return tuple(layers)


def random_spec(
    config: EncoderConfig, rng: np.random.Generator, blocks: bool = False, tokens: bool = False
) -> ArchSpec:
    """Any spec that fits: uneven layers, pruned output rows, and now and then a sub-layer that is gone.

    With `blocks` about half of the matrices are in blocks of any shape, none to all of them kept; with `tokens` about
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
        block_shape = BLOCK_SHAPES[rng.integers(len(BLOCK_SHAPES))]
        least = matrix == "key"  # without keys every token receives the same attention, and rounding would choose
        return KeptBlocks(
            matrix, *block_shape, int(rng.integers(least, math.prod(block_grid(shape, *block_shape)) + 1))
        )

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
    read = dims.hidden
    for name, head_layer in config.head_layers:
        if head_layer.kind == "dense":
            linear(name, head_layer.width, read)
        else:
            norm(name, head_layer.width)
        read = head_layer.width
    return weights


def fields_of(settings: Any) -> dict[str, Any]:
    """The fields of one of the engine's classes of settings (`ForwardConfig`), as its arguments."""
    return {name: getattr(settings, name) for name in vars(type(settings)) if not name.startswith("__")}


def changed(settings: Any, **fields: Any) -> Any:
    """The same settings with other values in some fields."""
    return type(settings)(**{**fields_of(settings), **fields})


def random_ragged(config: EncoderConfig, rng: np.random.Generator, lengths: Iterable[int]) -> Ragged:
    """Sequences of these lengths with random token ids and types."""
    ids: Sequence[list[int]] = [rng.integers(0, config.dims.vocabulary, length).tolist() for length in lengths]
    types = [np.sort(rng.integers(0, config.token_types, len(row))).tolist() for row in ids]
    return Ragged.of(ids, types)
