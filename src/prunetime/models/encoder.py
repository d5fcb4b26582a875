"""The encoder in torch, unpruned or compact, with or without mask variables: for training, and to check the engine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from prunetime.core.arch import MATRICES, ArchSpec
from prunetime.core.arrays import Array, Weights
from prunetime.core.blocks import check_blocks
from prunetime.core.config import FAMILIES, EncoderConfig
from prunetime.errors import InputError
from prunetime.models.compact import spec_of
from prunetime.models.layers import Embeddings, EncoderLayer, Head, norm_layer
from prunetime.models.mask_variables import MaskVariables
from prunetime.models.sparse import BlockLinear
from prunetime.models.tokens import PADDING, kinds_of

INITIAL_DEVIATION = 0.02
"""Standard deviation of fresh weights (BERT, arXiv 1810.04805)."""


class Output(NamedTuple):
    """The output of an encoder.

    `logits` are [batch, outputs] (or [batch, tokens, outputs] with a row per token, `NO_CHOICE` for padding);
    `hidden_states` [batch, tokens, hidden] after the embeddings and each layer; the last one as the head reads them.

    `kept` has for each layer the tokens that it left of those that came in, ascending indices [batch, most] filled up
    with -1, or None where it leaves all. `attention_scores`, where they were asked for, are what the softmax of each
    layer is of, [batch, heads, tokens, tokens]; None where the attention is gone.
    """

    logits: Tensor
    hidden_states: tuple[Tensor, ...]
    kept: tuple[Tensor | None, ...] = ()
    attention_scores: tuple[Tensor | None, ...] = ()


class SequenceClassifier(nn.Module):
    """An encoder with a head on the pooled row of each sequence, or on every token.

    The state dict has the names of the artifact's `model.safetensors`. Without `spec` nothing is pruned.
    Fresh weights depend on torch's random state only. Raises InputError where the spec does not fit the encoder.
    """

    def __init__(self, config: EncoderConfig, spec: ArchSpec | None = None, dropout: float = 0.1) -> None:
        super().__init__()
        self.config = config
        self.spec = ArchSpec.full(config.dims) if spec is None else spec
        self.embeddings, self.layers, self.final_norm, self.head = parts(config, self.spec, dropout)
        self.apply(initialise)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        mask_variables: Sequence[MaskVariables] | None = None,
        kept: Sequence[Tensor | None] | None = None,
        want_scores: bool = False,
        *,
        skipped: Tensor | None = None,
    ) -> Output:
        """`input_ids`, `attention_mask` (0 for padding) and `token_type_ids` are [batch, tokens].

        Pooling leaves out the first `skipped` [batch] tokens of each sequence (None: no token).
        `kept` (one per layer, as in `Output`) are the tokens to keep; where it is None the layer chooses by itself.
        `want_scores`: the output has attention scores, which cost time.

        Raises InputError for a sequence longer than the position table, and for `mask_variables` (one per layer) on an
        encoder that is pruned already.
        """
        if mask_variables is not None and self.spec != ArchSpec.full(self.config.dims):
            raise InputError("mask variables apply to an unpruned encoder; this one is compact")
        own = Parts(self.embeddings, self.layers, self.final_norm, self.head)
        inputs = (input_ids, attention_mask, token_type_ids)
        return encode(own, inputs, mask_variables, kept, want_scores=want_scores, skipped=skipped)


class Parts(NamedTuple):
    """The modules of an encoder, by their names in the state dict; of a sub-network, `layers` are functions."""

    embeddings: Embeddings
    layers: Any
    final_norm: nn.Module
    head: Head


def parts(config: EncoderConfig, spec: ArchSpec, dropout: float) -> Parts:
    """Makes the modules of an encoder of `spec`."""
    config.check(spec)
    layers = nn.ModuleList(EncoderLayer(config, index, layer, dropout) for index, layer in enumerate(spec.layers))
    return Parts(
        Embeddings(config, dropout), layers, norm_layer(config, FAMILIES[config.family].pre_norm), Head(config, dropout)
    )


def encode(
    encoder: Parts,
    inputs: tuple[Tensor, Tensor, Tensor | None],
    mask_variables: Sequence[MaskVariables] | None = None,
    kept: Sequence[Tensor | None] | None = None,
    *,
    want_scores: bool = False,
    skipped: Tensor | None = None,
) -> Output:
    """Runs the forward pass on (input_ids, attention_mask, token_type_ids), the rest as in `SequenceClassifier`.

    Raises InputError where tokens are `skipped` of an encoder that drops tokens.
    """
    input_ids, attention_mask, token_type_ids = inputs
    kinds = kinds_of(input_ids, attention_mask, encoder.embeddings.separator)
    states = [encoder.embeddings(input_ids, token_type_ids)]
    left: list[Tensor | None] = []
    scores: list[Tensor | None] = []
    for index, layer in enumerate(encoder.layers):
        own_variables, own_kept = (
            None if of_layers is None else of_layers[index] for of_layers in (mask_variables, kept)
        )
        x, kinds, chosen, of_layer = layer(states[-1], kinds, own_variables, own_kept, want_scores)
        states.append(x)
        if skipped is not None and chosen is not None:
            raise InputError(f"layer {index} drops tokens, so that pooling cannot skip the first ones: keep all tokens")
        left.append(chosen)
        scores.append(of_layer)
    states[-1] = encoder.final_norm(states[-1])
    logits = encoder.head(states[-1], kinds != PADDING, skipped)
    return Output(logits, tuple(states), tuple(left), tuple(scores) if want_scores else ())


Linears = Sequence[Mapping[str, nn.Linear]]
"""The matrices that every layer has, by their names in `MATRICES`."""


def linears_of(layers: Iterable[nn.Module]) -> Linears:
    """Returns the dense matrices in `layers`."""
    return [{name: getattr(layer, name) for name in MATRICES if hasattr(layer, name)} for layer in layers]


def initialise(module: nn.Module) -> None:
    """Draws fresh weights of one module, as BERT does."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=INITIAL_DEVIATION)
    if isinstance(module, BlockLinear):
        module.blocks.data = module.fresh_blocks(INITIAL_DEVIATION)
    if isinstance(module, nn.Linear | BlockLinear):
        nn.init.zeros_(module.bias)


def weights_of(model: nn.Module) -> dict[str, Array]:
    """Returns the weights as numpy arrays (float32, and int32 for indices), copied."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in model.state_dict().items()}


def from_weights(
    config: EncoderConfig, weights: Weights, dropout: float = 0.1, spec: ArchSpec | None = None
) -> SequenceClassifier:
    """Returns the encoder with these weights, pruned or not; in training mode, as every fresh module.

    Without `spec` it is read off the weights, which cannot say that tokens are dropped.

    Raises InputError where a tensor is missing, unknown or of another shape than its layer needs.
    """
    model = SequenceClassifier(config, spec_of(weights, config.dims) if spec is None else spec, dropout)
    load_tensors(model, {name: torch.from_numpy(np.array(array)) for name, array in weights.items()})
    return model


def load_tensors(model: SequenceClassifier, tensors: Mapping[str, Tensor], fresh_head: bool = False) -> None:
    """Copy `tensors` into `model`; with `fresh_head`, the model's own stay where the head's are missing.

    Raises InputError where a tensor is missing, unknown, of another shape than its layer needs, or no valid indices.
    """
    state = model.state_dict()
    for name in sorted(state.keys() | tensors.keys()):
        if name not in state:
            raise InputError(f"tensor {name} belongs to no part of the encoder")
        if name not in tensors:
            if fresh_head and name.startswith("head."):
                continue
            raise InputError(f"tensor {name} {tuple(state[name].shape)} is missing")
        if tensors[name].shape != state[name].shape:
            got, expected = tuple(tensors[name].shape), tuple(state[name].shape)
            raise InputError(f"tensor {name} is {got}, must be {expected}")
        if state[name].is_floating_point() and not tensors[name].is_floating_point():
            raise InputError(f"tensor {name} is of {tensors[name].dtype}: only float weights are read")
        if name.endswith("_rows"):
            rows, hidden = tensors[name], model.config.dims.hidden
            if bool((rows.diff() <= 0).any()) or not 0 <= int(rows[0]) <= int(rows[-1]) < hidden:
                raise InputError(f"tensor {name} must hold ascending indices from 0 to {hidden - 1}")
        state[name] = tensors[name].to(state[name].dtype)
    for name, module in model.named_modules():
        if isinstance(module, BlockLinear):
            blocks, block_index = (state[f"{name}.{part}"].numpy() for part in ("blocks", "block_index"))
            check_blocks(name, blocks, block_index, module.shape)
    model.load_state_dict(state)
