"""The layers of the encoder in torch: embeddings, attention with FFN, and the head."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional

from prunetime.core.arch import LayerSpec
from prunetime.core.config import FAMILIES, LEAST_LENGTH, Activation, EncoderConfig
from prunetime.core.positions import BUCKETS
from prunetime.core.precision import Precision
from prunetime.errors import InputError
from prunetime.models.distances import apply_rotary, relative_buckets, sliding_window_mask
from prunetime.models.mask_variables import MaskVariables, over_tokens, where_alive
from prunetime.models.pooling import pooled
from prunetime.models.rounding import quantised_rows, quantised_weight
from prunetime.models.sparse import BlockLinear
from prunetime.models.tokens import PADDING, most_attended, take

NO_CHOICE = -1e4
"""The logits of padding: a softmax over the tokens of a row gives it nothing, in every precision."""

HEAD_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "identity": nn.Identity(),
    "tanh": torch.tanh,
    "relu": torch.relu,
    "gelu": functional.gelu,
}


class Embeddings(nn.Module):
    """The sum of the word, position and token type tables (as far as the family has them), normalised and (ELECTRA)
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
        """Returns positions [tokens] or, where padding has a position of its own, [batch, tokens]."""
        if self.padding is None:
            return torch.arange(input_ids.shape[1], device=input_ids.device) + self.position_offset
        counted = (input_ids != self.padding).long()
        return counted.cumsum(dim=1) * counted + self.position_offset - 1


class EncoderLayer(nn.Module):
    """Attention and FFN of layer `index`, each with its residual and LayerNorm, as far as the spec keeps them.

    `precisions` of matrices by name, where not fp32, are those that products are rounded to.
    """

    query: nn.Linear | BlockLinear
    key: nn.Linear | BlockLinear
    value: nn.Linear | BlockLinear
    attention_output: nn.Linear | BlockLinear
    attention_rows: Tensor | None
    ffn_input: nn.Linear | BlockLinear
    ffn_output: nn.Linear | BlockLinear
    ffn_rows: Tensor | None
    position_bias: nn.Parameter | None
    precisions: Mapping[str, Precision] = MappingProxyType({})

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
            self.attention_norm = norm_layer(config, config.has_norm(index, "attention_norm"))
            self.register_buffer("attention_rows", _first_rows(spec.attention_rows, dims.hidden))
        if spec.has_ffn:
            self.ffn_norm = norm_layer(config, config.has_norm(index, "ffn_norm"))
            self.register_buffer("ffn_rows", _first_rows(spec.ffn_rows, dims.hidden))

    def forward(
        self, x: Tensor, kinds: Tensor, variables: MaskVariables | None, kept: Tensor | None, want_scores: bool = False
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Returns the tokens left of `x` [batch, tokens, hidden], their kinds [batch, tokens], the indices of kept
        tokens, and the attention scores if wanted.

        `kept`, as in `Output`, chooses them in place of the attention that they received.
        """
        share, scores = self.spec.tokens if variables is None else variables.tokens, None
        if self.spec.has_attention:
            read = self.attention_norm(x) if self.pre_norm else x
            context, received, scores = self._context(read, kinds, variables, share < 1.0 and kept is None, want_scores)
            update = self._linear("attention_output", self._rounded("attention_output", context), variables)
            update = _masked(update, None if variables is None else variables.attention_rows)
            changed = self._end(x, self.attention_rows, update, self.attention_norm)
            x = where_alive(variables.heads, variables.attention_rows, changed, x) if variables else changed
            kept = kept if received is None else most_attended(received, kinds, share)
        if kept is not None:
            x, kinds = take(x, kept), kinds.gather(1, kept.clamp(min=0)).masked_fill(kept < 0, PADDING)
        if self.spec.has_ffn:
            read = self._rounded("ffn_input", self.ffn_norm(x) if self.pre_norm else x)
            inner = functional.gelu(self._linear("ffn_input", read, variables))
            if self.is_glu:
                inner = inner * self._linear("ffn_gate", read, variables)
            inner = self._rounded("ffn_output", _masked(inner, None if variables is None else variables.ffn))
            update = self._linear("ffn_output", inner, variables)
            update = _masked(update, None if variables is None else variables.ffn_rows)
            changed = self._end(x, self.ffn_rows, update, self.ffn_norm)
            x = where_alive(variables.ffn, variables.ffn_rows, changed, x) if variables else changed
        return x, kinds, kept, scores

    def _end(self, x: Tensor, rows: Tensor | None, update: Tensor, norm: nn.Module) -> Tensor:
        """Adds the residual, and applies LayerNorm where it comes after that."""
        update = self.dropout(update)
        # scatter_add is the fastest form on a CPU
        total = x + update if rows is None else x.scatter_add(-1, rows.long().expand_as(update), update.to(x.dtype))
        if self.pre_norm:
            return total
        normed: Tensor = norm(total)
        return normed

    def _precision(self, matrix: str) -> Precision:
        return self.precisions.get(matrix, "fp32")

    def _rounded(self, matrix: str, x: Tensor) -> Tensor:
        return quantised_rows(x, self._precision(matrix))

    def _linear(self, name: str, x: Tensor, variables: MaskVariables | None) -> Tensor:
        """`x` is rounded already."""
        linear: nn.Linear | BlockLinear = getattr(self, name)
        precision, masks_blocks = self._precision(name), variables is not None and name in variables.blocks
        if precision == "fp32" and not masks_blocks:
            y: Tensor = linear(x)
            return y
        weight = variables.weight(name, linear.weight) if variables and masks_blocks else linear.weight
        return functional.linear(x, quantised_weight(weight, precision), linear.bias)

    def _context(
        self, x: Tensor, kinds: Tensor, variables: MaskVariables | None, want_received: bool, want_scores: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Returns the context [batch, tokens, heads x head_dim], the attention that tokens received, and the scores."""
        x = self._rounded("query", x)
        query, key, value = (
            torch.unflatten(self._linear(name, x, variables), 2, (self.spec.heads, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        dropout, received, scores = self.dropout.p if self.training else 0.0, None, None
        real, bias, length = kinds != PADDING, None, x.shape[1]
        mask = real[:, None, None, :]
        if self.position_bias is not None:
            bias = self.position_bias[:, relative_buckets(length).to(x.device)]
        if self.rotary is not None:
            query, key = (apply_rotary(part, self.rotary.theta) for part in (query, key))
            if self.rotary.window is not None:
                mask = mask & sliding_window_mask(length, self.rotary.window).to(x.device)
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
    """The layers of `EncoderConfig.head_layers`, run on the pooled row of each sequence, or on every token's row.

    `precisions` of its matrices by name, where not fp32, are those that products are rounded to.
    """

    precisions: Mapping[str, Precision] = MappingProxyType({})

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
        if self.steps:
            name, activation = self.steps[-1]
            x = activation(self._run(name, self.dropout(self.before_last(x))))
        if self.normalize:
            x = functional.normalize(x, dim=-1, eps=LEAST_LENGTH)
        return x.masked_fill(~real.unsqueeze(-1), NO_CHOICE) if self.rows == "tokens" else x

    def before_last(self, x: Tensor) -> Tensor:
        """Returns what the last layer reads, of rows `x` [.., hidden]."""
        for name, activation in self.steps[:-1]:
            x = activation(self._run(name, x))
        return x

    def _run(self, name: str, x: Tensor) -> Tensor:
        module, precision = self.get_submodule(name), self.precisions.get(name, "fp32")
        if precision == "fp32" or not isinstance(module, nn.Linear):
            y: Tensor = module(x)
            return y
        return functional.linear(quantised_rows(x, precision), quantised_weight(module.weight, precision), module.bias)


def _first_rows(kept: int, hidden: int) -> Tensor | None:
    return torch.arange(kept, dtype=torch.int32) if kept < hidden else None


def norm_layer(config: EncoderConfig, there: bool) -> nn.Module:
    return nn.LayerNorm(config.dims.hidden, eps=config.layer_norm_eps) if there else nn.Identity()


def _received(probabilities: Tensor, real: Tensor, variables: MaskVariables | None) -> Tensor:
    """Returns the attention [batch, tokens] that the `real` queries pay by `probabilities` [.., queries, tokens]."""
    if variables:
        probabilities = probabilities * variables.heads.detach()[..., None, None]
    return (probabilities * real[:, None, :, None]).sum((1, 2))


def _masked(x: Tensor, variables: Tensor | None) -> Tensor:
    return x if variables is None else x * over_tokens(variables)
