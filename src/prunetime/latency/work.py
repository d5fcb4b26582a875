"""Counts the work of the engine for a batch, sub-layer by sub-layer: operations, weights read, vector work."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from prunetime._engine import narrow_attention, number_bytes
from prunetime.core.arch import FFN_MATRICES
from prunetime.core.arrays import Int64Array
from prunetime.core.precision import ONE_PRECISION, Precision
from prunetime.inference.engine import Engine
from prunetime.inference.ragged import Ragged

Lengths = Int64Array


@dataclass(frozen=True)
class MatrixProduct:
    """A matrix product: multiplications and additions, bytes of weights, and the precision in which it is done."""

    operations: int
    weight_bytes: int
    precision: Precision


@dataclass(frozen=True)
class SublayerWork:
    """The work of one sub-layer, that at `slot` of `Engine.timed`.

    `core` are the multiplications and additions of queries with keys and of probabilities with values, in
    `core_precision`. `numbers` is the vector work by kind: gelu_fp32, gelu_bf16 (by the precision that is written),
    softmax, norm (LayerNorm with the residual), encode_bf16, encode_int8.
    """

    name: str
    slot: int
    products: tuple[MatrixProduct, ...] = ()
    core: int = 0
    core_precision: Precision = "fp32"
    numbers: Mapping[str, int] = field(default_factory=dict)

    @property
    def operations(self) -> int:
        return self.core + sum(product.operations for product in self.products)

    @property
    def weight_bytes(self) -> int:
        return sum(product.weight_bytes for product in self.products)


def work(engine: Engine, batch: Ragged, every_token: bool = False) -> list[SublayerWork]:
    """The work of `engine` for `batch`; sub-layers that are gone are left out.

    Of a matrix that is run block by block its kept blocks count. From the last attention on, a head that reads only
    the first token of each sequence needs no other; with `every_token` all are counted all the same.
    """
    count = _Count(engine)
    layers = engine.spec.layers
    pools = engine.config.reads_one_token and not every_token
    last = max((i for i, layer in enumerate(layers) if layer.has_attention), default=-1)
    lengths = batch.lengths.astype(np.int64)
    first = np.ones_like(lengths)
    left = first if pools and last < 0 else lengths
    found = [count.embedding(lengths, left)]
    for i, layer in enumerate(layers):
        lengths = left
        if layer.has_attention:
            pooled = pools and i == last
            left = first if pooled else np.array([layer.tokens_kept(int(length)) for length in lengths], np.int64)
            found.append(count.attention(i, lengths, first if pooled else lengths, left))
        if layer.has_ffn:
            found.append(count.ffn(i, left))
    return [*found, count.head(left if engine.config.reads_every_token else first)]


class _Count:
    """Counts for one engine. `lengths` are the tokens of each sequence."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._dims = engine.config.dims
        self._layers = engine.spec.layers
        self._number_bytes = number_bytes(engine.isa)

    def embedding(self, lengths: Lengths, left: Lengths) -> SublayerWork:
        numbers = Counter(norm=int(lengths.sum()) * self._dims.hidden)
        return SublayerWork("embedding", 0, numbers=numbers + self._encode(self._next(0), left, self._dims.hidden))

    def attention(self, i: int, lengths: Lengths, queries: Lengths, left: Lengths) -> SublayerWork:
        """Counts an attention after which `left` tokens stay of `queries`: the others skip the output matrix."""
        width = self._layers[i].heads * self._dims.head_dim
        pairs = self._pairs(i, queries, lengths)
        tokens = {"query": queries, "key": lengths, "value": lengths, "attention_output": left}
        numbers = Counter(softmax=pairs * self._layers[i].heads, norm=int(left.sum()) * self._dims.hidden)
        numbers += self._encode(self._name(i, "attention_output"), left, width)
        numbers += self._encode(self._next(i, after_attention=True), left, self._dims.hidden)
        narrow = self._engine.precision[self._name(i, "query")] != "fp32" and not self._engine.config.rotary
        core: Precision = "bf16" if narrow and narrow_attention(self._engine.isa) == "bf16" else "fp32"
        return SublayerWork(f"attention {i}", 1 + 2 * i, self._products(i, tokens), 4 * pairs * width, core, numbers)

    def _pairs(self, i: int, queries: Lengths, lengths: Lengths) -> int:
        """Counts pairs of queries and the keys that they attend to; `queries` are the first ones of every sequence, but
        for a last token whose row alone is read: the engine compares its query with all keys."""
        config = self._engine.config
        window = config.rotary[i].window if config.rotary else None
        if window is None or (config.pooling == "lasttoken" and bool((queries == 1).all())):
            return int((queries * lengths).sum())
        places = [(np.arange(count), length) for count, length in zip(queries, lengths, strict=True)]
        spans = (np.minimum(at + window + 1, length) - np.maximum(at - window, 0) for at, length in places)
        return sum(int(span.sum()) for span in spans)

    def ffn(self, i: int, lengths: Lengths) -> SublayerWork:
        output, tokens = self._name(i, "ffn_output"), int(lengths.sum())
        in_bf16 = self._engine.precision[output] == "bf16"  # then GELU writes it
        numbers = Counter({"gelu_bf16" if in_bf16 else "gelu_fp32": tokens * self._layers[i].ffn})
        if not in_bf16:
            numbers += self._encode(output, lengths, self._layers[i].ffn)
        numbers += Counter(norm=tokens * self._dims.hidden)
        numbers += self._encode(self._next(i + 1), lengths, self._dims.hidden)
        matrices = [name for name in FFN_MATRICES if name in self._layers[i].matrix_shapes(self._dims)]
        return SublayerWork(f"ffn {i}", 2 + 2 * i, self._products(i, dict.fromkeys(matrices, lengths)), numbers=numbers)

    def head(self, lengths: Lengths) -> SublayerWork:
        config, tokens = self._engine.config, int(lengths.sum())
        read, is_encoded = self._dims.hidden, self._head_reads_hidden_rows
        products, numbers = [], Counter[str]()
        for name, layer in config.head_layers:
            if layer.kind == "dense":
                products.append(self._product(name, layer.width * read, lengths))
                numbers += Counter() if is_encoded else self._encode(name, lengths, read)
            else:
                numbers += Counter(norm=tokens * layer.width)
            read, is_encoded = layer.width, False
        return SublayerWork("head", 1 + 2 * len(self._layers), tuple(products), numbers=numbers)

    @property
    def _head_reads_hidden_rows(self) -> bool:
        """Whether the head's first layer is a matrix that reads hidden rows as they are; the others read what pooling
        makes of the rows in float32."""
        config = self._engine.config
        layers = config.head_layers
        return bool(layers) and layers[0][1].kind == "dense" and (config.reads_every_token or config.reads_one_token)

    def _products(self, i: int, tokens: Mapping[str, Lengths]) -> tuple[MatrixProduct, ...]:
        layer, plan = self._layers[i], self._engine.plan
        kept = layer.matrix_weights(self._dims)
        dense = {name: math.prod(shape) for name, shape in layer.matrix_shapes(self._dims).items()}
        weights = {name: (kept if plan.of(i, name).sparse else dense)[name] for name in tokens}
        return tuple(self._product(self._name(i, name), weights[name], tokens[name]) for name in tokens)

    def _product(self, name: str, weights: int, lengths: Lengths) -> MatrixProduct:
        precision = self._engine.precision[name]
        return MatrixProduct(2 * weights * int(lengths.sum()), weights * self._number_bytes[precision], precision)

    def _encode(self, name: str | None, lengths: Lengths, width: int) -> Counter[str]:
        """Vector work of writing the input of the matrix `name` (if any), `width` wide, in the precision it reads."""
        precision = self._engine.precision[name] if name else "fp32"
        return Counter() if precision == "fp32" else Counter({f"encode_{precision}": int(lengths.sum()) * width})

    def _next(self, layer: int, after_attention: bool = False) -> str | None:
        """The matrix that reads the hidden rows which come into `layer`, or into its FFN; None: no matrix does."""
        for i in range(layer, len(self._layers)):
            if self._layers[i].has_attention and not (after_attention and i == layer):
                return self._name(i, ONE_PRECISION[0])
            if self._layers[i].has_ffn:
                return self._name(i, FFN_MATRICES[0])
        return self._engine.config.head_layers[0][0] if self._head_reads_hidden_rows else None

    def _name(self, layer: int, matrix: str) -> str:
        return f"layers.{layer}.{matrix}"
