"""Sub-networks of one encoder that share its weights: the first heads and rows of every layer, as many as a spec says,
and of matrices in blocks those of the largest norm.

Once `compact.ordered` has put what matters most first, the prefixes are the best sub-networks of their sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from prunetime.core.arch import ArchSpec, KeptBlocks, LayerSpec
from prunetime.core.blocks import block_norms
from prunetime.core.config import EncoderConfig
from prunetime.core.mask import largest_blocks
from prunetime.errors import InputError
from prunetime.models.encoder import Output, Parts, SequenceClassifier, encode
from prunetime.models.fused import FusedLayers
from prunetime.models.layers import EncoderLayer
from prunetime.models.mask_variables import BlockMaskVariables

EncoderInputs = tuple[Tensor, Tensor, Tensor | None]


def run_prefix(
    model: SequenceClassifier,
    spec: ArchSpec,
    inputs: EncoderInputs,
    *,
    skipped: Tensor | None = None,
    fused: FusedLayers | None = None,
) -> Output:
    """Runs the forward pass of the sub-network `spec` of the unpruned `model`; gradients reach the weights it has.

    `inputs` are (input_ids, attention_mask, token_type_ids), and `skipped` is as in `SequenceClassifier`. `fused` are
    the model's layers where these are to run it.

    Raises InputError where the model is pruned, or the spec does not fit it or prunes output rows.
    """
    config = model.config
    if model.spec != ArchSpec.full(config.dims):
        raise InputError("prefixes are of an unpruned encoder; this one is compact")
    config.check(spec)
    heads, rows = ([getattr(layer, part) for layer in spec.layers] for part in ("heads", "ffn"))
    whole = [replace(layer, blocks=(), tokens=1.0) for layer in spec.layers]
    if whole != list(ArchSpec.of(config.dims, heads, rows).layers):
        raise InputError(f"{spec} prunes output rows; a prefix keeps the first heads and FFN rows")
    layers = fused.of(spec.layers) if fused else _layers(model, spec)
    return encode(Parts(model.embeddings, layers, model.final_norm, model.head), inputs, skipped=skipped)


def _layers(model: SequenceClassifier, spec: ArchSpec) -> list[Callable[..., Any]]:
    shapes = [
        _without_weights(model.config, index, replace(kept, blocks=()), model.embeddings.dropout.p).train(
            model.training
        )
        for index, kept in enumerate(spec.layers)
    ]
    return [
        partial(_run, layer, shape, kept.blocks)
        for layer, shape, kept in zip(model.layers, shapes, spec.layers, strict=True)
    ]


def _run(layer: nn.Module, shape: EncoderLayer, blocks: Sequence[KeptBlocks], *inputs: Any) -> Any:
    """Runs `shape` on the first rows and columns of the weights of `layer`, as many as it has, and of them `blocks`."""
    whole, shape.precisions = dict(layer.named_parameters()), cast(EncoderLayer, layer).precisions
    weights = {
        name: whole[name][tuple(slice(size) for size in empty.shape)] for name, empty in shape.named_parameters()
    }
    for kept in blocks:
        weight = weights[f"{kept.matrix}.weight"]
        scores = block_norms(weight.detach().cpu().numpy(), kept.rows, kept.columns)
        variables = BlockMaskVariables.of(largest_blocks(scores, kept))
        weights[f"{kept.matrix}.weight"] = weight * variables.spread((len(weight), len(weight.T))).to(weight.device)
    return functional_call(shape, weights, inputs)


@lru_cache(maxsize=1024)
def _without_weights(config: EncoderConfig, index: int, spec: LayerSpec, dropout: float) -> EncoderLayer:
    with torch.device("meta"):
        return EncoderLayer(config, index, spec, dropout)
