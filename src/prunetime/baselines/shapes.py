"""Encoders by the name of their shape, with weights drawn like BERT's: what is timed where no trained model is at hand.

mini, minilm, base               dense
base@blocks=0.2                  20 % of the 32x32 blocks kept, drawn uniformly in every matrix of the encoder
base@blocks=0.2:32x16            in blocks of another shape
minilm@heads=0.5,ffn=0.5         half the heads and half the FFN neurons of every layer
"""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np

from prunetime.core.arch import TILE, ArchSpec, BlockShape, Dims, KeptBlocks, LayerSpec, block_grid
from prunetime.core.arrays import Array
from prunetime.core.artifact import weight_shapes
from prunetime.core.blocks import put_in_blocks
from prunetime.core.config import EncoderConfig
from prunetime.errors import InputError

SIZES = {"mini": (4, 256, 4, 1024), "minilm": (6, 384, 12, 1536), "base": (12, 768, 12, 3072)}
"""Layers, hidden, heads, FFN neurons."""

VOCABULARY, POSITIONS, OUTPUTS = 30_522, 512, 2
BLOCK_SHAPE = (32, 32)

_BLOCKS = re.compile(r"([0-9.]+)(?::([0-9]+)x([0-9]+))?")


def encoder(name: str, seed: int = 0) -> tuple[EncoderConfig, ArchSpec, dict[str, Array]]:
    """Config, spec and weights of the shape `name`; a matrix in blocks has `.blocks` and `.block_index`.

    Raises InputError where a share is not above 0 and at most 1, or a word of the name is unknown.
    """
    base, at, kept = name.partition("@")
    layers, hidden, heads, ffn = SIZES[base]
    dims = Dims(layers, hidden, heads, hidden // heads, ffn, VOCABULARY, POSITIONS)
    config = EncoderConfig("bert", dims, hidden, token_types=2, layer_norm_eps=1e-12, outputs=OUTPUTS)
    options = dict(part.partition("=")[::2] for part in kept.split(",")) if at else {}
    if unknown := options.keys() - {"blocks", "heads", "ffn"}:
        raise InputError(
            f"{name}: unknown {sorted(unknown)[0]!r}; a shape is one of {', '.join(SIZES)}, then nothing, "
            "@blocks=0.2, @blocks=0.2:32x16 or @heads=0.5,ffn=0.5"
        )
    rng = np.random.default_rng(seed)
    layer = replace(
        LayerSpec.full(dims),
        heads=max(1, round(_share(name, options.get("heads", "1")) * heads)),
        ffn=TILE * max(1, round(_share(name, options.get("ffn", "1")) * ffn / TILE)),
    )
    spec = ArchSpec((layer,) * layers)
    weights = bert_like(config, spec, rng)
    if "blocks" not in options:
        return config, spec, weights
    match = _BLOCKS.fullmatch(options["blocks"])
    if match is None:
        raise InputError(
            f"{name}: blocks={options['blocks']} is no share and block shape; write blocks=0.2 or 0.2:32x16"
        )
    block_shape = (int(match[2]), int(match[3])) if match[2] else BLOCK_SHAPE
    blocks = tuple(
        _draw_blocks(weights, matrix, layers, block_shape, _share(name, match[1]), rng)
        for matrix in layer.matrix_shapes(dims)
    )
    return config, ArchSpec((replace(layer, blocks=blocks),) * layers), weights


def bert_like(config: EncoderConfig, spec: ArchSpec, rng: np.random.Generator) -> dict[str, Array]:
    """Weights of the size that trained BERTs have: activations, attention scores and logits are of order one.

    Matrices have deviation 1 / sqrt(inputs) (0.036 at 768 inputs; the trained ones of bert-base have 0.04), which
    leaves the variance of what passes through as it is; embeddings, biases and LayerNorms are about those of bert-base.
    The output layer is wide enough for logits of random sequences to have a deviation of about one, as those of trained
    classifiers have: an error in a logit says how much of what the logits vary by is lost.
    """
    weights: dict[str, Array] = {}
    for name, shape in weight_shapes(config, spec).items():
        if name.endswith("norm.weight"):
            array: Array = rng.uniform(0.7, 1.1, shape)
        elif name.endswith("bias"):
            array = rng.normal(0.0, 0.02, shape)
        elif name.startswith("embeddings."):
            array = rng.normal(0.0, 0.05 if "word" in name else 0.02, shape)
        else:
            array = rng.normal(0.0, 1.0 / math.sqrt(shape[1]), shape)
        weights[name] = array.astype(np.float32)
    weights["head.output.weight"] *= np.float32(4.0)
    return weights


def _draw_blocks(
    weights: dict[str, Array], matrix: str, layers: int, block_shape: BlockShape, share: float, rng: np.random.Generator
) -> KeptBlocks:
    """Puts `matrix` of every layer in blocks, and scales what is kept so that its output varies as before."""
    kept = 0
    for index in range(layers):
        name = f"layers.{index}.{matrix}"
        grid = block_grid(weights[f"{name}.weight"].shape, *block_shape)
        kept = max(1, round(share * math.prod(grid)))
        chosen = np.zeros(math.prod(grid), np.bool_)
        chosen[rng.choice(len(chosen), kept, replace=False)] = True
        weights[f"{name}.weight"] = weights[f"{name}.weight"] * np.float32(math.sqrt(len(chosen) / kept))
        put_in_blocks(weights, name, chosen.reshape(grid), *block_shape)
    return KeptBlocks(matrix, *block_shape, kept)


def _share(name: str, text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0.0 < share <= 1.0:
        raise InputError(f"{name}: the share {text!r} must be above 0 and at most 1")
    return share
