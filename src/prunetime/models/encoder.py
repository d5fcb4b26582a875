"""The encoder in torch: unpruned or compact, with or without gates, for training and as the engine's counterpart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from prunetime.arch import ArchSpec, LayerSpec
from prunetime.config import FAMILIES, EncoderConfig
from prunetime.errors import InputError
from prunetime.models.compact import Weights, heads_and_rows_only, spec_of
from prunetime.models.gates import LayerGates, over_tokens, where_alive

INITIAL_DEVIATION = 0.02
"""Standard deviation of fresh weights (BERT, arXiv 1810.04805)."""

HEAD_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "gelu": functional.gelu,
}


class Output(NamedTuple):
    """`logits` [batch, outputs]; `hidden_states` [batch, tokens, hidden] after the embeddings and after each layer."""

    logits: Tensor
    hidden_states: tuple[Tensor, ...]


class Embeddings(nn.Module):
    """Sum of the word, position and token type tables, normalised."""

    def __init__(self, config: EncoderConfig, dropout: float) -> None:
        super().__init__()
        family, dims = FAMILIES[config.family], config.dims
        self.position_offset = family.position_offset
        self.longest = dims.positions - family.position_offset
        self.word = nn.Embedding(dims.vocabulary, config.embedding)
        self.position = nn.Embedding(dims.positions, config.embedding)
        self.token_type = nn.Embedding(config.token_types, config.embedding) if family.token_types else None
        self.norm = nn.LayerNorm(config.embedding, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None) -> Tensor:
        length = input_ids.shape[1]
        if length > self.longest:
            raise InputError(f"a sequence of {length} tokens; the model has positions for at most {self.longest}")
        positions = torch.arange(length, device=input_ids.device) + self.position_offset
        x = self.word(input_ids) + self.position(positions)
        if self.token_type is not None:
            x = x + self.token_type(torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids)
        normed: Tensor = self.dropout(self.norm(x))
        return normed


class Layer(nn.Module):
    """Attention and FFN, each followed by the residual and LayerNorm; only what the spec keeps is there."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    attention_output: nn.Linear
    attention_rows: Tensor | None
    ffn_input: nn.Linear
    ffn_output: nn.Linear
    ffn_rows: Tensor | None

    def __init__(self, config: EncoderConfig, spec: LayerSpec, dropout: float) -> None:
        super().__init__()
        dims = config.dims
        self.spec = spec
        self.dropout = nn.Dropout(dropout)
        for name, (outputs, inputs) in spec.matrix_shapes(dims).items():
            self.add_module(name, nn.Linear(inputs, outputs))
        if spec.has_attention:
            self.attention_norm = nn.LayerNorm(dims.hidden, eps=config.layer_norm_eps)
            self.register_buffer("attention_rows", _first_rows(spec.attention_rows, dims.hidden))
        if spec.has_ffn:
            self.ffn_norm = nn.LayerNorm(dims.hidden, eps=config.layer_norm_eps)
            self.register_buffer("ffn_rows", _first_rows(spec.ffn_rows, dims.hidden))

    def forward(self, x: Tensor, mask: Tensor, gates: LayerGates | None) -> Tensor:
        """`x` [batch, tokens, hidden]; `mask` [batch, 1, 1, tokens], true where a token may be attended to."""
        if self.spec.has_attention:
            context = self._context(x, mask, gates)
            update = _gated(self.attention_output(context), None if gates is None else gates.attention_rows)
            changed = self.attention_norm(_add_rows(x, self.attention_rows, self.dropout(update)))
            x = where_alive(gates.heads, gates.attention_rows, changed, x) if gates else changed
        if self.spec.has_ffn:
            activated = _gated(functional.gelu(self.ffn_input(x)), None if gates is None else gates.ffn)
            update = _gated(self.ffn_output(activated), None if gates is None else gates.ffn_rows)
            changed = self.ffn_norm(_add_rows(x, self.ffn_rows, self.dropout(update)))
            x = where_alive(gates.ffn, gates.ffn_rows, changed, x) if gates else changed
        return x

    def _context(self, x: Tensor, mask: Tensor, gates: LayerGates | None) -> Tensor:
        """What the heads read, [batch, tokens, heads x head_dim]."""
        query, key, value = (
            linear(x).unflatten(-1, (self.spec.heads, -1)).transpose(1, 2)
            for linear in (self.query, self.key, self.value)
        )
        dropout = self.dropout.p if self.training else 0.0
        context = functional.scaled_dot_product_attention(query, key, value, mask, dropout).transpose(1, 2)
        if gates:
            context = context * over_tokens(gates.heads).unsqueeze(-1)
        return context.flatten(2)


class Head(nn.Module):
    """Logits from the row of the first token."""

    def __init__(self, config: EncoderConfig, dropout: float) -> None:
        super().__init__()
        hidden = config.dims.hidden
        self.dense = nn.Linear(hidden, hidden)
        self.activation = HEAD_ACTIVATIONS[FAMILIES[config.family].head_activation]
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden, config.outputs)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.output(self.dropout(self.activation(self.dense(x[:, 0]))))
        return logits


class SequenceClassifier(nn.Module):
    """Encoder with a head on the first token. The state dict has the names of the artifact's `model.safetensors`.

    Without `spec` nothing is pruned. Fresh weights depend on torch's random state only.
    Raises InputError where the spec does not fit the encoder, or prunes blocks or tokens.
    """

    def __init__(self, config: EncoderConfig, spec: ArchSpec | None = None, dropout: float = 0.1) -> None:
        super().__init__()
        self.config = config
        self.spec = ArchSpec.full(config.dims) if spec is None else spec
        self.embeddings, self.layers, self.head = parts(config, self.spec, dropout)
        self.apply(initialise)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        gates: Sequence[LayerGates] | None = None,
    ) -> Output:
        """`input_ids`, `attention_mask` (0 for padding) and `token_type_ids` are [batch, tokens].

        Raises InputError for a sequence longer than the position table, and for `gates` (one per layer) on an
        encoder that is pruned already.
        """
        if gates is not None and self.spec != ArchSpec.full(self.config.dims):
            raise InputError("gates apply to an unpruned encoder; this one is compact")
        return encode(self.embeddings, self.layers, self.head, (input_ids, attention_mask, token_type_ids), gates)


def parts(config: EncoderConfig, spec: ArchSpec, dropout: float) -> tuple[Embeddings, nn.ModuleList, Head]:
    """The modules of an encoder of `spec`, under the names that the state dict has."""
    spec.check(config.dims)
    heads_and_rows_only(spec)
    if config.embedding != config.dims.hidden:
        raise InputError(f"embedding is {config.embedding}; {config.family} needs {config.dims.hidden}, as hidden")
    layers = nn.ModuleList(Layer(config, layer, dropout) for layer in spec.layers)
    return Embeddings(config, dropout), layers, Head(config, dropout)


def encode(
    embeddings: Embeddings,
    layers: nn.ModuleList,
    head: Head,
    inputs: tuple[Tensor, Tensor, Tensor | None],
    gates: Sequence[LayerGates] | None = None,
) -> Output:
    """The forward pass on `inputs`: (input_ids, attention_mask, token_type_ids), as in `SequenceClassifier`."""
    input_ids, attention_mask, token_type_ids = inputs
    mask = attention_mask[:, None, None, :].bool()
    states = [embeddings(input_ids, token_type_ids)]
    for index, layer in enumerate(layers):
        states.append(layer(states[-1], mask, None if gates is None else gates[index]))
    return Output(head(states[-1]), tuple(states))


def initialise(module: nn.Module) -> None:
    """Fresh weights of one module, as BERT draws them."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=INITIAL_DEVIATION)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def weights_of(model: nn.Module) -> Weights:
    """The weights as numpy arrays (float32, and int32 for `*_rows`), copied."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in model.state_dict().items()}


def from_weights(
    config: EncoderConfig, weights: Mapping[str, NDArray[Any]], dropout: float = 0.1
) -> SequenceClassifier:
    """The encoder that has these weights, pruned or not; in training mode, as every fresh module.

    Raises InputError where a tensor is missing, unknown or of another shape than its layer needs.
    """
    model = SequenceClassifier(config, spec_of(weights, config.dims), dropout)
    load_tensors(model, {name: torch.from_numpy(np.array(array)) for name, array in weights.items()})
    return model


def load_tensors(model: SequenceClassifier, tensors: Mapping[str, Tensor], fresh_head: bool = False) -> None:
    """Copy `tensors` into `model`; with `fresh_head`, the model's own stay where the head's are missing.

    Raises InputError where a tensor is missing, unknown or of another shape than its layer needs.
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
        if name.endswith("_rows"):
            _check_rows(name, tensors[name], model.config.dims.hidden)
        state[name] = tensors[name].to(state[name].dtype)
    model.load_state_dict(state)


def _check_rows(name: str, rows: Tensor, hidden: int) -> None:
    if bool((rows.diff() <= 0).any()) or not 0 <= int(rows[0]) <= int(rows[-1]) < hidden:
        raise InputError(f"tensor {name} must hold ascending indices from 0 to {hidden - 1}")


def _first_rows(kept: int, hidden: int) -> Tensor | None:
    return torch.arange(kept, dtype=torch.int32) if kept < hidden else None


def _gated(x: Tensor, gate: Tensor | None) -> Tensor:
    return x if gate is None else x * over_tokens(gate)


def _add_rows(x: Tensor, rows: Tensor | None, update: Tensor) -> Tensor:
    """`x` [.., hidden] plus `update` [.., rows] in the places `rows`; scatter_add is the fastest form on a CPU."""
    return x + update if rows is None else x.scatter_add(-1, rows.long().expand_as(update), update.to(x.dtype))
