"""The encoder in torch: unpruned or compact, with or without mask variables, for training and as the engine's
counterpart."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from prunetime.core.arch import MATRICES, ArchSpec, LayerSpec
from prunetime.core.arrays import Array, Weights
from prunetime.core.blocks import check_blocks
from prunetime.core.config import FAMILIES, LEAST_LENGTH, Activation, EncoderConfig
from prunetime.core.positions import BUCKETS
from prunetime.errors import InputError
from prunetime.models.compact import spec_of
from prunetime.models.distances import in_buckets, near, turned
from prunetime.models.mask_variables import MaskVariables, over_tokens, where_alive
from prunetime.models.pooling import pooled
from prunetime.models.sparse import BlockLinear
from prunetime.models.tokens import PADDING, kinds_of, most_attended, take, take_kinds

INITIAL_DEVIATION = 0.02
"""Standard deviation of fresh weights (BERT, arXiv 1810.04805)."""

NO_CHOICE = -1e4
"""The logits of padding: a softmax over the tokens of a row gives it nothing, in every precision."""

HEAD_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "identity": nn.Identity(),
    "tanh": torch.tanh,
    "relu": torch.relu,
    "gelu": functional.gelu,
}


class Output(NamedTuple):
    """`logits` [batch, outputs] (or [batch, tokens, outputs] with a row per token, `NO_CHOICE` for padding);
    `hidden_states` [batch, tokens, hidden] after the embeddings and after each layer; the last one as the head reads
    them.

    `kept` has for each layer the tokens that it left of those that came in, ascending indices [batch, most] filled up
    with -1, or None where it leaves all. `attention_scores`, where they were asked for, are what the softmax of each
    layer is of, [batch, heads, tokens, tokens]; None where the attention is gone.
    """

    logits: Tensor
    hidden_states: tuple[Tensor, ...]
    kept: tuple[Tensor | None, ...] = ()
    attention_scores: tuple[Tensor | None, ...] = ()


class Embeddings(nn.Module):
    """Sum of the word, position and token type tables (as far as the family has them), normalised and (ELECTRA)
    projected. `separator` and `padding` (as in `Family`) are ids of words, or None."""

    def __init__(self, config: EncoderConfig, dropout: float) -> None:
        super().__init__()
        family, dims = FAMILIES[config.family], config.dims
        self.position_offset = family.position_offset
        self.longest = config.longest
        self.separator = config.separator
        self.padding = family.padding
        self.word = nn.Embedding(dims.vocabulary, config.embedding)
        self.position = None if family.rotary else nn.Embedding(dims.positions, config.embedding)
        self.token_type = nn.Embedding(config.token_types, config.embedding) if family.token_types else None
        self.norm = nn.LayerNorm(config.embedding, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(config.embedding, dims.hidden) if config.projects else nn.Identity()

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None) -> Tensor:
        length = input_ids.shape[1]
        if length > self.longest:
            raise InputError(f"a sequence of {length} tokens; the model has positions for at most {self.longest}")
        x = self.word(input_ids)
        if self.position is not None:
            x = x + self.position(self._positions(input_ids))
        if self.token_type is not None:
            x = x + self.token_type(torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids)
        hidden: Tensor = self.project(self.dropout(self.norm(x)))
        return hidden

    def _positions(self, input_ids: Tensor) -> Tensor:
        """[tokens] or, where padding has a position of its own, [batch, tokens]."""
        if self.padding is None:
            return torch.arange(input_ids.shape[1], device=input_ids.device) + self.position_offset
        counted = (input_ids != self.padding).long()
        return counted.cumsum(dim=1) * counted + self.position_offset - 1


class EncoderLayer(nn.Module):
    """Attention and FFN, each with its residual and LayerNorm; only what the spec keeps is there. `index` is the
    layer's."""

    query: nn.Linear | BlockLinear
    key: nn.Linear | BlockLinear
    value: nn.Linear | BlockLinear
    attention_output: nn.Linear | BlockLinear
    attention_rows: Tensor | None
    ffn_input: nn.Linear | BlockLinear
    ffn_output: nn.Linear | BlockLinear
    ffn_rows: Tensor | None
    position_bias: nn.Parameter | None

    def __init__(self, config: EncoderConfig, index: int, spec: LayerSpec, dropout: float) -> None:
        super().__init__()
        dims = config.dims
        self.spec = spec
        self.pre_norm = FAMILIES[config.family].pre_norm
        self.rotary = config.rotary[index] if config.rotary else None
        self.dropout = nn.Dropout(dropout)
        for name, (outputs, inputs) in spec.matrix_shapes(dims).items():
            kept = spec.blocks_of(name)
            self.add_module(name, BlockLinear(inputs, outputs, kept) if kept else nn.Linear(inputs, outputs))
        self.is_glu = spec.has_ffn and dims.gated
        self.position_bias = None
        if spec.has_attention and FAMILIES[config.family].relative_positions:
            self.position_bias = nn.Parameter(torch.zeros(spec.heads, BUCKETS))
        if spec.has_attention:
            self.attention_norm = _norm(config, config.has_norm(index, "attention_norm"))
            self.register_buffer("attention_rows", _first_rows(spec.attention_rows, dims.hidden))
        if spec.has_ffn:
            self.ffn_norm = _norm(config, config.has_norm(index, "ffn_norm"))
            self.register_buffer("ffn_rows", _first_rows(spec.ffn_rows, dims.hidden))

    def forward(
        self, x: Tensor, kinds: Tensor, variables: MaskVariables | None, kept: Tensor | None, want_scores: bool = False
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """The tokens left of `x` [batch, tokens, hidden], their kinds [batch, tokens], which ones were kept, and the
        attention scores if wanted.

        `kept`, as in `Output`, chooses them in place of the attention that they received.
        """
        share, scores = self.spec.tokens if variables is None else variables.tokens, None
        if self.spec.has_attention:
            read = self.attention_norm(x) if self.pre_norm else x
            context, received, scores = self._context(read, kinds, variables, share < 1.0 and kept is None, want_scores)
            update = self._linear("attention_output", context, variables)
            update = _masked(update, None if variables is None else variables.attention_rows)
            changed = self._end(x, self.attention_rows, update, self.attention_norm)
            x = where_alive(variables.heads, variables.attention_rows, changed, x) if variables else changed
            kept = kept if received is None else most_attended(received, kinds, share)
        if kept is not None:
            x, kinds = take(x, kept), take_kinds(kinds, kept)
        if self.spec.has_ffn:
            read = self.ffn_norm(x) if self.pre_norm else x
            inner = functional.gelu(self._linear("ffn_input", read, variables))
            if self.is_glu:
                inner = inner * self._linear("ffn_gate", read, variables)
            update = self._linear("ffn_output", _masked(inner, None if variables is None else variables.ffn), variables)
            update = _masked(update, None if variables is None else variables.ffn_rows)
            changed = self._end(x, self.ffn_rows, update, self.ffn_norm)
            x = where_alive(variables.ffn, variables.ffn_rows, changed, x) if variables else changed
        return x, kinds, kept, scores

    def _end(self, x: Tensor, rows: Tensor | None, update: Tensor, norm: nn.Module) -> Tensor:
        """The residual, and LayerNorm where it comes after it."""
        total = _add_rows(x, rows, self.dropout(update))
        if self.pre_norm:
            return total
        normed: Tensor = norm(total)
        return normed

    def _linear(self, name: str, x: Tensor, variables: MaskVariables | None) -> Tensor:
        linear: nn.Linear | BlockLinear = getattr(self, name)
        if variables is None or name not in variables.blocks:
            y: Tensor = linear(x)
            return y
        return functional.linear(x, variables.weight(name, linear.weight), linear.bias)

    def _context(
        self, x: Tensor, kinds: Tensor, variables: MaskVariables | None, want_received: bool, want_scores: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """What the heads read, [batch, tokens, heads x head_dim], and, if wanted, the attention that each token
        received and the scores."""
        query, key, value = (
            torch.unflatten(self._linear(name, x, variables), 2, (self.spec.heads, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        dropout, received, scores = self.dropout.p if self.training else 0.0, None, None
        real, bias, length = kinds != PADDING, None, x.shape[1]
        mask = real[:, None, None, :]
        if self.position_bias is not None:
            bias = self.position_bias[:, in_buckets(length).to(x.device)]
        if self.rotary is not None:
            query, key = (turned(part, self.rotary.theta) for part in (query, key))
            if self.rotary.window is not None:
                mask = mask & near(length, self.rotary.window).to(x.device)
        if want_received or want_scores:
            scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
            scores = scores if bias is None else scores + bias
            probabilities = scores.masked_fill(~mask, -torch.inf).softmax(-1)
            received = _received(probabilities.detach(), real, variables) if want_received else None
            context = functional.dropout(probabilities, dropout) @ value
        else:
            mask = mask if bias is None else torch.where(mask, bias, -torch.inf)
            context = functional.scaled_dot_product_attention(query, key, value, mask, dropout)
        context = context.transpose(1, 2)
        if variables:
            context = context * over_tokens(variables.heads).unsqueeze(-1)
        return context.flatten(2), received, scores if want_scores else None


class Head(nn.Module):
    """Runs the layers of `EncoderConfig.head_layers` on the pooled row of each sequence, or on every token's row."""

    def __init__(self, config: EncoderConfig, dropout: float) -> None:
        super().__init__()
        self.rows, self.pooling, self.normalize = config.rows, config.pooling, config.normalize
        self.dropout = nn.Dropout(0.0 if config.rows == "embedding" else dropout)
        if config.head is not None:
            self.layers = nn.ModuleList()
        read = config.dims.hidden
        self.steps: list[tuple[str, Callable[[Tensor], Tensor]]] = []
        for name, layer in config.head_layers:
            parent, _, own_name = name.removeprefix("head.").rpartition(".")
            module = nn.Linear(read, layer.width) if layer.kind == "dense" else nn.LayerNorm(layer.width, eps=layer.eps)
            self.get_submodule(parent).add_module(own_name, module)
            self.steps.append((name.removeprefix("head."), HEAD_ACTIVATIONS[layer.activation]))
            read = layer.width

    def forward(self, x: Tensor, real: Tensor, skipped: Tensor | None = None) -> Tensor:
        """`x` is [batch, tokens, hidden], `real` [batch, tokens] false for padding, whose logits are `NO_CHOICE`;
        `skipped` as in `pooled`."""
        if self.rows != "tokens":
            x = pooled(self.pooling, x, real, skipped)
        for index, (name, activation) in enumerate(self.steps):
            x = self.dropout(x) if index == len(self.steps) - 1 else x
            x = activation(self.get_submodule(name)(x))
        if self.normalize:
            x = functional.normalize(x, dim=-1, eps=LEAST_LENGTH)
        return x.masked_fill(~real.unsqueeze(-1), NO_CHOICE) if self.rows == "tokens" else x


class SequenceClassifier(nn.Module):
    """Encoder with a head on the first token, or on every one.

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
    """What an encoder consists of. Modules are under these names in the state dict; of a sub-network, `layers` are
    functions of what layers take."""

    embeddings: Embeddings
    layers: Any
    final_norm: nn.Module
    head: Head


def parts(config: EncoderConfig, spec: ArchSpec, dropout: float) -> Parts:
    """The modules of an encoder of `spec`."""
    config.check(spec)
    layers = nn.ModuleList(EncoderLayer(config, index, layer, dropout) for index, layer in enumerate(spec.layers))
    return Parts(
        Embeddings(config, dropout), layers, _norm(config, FAMILIES[config.family].pre_norm), Head(config, dropout)
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
    """The forward pass on `inputs`: (input_ids, attention_mask, token_type_ids), and all else as in
    `SequenceClassifier`.

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
    """Of the dense matrices in `layers`."""
    return [{name: getattr(layer, name) for name in MATRICES if hasattr(layer, name)} for layer in layers]


def initialise(module: nn.Module) -> None:
    """Fresh weights of one module, as BERT draws them."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=INITIAL_DEVIATION)
    if isinstance(module, BlockLinear):
        module.blocks.data = module.fresh_blocks(INITIAL_DEVIATION)
    if isinstance(module, nn.Linear | BlockLinear):
        nn.init.zeros_(module.bias)


def weights_of(model: nn.Module) -> dict[str, Array]:
    """The weights as numpy arrays (float32, and int32 for indices), copied."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in model.state_dict().items()}


def from_weights(
    config: EncoderConfig, weights: Weights, dropout: float = 0.1, spec: ArchSpec | None = None
) -> SequenceClassifier:
    """The encoder that has these weights, pruned or not; in training mode, as every fresh module.

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
            _check_rows(name, tensors[name], model.config.dims.hidden)
        state[name] = tensors[name].to(state[name].dtype)
    for name, module in model.named_modules():
        if isinstance(module, BlockLinear):
            blocks, block_index = (state[f"{name}.{part}"].numpy() for part in ("blocks", "block_index"))
            check_blocks(name, blocks, block_index, module.shape)
    model.load_state_dict(state)


def _check_rows(name: str, rows: Tensor, hidden: int) -> None:
    if bool((rows.diff() <= 0).any()) or not 0 <= int(rows[0]) <= int(rows[-1]) < hidden:
        raise InputError(f"tensor {name} must hold ascending indices from 0 to {hidden - 1}")


def _first_rows(kept: int, hidden: int) -> Tensor | None:
    return torch.arange(kept, dtype=torch.int32) if kept < hidden else None


def _norm(config: EncoderConfig, there: bool) -> nn.Module:
    return nn.LayerNorm(config.dims.hidden, eps=config.layer_norm_eps) if there else nn.Identity()


def _received(probabilities: Tensor, real: Tensor, variables: MaskVariables | None) -> Tensor:
    """The attention [batch, tokens] that the `real` queries of `probabilities` [batch, heads, queries, tokens] pay."""
    if variables:
        probabilities = probabilities * variables.heads.detach()[..., None, None]
    return (probabilities * real[:, None, :, None]).sum((1, 2))


def _masked(x: Tensor, variables: Tensor | None) -> Tensor:
    return x if variables is None else x * over_tokens(variables)


def _add_rows(x: Tensor, rows: Tensor | None, update: Tensor) -> Tensor:
    """`x` [.., hidden] plus `update` [.., rows] in the places `rows`; scatter_add is the fastest form on a CPU."""
    return x + update if rows is None else x.scatter_add(-1, rows.long().expand_as(update), update.to(x.dtype))
