"""Training passes of an encoder's layers on a CPU, with gradients written by hand: fewer passes over memory.

They compute what `encode` computes, in bf16 as under autocast, but for rounding and the draws of dropout. Weights are
cast once a step, hidden states and their gradients stay in the type of the matrices, and a softmax is in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from prunetime.core.arch import LayerSpec
from prunetime.models.autograd import apply
from prunetime.models.layers import EncoderLayer
from prunetime.models.tokens import PADDING

aten = torch.ops.aten


class FusedLayers:
    """The layers of an encoder, and of its prefixes, in the form that `encode` takes.

    Args:
        layers: The layers of the encoder, on the CPU.
        dtype: The type of matrices and hidden states.
    """

    def __init__(self, layers: Sequence[nn.Module], dtype: torch.dtype) -> None:
        self._layers = [cast(EncoderLayer, layer) for layer in layers]
        self._dtype = dtype
        self._gradients = _Gradients([parameter for layer in layers for parameter in layer.parameters()])
        self._sublayers: list[_Sublayers] = []

    def fit(self, specs: Sequence[LayerSpec]) -> bool:
        """Returns whether the sub-network of `specs` can be run, as the modules are now: LayerNorm comes after the
        residual, matrices are dense and have no parametrisation, hook or rounding, and no token or output row is
        dropped."""
        return all(_is_plain(layer, spec) for layer, spec in zip(self._layers, specs, strict=True))

    def refresh(self) -> None:
        """Casts the weights as they are now; gradients of passes after it reach them."""
        if not self._sublayers:
            self._sublayers = [_sublayers(layer, self._dtype, self._gradients) for layer in self._layers]
        for sublayers in self._sublayers:
            for sublayer in sublayers:
                if sublayer:
                    sublayer.refresh()
        self._gradients.begin()

    def of(self, specs: Sequence[LayerSpec], rows: int | None = None) -> list[Callable[..., Any]]:
        """Returns the layers of one pass, with the first heads and FFN neurons, as many as `specs` say.

        From the last attention on they compute the first `rows` tokens of each sequence, by default all.
        """
        last = max((index for index, spec in enumerate(specs) if spec.has_attention), default=-1)
        return [partial(self._run, index, spec, rows if index == last else None) for index, spec in enumerate(specs)]

    def _run(
        self, index: int, spec: LayerSpec, rows: int | None, x: Tensor, kinds: Tensor, *_: Any
    ) -> tuple[Tensor, Tensor, None, None]:
        layer, (attention, ffn) = self._layers[index], self._sublayers[index]
        dropout = layer.dropout.p if layer.training else 0.0
        x = x.to(self._dtype)
        if attention and spec.has_attention:
            part = _AttentionPart(attention, spec.heads, rows)
            x = apply(_AttentionFunction, x, self._gradients.token, part, kinds, dropout)
        if ffn and spec.has_ffn:
            x = apply(_FfnFunction, x, self._gradients.token, ffn, spec.ffn, dropout)
        return x, kinds, None, None


class _Gradients:
    """The gradients of parameters, summed over the passes of a step; `token` is an input of every pass, by which
    autograd learns when all of them are there."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = parameters
        self._sums: dict[int, Tensor] = {}
        self.token = torch.zeros(())

    def begin(self) -> None:
        self._sums.clear()
        self.token = apply(_GradientsFunction, self, *self._parameters)

    def add(self, parameter: Tensor, gradient: Tensor) -> None:
        """Adds the `gradient` of the first rows and columns of `parameter`, as many as it has."""
        total = self._sums.get(id(parameter))
        if total is None and gradient.shape == parameter.shape:
            self._sums[id(parameter)] = gradient
            return
        total = torch.zeros_like(parameter) if total is None else total.to(parameter.dtype)
        total[tuple(slice(size) for size in gradient.shape)] += gradient
        self._sums[id(parameter)] = total

    def take(self) -> list[Tensor | None]:
        return [self._sums.pop(id(parameter), None) for parameter in self._parameters]


class _GradientsFunction(torch.autograd.Function):
    """Hands the sums of `_Gradients` to the parameters."""

    @staticmethod
    def forward(ctx: Any, gradients: _Gradients, *_: Tensor) -> Tensor:
        ctx.gradients = gradients
        return torch.zeros(())

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        return None, *ctx.gradients.take()


class _Linears:
    """Linear layers of one shape that read the same rows: cast, and stacked to one matrix."""

    def __init__(self, linears: Sequence[nn.Linear], dtype: torch.dtype, gradients: _Gradients) -> None:
        self._linears, self._gradients = linears, gradients
        shape = linears[0].weight.shape
        self._weights = torch.empty(len(linears), *shape, dtype=dtype)
        self._biases = torch.empty(len(linears), shape[0], dtype=dtype)

    def refresh(self) -> None:
        with torch.no_grad():
            for linear, weight, bias in zip(self._linears, self._weights, self._biases, strict=True):
                weight.copy_(linear.weight)
                bias.copy_(linear.bias)

    def part(self, outputs: int | None = None, inputs: int | None = None) -> _Part:
        """Returns the first `outputs` of each layer, of the first `inputs`."""
        weights = self._weights[:, :outputs, :inputs]
        return _Part(self, weights.reshape(-1, weights.shape[2]), self._biases[:, :outputs].reshape(-1))

    def add_gradients(self, of_outputs: Tensor, x: Tensor) -> None:
        """Adds the gradients of weights and biases, from those of the outputs of a part and what it read."""
        weights, biases = of_outputs.t() @ x, of_outputs.sum(0)
        each = zip(self._linears, weights.chunk(len(self._linears)), biases.chunk(len(self._linears)), strict=True)
        for linear, weight, bias in each:
            self._gradients.add(linear.weight, weight)
            self._gradients.add(linear.bias, bias)


class _Part(NamedTuple):
    """The first outputs and inputs of `_Linears`."""

    linears: _Linears
    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)


class _Norm:
    """A LayerNorm after dropout and residual."""

    def __init__(self, norm: nn.LayerNorm, gradients: _Gradients) -> None:
        self._norm, self._gradients = norm, gradients
        self._width = list(norm.normalized_shape)

    def forward(self, x: Tensor, update: Tensor, kept: Tensor | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Returns the norm of `x` plus what is `kept` of `update`, and what `backward` needs."""
        total = x + update if kept is None else torch.addcmul(x, update, kept)
        weight, bias = self._norm.weight.detach(), self._norm.bias.detach()
        y, mean, deviation = torch.native_layer_norm(total, self._width, weight, bias, self._norm.eps)
        return y, (total, mean, deviation)

    def backward(self, of_y: Tensor, saved: Sequence[Tensor], kept: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns the gradients of `x` and of `update`."""
        total, mean, deviation = saved
        weight, bias = self._norm.weight.detach(), self._norm.bias.detach()
        of_total, of_weight, of_bias = aten.native_layer_norm_backward(
            of_y, total, self._width, mean, deviation, weight, bias, [True, True, True]
        )
        self._gradients.add(self._norm.weight, of_weight)
        self._gradients.add(self._norm.bias, of_bias)
        return of_total, of_total if kept is None else of_total * kept


class _Attention(NamedTuple):
    query: _Linears
    key_value: _Linears
    output: _Linears
    norm: _Norm
    head_dim: int

    def refresh(self) -> None:
        for linears in (self.query, self.key_value, self.output):
            linears.refresh()


class _Ffn(NamedTuple):
    input: _Linears
    output: _Linears
    norm: _Norm

    def refresh(self) -> None:
        for linears in (self.input, self.output):
            linears.refresh()


_Sublayers = tuple[_Attention | None, _Ffn | None]


def _sublayers(layer: EncoderLayer, dtype: torch.dtype, gradients: _Gradients) -> _Sublayers:
    def linears(*names: str) -> _Linears:
        return _Linears([getattr(layer, name) for name in names], dtype, gradients)

    def norm(name: str) -> _Norm:
        return _Norm(getattr(layer, name), gradients)

    attention, ffn = None, None
    if layer.spec.has_attention:
        head_dim = len(cast(nn.Linear, layer.query).weight) // layer.spec.heads
        matrices = linears("query"), linears("key", "value"), linears("attention_output")
        attention = _Attention(*matrices, norm("attention_norm"), head_dim)
    if layer.spec.has_ffn:
        ffn = _Ffn(linears("ffn_input"), linears("ffn_output"), norm("ffn_norm"))
    return attention, ffn


Shape = tuple[int, int, int]
"""Batch, tokens of a sequence, heads."""


class _AttentionPart(NamedTuple):
    """The first `heads` of a layer, for the queries of the first `rows` tokens; None: of all."""

    layer: _Attention
    heads: int
    rows: int | None


class _AttentionFunction(torch.autograd.Function):
    """The attention of `x` [batch, tokens, hidden], with residual and LayerNorm."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, _token: Tensor, part: _AttentionPart, kinds: Tensor, dropout: float) -> Tensor:
        layer, heads, rows = part
        batch, tokens, hidden = x.shape
        inner, whole = heads * layer.head_dim, (batch, tokens, heads)
        asked = batch, tokens if rows is None else rows, heads
        query_of, key_value_of = layer.query.part(inner), layer.key_value.part(inner)
        read, asking = x.reshape(-1, hidden), x[:, :rows].reshape(-1, hidden)
        (query,) = _by_head(query_of(asking), asked)
        key, value = _by_head(key_value_of(read), whole, 2)
        unseen = torch.zeros(kinds.shape, dtype=x.dtype).masked_fill_(kinds == PADDING, -torch.inf)
        bias = unseen[:, None, None].expand(-1, heads, asked[1], -1).flatten(0, 1)
        scores = torch.baddbmm(bias, query, key.transpose(1, 2), alpha=1.0 / math.sqrt(layer.head_dim))
        probabilities = scores.float().softmax(-1)
        used, seen = probabilities.to(x.dtype), _kept(scores.shape, dropout, x.dtype)
        used = used if seen is None else used * seen
        context = _by_token(torch.bmm(used, value)[None], asked)
        output = layer.output.part(inputs=inner)
        kept = _kept(asking.shape, dropout, x.dtype)
        y, normed = layer.norm.forward(asking, output(context), kept)
        ctx.part = part
        ctx.weights = query_of.weight, key_value_of.weight, output.weight
        ctx.save_for_backward(x, query, key, value, probabilities, used, seen, context, kept, *normed)
        return y.view(batch, asked[1], hidden)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        layer, heads, _ = ctx.part
        x, query, key, value, probabilities, used, seen, context, kept, *normed = ctx.saved_tensors
        query_weight, key_value_weight, output_weight = ctx.weights
        batch, tokens, hidden = x.shape
        rows = query.shape[1]
        whole, asked = (batch, tokens, heads), (batch, rows, heads)
        of_asking, of_update = layer.norm.backward(gradients[0].reshape(-1, hidden), normed, kept)
        layer.output.add_gradients(of_update, context)
        (of_context,) = _by_head(of_update @ output_weight, asked)
        of_used = torch.bmm(of_context, value.transpose(1, 2))
        of_probabilities = (of_used if seen is None else of_used.mul_(seen)).float()
        of_scores = aten._softmax_backward_data(of_probabilities, probabilities, -1, torch.float32)
        of_scores = of_scores.mul_(1.0 / math.sqrt(layer.head_dim)).to(x.dtype)
        of_query = _by_token(torch.bmm(of_scores, key)[None], asked)
        of_key_value = torch.stack(
            (torch.bmm(of_scores.transpose(1, 2), query), torch.bmm(used.transpose(1, 2), of_context))
        )
        of_key_value = _by_token(of_key_value, whole)
        read, asking = x.reshape(-1, hidden), x[:, :rows].reshape(-1, hidden)
        layer.query.add_gradients(of_query, asking)
        layer.key_value.add_gradients(of_key_value, read)
        of_asking.addmm_(of_query, query_weight)
        if rows == tokens:
            return of_asking.addmm_(of_key_value, key_value_weight).view_as(x), *[None] * 4
        of_x = (of_key_value @ key_value_weight).view_as(x)
        of_x[:, :rows] += of_asking.view(batch, rows, hidden)
        return of_x, *[None] * 4


class _FfnFunction(torch.autograd.Function):
    """The FFN of `x` [batch, tokens, hidden] with residual and LayerNorm, by the first `neurons` of a layer."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, _token: Tensor, layer: _Ffn, neurons: int, dropout: float) -> Tensor:
        read = x.reshape(-1, x.shape[2])
        first, second = layer.input.part(neurons), layer.output.part(inputs=neurons)
        before = first(read)
        after = functional.gelu(before)
        kept = _kept(read.shape, dropout, x.dtype)
        y, normed = layer.norm.forward(read, second(after), kept)
        ctx.layer, ctx.weights = layer, (first.weight, second.weight)
        ctx.save_for_backward(read, before, after, kept, *normed)
        return y.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        layer, (first, second) = ctx.layer, ctx.weights
        read, before, after, kept, *normed = ctx.saved_tensors
        of_read, of_update = layer.norm.backward(gradients[0].reshape(read.shape), normed, kept)
        layer.output.add_gradients(of_update, after)
        of_before = aten.gelu_backward(of_update @ second, before)
        layer.input.add_gradients(of_before, read)
        return of_read.addmm_(of_before, first).view_as(gradients[0]), *[None] * 4


def _by_head(rows: Tensor, shape: Shape, stacked: int = 1) -> Tensor:
    """`rows` [batch x tokens, stacked x heads x head_dim] as [stacked, batch x heads, tokens, head_dim]."""
    batch, tokens, heads = shape
    parts = rows.view(batch, tokens, stacked, heads, rows.shape[1] // (stacked * heads))
    return parts.permute(2, 0, 3, 1, 4).flatten(1, 2)


def _by_token(parts: Tensor, shape: Shape) -> Tensor:
    """`parts` [stacked, batch x heads, tokens, head_dim] as [batch x tokens, stacked x heads x head_dim]."""
    batch, tokens, heads = shape
    each = parts.view(len(parts), batch, heads, tokens, parts.shape[3])
    return each.permute(1, 3, 0, 2, 4).flatten(2).flatten(0, 1)


def _kept(shape: torch.Size, dropout: float, dtype: torch.dtype) -> Tensor | None:
    """Draws what dropout multiplies by, 0 or 1 / (1 - dropout); None without dropout.

    16 random bits decide on each. `bernoulli_` draws one number after another, of 64 bits, at 6 times the cost.
    """
    if not dropout:
        return None
    count = shape.numel()
    bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:count]
    kept = torch.ge(bits, round(dropout * 2**16) - 2**15, out=torch.empty(count, dtype=dtype))
    return kept.mul_(1.0 / (1.0 - dropout) if dropout < 1.0 else 0.0).view(shape)


def _is_plain(layer: EncoderLayer, spec: LayerSpec) -> bool:
    extras = (layer.pre_norm, layer.is_glu, layer.rotary, spec.blocks, spec.tokens < 1.0)
    rounded = any(precision != "fp32" for precision in layer.precisions.values())
    if any(extras) or rounded or layer.position_bias is not None:
        return False
    rows = (layer.attention_rows if spec.has_attention else None, layer.ffn_rows if spec.has_ffn else None)
    if any(kept is not None for kept in rows):
        return False
    return all(
        type(module) in (nn.Linear, nn.LayerNorm, nn.Dropout, EncoderLayer) and not module._forward_hooks
        for module in layer.modules()
    )
