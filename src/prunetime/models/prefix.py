"""Sub-networks of one encoder that share its weights: the first heads and rows of every layer, as many as a spec says.

Once `compact.ordered` has put what matters most first, the prefixes are the best sub-networks of their sizes.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from prunetime.arch import ArchSpec, LayerSpec
from prunetime.config import EncoderConfig
from prunetime.errors import InputError
from prunetime.models.encoder import Layer, Output, SequenceClassifier, encode

Inputs = tuple[Tensor, Tensor, Tensor | None]


def run_prefix(model: SequenceClassifier, spec: ArchSpec, inputs: Inputs) -> Output:
    """The forward pass of the sub-network `spec` of the unpruned `model`; gradients reach the weights it has.

    `inputs` are (input_ids, attention_mask, token_type_ids), as in `SequenceClassifier`.

    Raises InputError where the model is pruned, or the spec does not fit it or prunes output rows or blocks.
    """
    config = model.config
    if model.spec != ArchSpec.full(config.dims):
        raise InputError("prefixes are of an unpruned encoder; this one is compact")
    config.check(spec)
    heads, rows = ([getattr(layer, part) for layer in spec.layers] for part in ("heads", "ffn"))
    if [replace(layer, tokens=1.0) for layer in spec.layers] != list(ArchSpec.of(config.dims, heads, rows).layers):
        raise InputError(f"{spec} prunes output rows or blocks; a prefix keeps the first heads and FFN rows")
    layers = [
        partial(_run, layer, _without_weights(config, kept, model.embeddings.dropout.p).train(model.training))
        for layer, kept in zip(model.layers, spec.layers, strict=True)
    ]
    return encode(model.embeddings, layers, model.head, inputs)


def _run(layer: nn.Module, shape: Layer, *inputs: Any) -> Any:
    """Runs `shape` on the first rows and columns of the weights of `layer`, as many as it has."""
    whole = dict(layer.named_parameters())
    weights = {
        name: whole[name][tuple(slice(size) for size in empty.shape)] for name, empty in shape.named_parameters()
    }
    return functional_call(shape, weights, inputs)


@lru_cache(maxsize=1024)
def _without_weights(config: EncoderConfig, spec: LayerSpec, dropout: float) -> Layer:
    with torch.device("meta"):
        return Layer(config, spec, dropout)
