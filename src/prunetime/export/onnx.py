"""Writing an encoder as ONNX. The graph is built from the weights themselves: no torch and no tracing, so uneven
layers are no special case, and a model is written in the time that its bytes take.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from prunetime.core.arch import ArchSpec, LayerSpec
from prunetime.core.arrays import Weights
from prunetime.core.artifact import write_bytes
from prunetime.core.blocks import expand
from prunetime.core.config import FAMILIES, LEAST_COUNT, LEAST_LENGTH, Activation, EncoderConfig
from prunetime.core.positions import angles, by_distance
from prunetime.core.task import Task
from prunetime.errors import InputError
from prunetime.models.compact import spec_of

OLDEST_OPSET = 17
"""The first that has LayerNormalization."""

LARGEST_BYTES = 2**31 - 2**20
"""Protobuf's limit for one file, less what the graph takes besides the weights."""

MASKED = float(np.finfo(np.float32).min)
"""Added to the scores of padding: exp of it is zero, and no score added to it makes it infinite."""


def export_onnx(
    config: EncoderConfig,
    weights: Weights,
    path: Path,
    opset: int = OLDEST_OPSET,
    spec: ArchSpec | None = None,
    task: Task | None = None,
) -> None:
    """Write the encoder to the file `path`, whole or (on an error) not at all.

    Inputs are input_ids, attention_mask and token_type_ids, int64 [batch, tokens] of any size; the output is called
    logits, float32 [batch, outputs] (with a row per token [batch, tokens, outputs]), or sentence_embedding. Matrices in
    blocks are written out dense. The metadata hold the `encoder`, its `spec` and its `task` as JSON, which has the
    names of outputs and the threshold of labels; without `spec` it is read off the weights.
    Raises InputError for an opset out of range, a spec that drops tokens, weights beyond the 2 GiB of an ONNX file, or
    a file that cannot be written.
    """
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise InputError(f"opset is {opset}; it must be from {OLDEST_OPSET} to {newest}")
    spec = spec_of(weights, config.dims) if spec is None else spec
    for index, layer in enumerate(spec.layers):
        if layer.tokens < 1.0:
            raise InputError(
                f"layer {index} keeps {layer.tokens:g} of its tokens, and the ONNX graph drops none: export a model "
                "that keeps all of them (tokens 1)"
            )
    weights = expand(weights, config, spec)
    size = sum(array.nbytes for array in weights.values())
    if size > LARGEST_BYTES:
        raise InputError(f"the weights are {size} bytes; an ONNX file holds at most {LARGEST_BYTES}")
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(
        _Graph(config, spec, weights, opset).build(),
        opset_imports=opsets,
        ir_version=helper.find_min_ir_version_for(opsets),
        producer_name="prunetime",
    )
    metadata = {"encoder": json.dumps(config.to_json(), sort_keys=True), "spec": json.dumps(spec.to_json())}
    if task is not None:
        metadata["task"] = json.dumps(task.to_json())
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    write_bytes(path, model.SerializeToString())


def output_name(config: EncoderConfig) -> str:
    """The name of the graph's output; an embedding has the name that sentence-transformers gives it."""
    return "sentence_embedding" if config.rows == "embedding" else "logits"


Input = str | float | list[int]
"""An input of a node: the name of an output or of a weight, or a constant, float32 or (of whole numbers) int64."""


class _Graph:
    """The nodes and tensors of the forward pass, in order. Methods take and return names of tensors."""

    def __init__(self, config: EncoderConfig, spec: ArchSpec, weights: Weights, opset: int) -> None:
        self.config = config
        self.opset = opset
        self.spec = spec
        self.weights = weights
        self.family = FAMILIES[config.family]
        self.rotary = {f"layers.{index}": layer for index, layer in enumerate(config.rotary)}
        self.nodes: dict[str, onnx.NodeProto] = {}
        self.tensors: dict[str, onnx.TensorProto] = {}

    def build(self) -> onnx.GraphProto:
        inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if self.family.token_types else [])]
        x = self._embeddings()
        # Range hides from shape inference that the length is still the input's, and ORT fuses only equal shapes.
        known = helper.make_tensor_value_info(x, TensorProto.FLOAT, ["batch", "tokens", self.config.dims.hidden])
        mask = self._mask()
        for index, layer in enumerate(self.spec.layers):
            x = self._layer(f"layers.{index}", layer, x, mask)
        self._head(x)
        rows = ["batch", "tokens"] if self.config.rows == "tokens" else ["batch"]
        return helper.make_graph(
            list(self.nodes.values()),
            "prunetime",
            [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"]) for name in inputs],
            [helper.make_tensor_value_info(output_name(self.config), TensorProto.FLOAT, [*rows, self.config.outputs])],
            list(self.tensors.values()),
            value_info=[known],
        )

    def _embeddings(self) -> str:
        x = self._add("Gather", "embeddings.word.weight", "input_ids")
        if not self.family.rotary:
            positions = self._positions() if self.family.padding is None else self._positions_but_padding()
            x = self._add("Add", x, self._add("Gather", "embeddings.position.weight", positions))
        if self.family.token_types:
            x = self._add("Add", x, self._add("Gather", "embeddings.token_type.weight", "token_type_ids"))
        x = self._norm("embeddings.norm", x)
        return self._linear("embeddings.project", x) if self.config.projects else x

    def _positions(self) -> str:
        return self._add("Range", 0, self._add("Gather", self._add("Shape", "input_ids"), 1), 1)

    def _positions_but_padding(self) -> str:
        """The position of every token, [batch, tokens]: from the family's offset, padding before it and not counted."""
        padding = self.family.position_offset - 1
        counted = self._add("Cast", self._add("Not", self._add("Equal", "input_ids", padding)), to=TensorProto.INT64)
        count = self._add("CumSum", counted, 1)
        return self._add("Add", self._add("Mul", count, counted), padding)

    def _mask(self) -> str:
        """The mask that is added to the scores, [batch, 1, 1, tokens]."""
        rows = self._add("Unsqueeze", "attention_mask", [1])
        kept = self._add("Cast", self._add("Unsqueeze", rows, [2]), to=TensorProto.FLOAT)
        return self._add("Mul", self._add("Sub", 1.0, kept), MASKED)

    def _layer(self, name: str, layer: LayerSpec, x: str, mask: str) -> str:
        if layer.has_attention:
            x = self._sublayer(x, f"{name}.attention", lambda read: self._context(name, layer, read, mask))
        if layer.has_ffn:
            x = self._sublayer(x, f"{name}.ffn", lambda read: self._inner(name, read))
        return x

    def _sublayer(self, x: str, name: str, inner: Callable[[str], str]) -> str:
        """`x` with what the output matrix makes of `inner` added, and LayerNorm before or after that."""
        norm, before = f"{name}_norm", self.family.pre_norm
        read = self._norm(norm, x) if before and f"{norm}.weight" in self.weights else x
        total = self._residual(x, f"{name}_rows", self._linear(f"{name}_output", inner(read)))
        return total if before else self._norm(norm, total)

    def _inner(self, name: str, x: str) -> str:
        """The activations of the FFN neurons."""
        rows = self._gelu(self._linear(f"{name}.ffn_input", x))
        return self._add("Mul", rows, self._linear(f"{name}.ffn_gate", x)) if self.family.gated else rows

    def _context(self, name: str, layer: LayerSpec, x: str, mask: str) -> str:
        """The context vectors of the heads, [batch, tokens, heads x head_dim]."""
        head_dim, rotary = self.config.dims.head_dim, self.rotary.get(name)

        def per_head(part: str, order: list[int]) -> str:
            split = self._add("Reshape", self._linear(f"{name}.{part}", x), [0, 0, layer.heads, head_dim])
            return self._add("Transpose", split, perm=order)

        if rotary is None:
            query, key = per_head("query", [0, 2, 1, 3]), per_head("key", [0, 2, 3, 1])
        else:
            query, key = (self._turned(per_head(part, [0, 2, 1, 3]), rotary.theta) for part in ("query", "key"))
            key = self._add("Transpose", key, perm=[0, 1, 3, 2])
            mask = mask if rotary.window is None else self._add("Min", mask, self._sliding_window(rotary.window))
        value = per_head("value", [0, 2, 1, 3])
        scores = self._add("Div", self._add("MatMul", query, key), math.sqrt(head_dim))
        if self.family.relative_positions:
            scores = self._add("Add", scores, self._position_bias(name))
        probabilities = self._add("Softmax", self._add("Add", scores, mask), axis=-1)
        context = self._add("Transpose", self._add("MatMul", probabilities, value), perm=[0, 2, 1, 3])
        return self._add("Reshape", context, [0, 0, layer.heads * head_dim])

    def _position_bias(self, name: str) -> str:
        """[heads, queries, keys]"""
        longest = self.config.longest
        table = self._tensor(f"{name}.position_bias", by_distance(self.weights[f"{name}.position_bias"], longest))
        return self._add("Gather", table, self._add("Add", self._distances(), longest - 1), axis=1)

    def _distances(self) -> str:
        """Key - query, [queries, keys]."""
        keys, queries = (self._add("Unsqueeze", self._positions(), [axis]) for axis in (0, 1))
        return self._add("Sub", keys, queries)

    def _sliding_window(self, window: int) -> str:
        """The mask of sliding-window attention, [queries, keys]: it is added to the scores."""
        far = self._add("Greater", self._add("Abs", self._distances()), window)
        return self._add("Where", far, MASKED, 0.0)

    def _turned(self, x: str, theta: float) -> str:
        """Queries or keys `x` [batch, heads, tokens, head_dim] at their positions."""
        turns = angles(theta, self.config.dims.head_dim, self.config.longest).astype(np.float64)
        tables = {f"cosine {theta!r}": np.cos(turns), f"sine {theta!r}": np.sin(turns)}
        cosine, sine = (
            self._add("Gather", self._tensor(name, table.astype(np.float32)), self._positions())
            for name, table in tables.items()
        )
        half = self.config.dims.head_dim // 2
        left, right = (self._add("Slice", x, [start], [start + half], [-1]) for start in (0, half))
        return self._add(
            "Concat",
            self._add("Sub", self._add("Mul", left, cosine), self._add("Mul", right, sine)),
            self._add("Add", self._add("Mul", right, cosine), self._add("Mul", left, sine)),
            axis=-1,
        )

    def _residual(self, x: str, rows: str, update: str) -> str:
        """`x` plus `update`, whose columns belong at the indices `rows`: the others gather a column of zeros."""
        if rows in self.weights:
            kept = self.weights[rows]
            source = np.full(self.config.dims.hidden, len(kept), np.int64)
            source[kept] = np.arange(len(kept))
            padded = self._add("Pad", update, [0, 0, 0, 0, 0, 1])
            update = self._add("Gather", padded, self._tensor(rows, source), axis=2)
        return self._add("Add", x, update)

    def _gelu(self, x: str) -> str:
        """The erf form, in the order of operations that ONNX Runtime fuses into one."""
        erf = self._add("Erf", self._add("Div", x, math.sqrt(2)))
        return self._add("Mul", self._add("Mul", x, self._add("Add", erf, 1.0)), 0.5)

    def _head(self, x: str) -> None:
        if self.family.pre_norm:
            x = self._norm("final_norm", x)
        if self.config.rows != "tokens":
            x = self._pooled(x)
        for name, layer in self.config.head_layers:
            if layer.kind == "dense":
                x = self._activation(layer.activation, self._linear(name, x))
            else:
                x = self._norm(name, x, layer.eps)
        if self.config.normalize:
            length = self._add("Sqrt", self._reduced("ReduceSum", self._add("Mul", x, x), keepdims=1))
            x = self._add("Div", x, self._add("Max", length, LEAST_LENGTH))
        self._add("Identity", x, output=output_name(self.config))

    def _activation(self, activation: Activation, x: str) -> str:
        if activation == "identity":
            return x
        return self._gelu(x) if activation == "gelu" else self._add(activation.capitalize(), x)

    def _pooled(self, x: str) -> str:
        """[batch, hidden], as `models.pooling` pools the rows that are no padding."""
        pooling = self.config.pooling
        if pooling == "first":
            return self._add("Gather", x, 0, axis=1)
        mask = self._add("Unsqueeze", "attention_mask", [2])
        real = self._add("Cast", mask, to=TensorProto.FLOAT)
        if pooling == "max":
            kept = self._add("Where", self._add("Cast", mask, to=TensorProto.BOOL), x, MASKED)
            return self._add("Mul", self._reduced("ReduceMax", kept, axis=1), self._reduced("ReduceMax", real, axis=1))
        if pooling == "lasttoken":
            place = self._add("Mul", real, self._ordinals())
            is_last = self._add("Equal", place, self._reduced("ReduceMax", place, axis=1, keepdims=1))
            real = self._add("Mul", real, self._add("Cast", is_last, to=TensorProto.FLOAT))
            return self._reduced("ReduceSum", self._add("Mul", x, real), axis=1)
        if pooling == "weightedmean":
            padding_before = self._add("ArgMax", real, axis=1, keepdims=1)
            place = self._add("Sub", self._ordinals(), self._add("Cast", padding_before, to=TensorProto.FLOAT))
            real = self._add("Mul", real, place)
        total = self._reduced("ReduceSum", self._add("Mul", x, real), axis=1)
        count = self._add("Max", self._reduced("ReduceSum", real, axis=1), LEAST_COUNT)
        return self._add("Div", total, self._add("Sqrt", count) if pooling == "mean_sqrt_len" else count)

    def _ordinals(self) -> str:
        """1, 2, ... as float32 [tokens, 1]."""
        counted = self._add("Cast", self._add("Add", self._positions(), 1), to=TensorProto.FLOAT)
        return self._add("Unsqueeze", counted, [1])

    def _reduced(self, operator: str, x: str, axis: int = -1, keepdims: int = 0) -> str:
        """`x` reduced over one axis, which operators other than ReduceSum have had as an input since opset 18 only."""
        if operator == "ReduceSum" or self.opset >= 18:
            return self._add(operator, x, [axis], keepdims=keepdims)
        return self._add(operator, x, axes=[axis], keepdims=keepdims)

    def _linear(self, name: str, x: str) -> str:
        weight = self._tensor(f"{name}.weight", np.ascontiguousarray(self.weights[f"{name}.weight"].T))
        return self._add("Add", self._add("MatMul", x, weight), f"{name}.bias")

    def _norm(self, name: str, x: str, eps: float | None = None) -> str:
        """LayerNorm; its eps is that of the encoder unless it is given."""
        eps = self.config.layer_norm_eps if eps is None else eps
        return self._add("LayerNormalization", x, f"{name}.weight", f"{name}.bias", axis=-1, epsilon=eps)

    def _tensor(self, name: str, value: Any) -> str:
        if name not in self.tensors:
            self.tensors[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def _add(self, operator: str, *inputs: Input, output: str | None = None, **attributes: Any) -> str:
        """Adds a node, unless there is an equal one, and what it reads of weights and constants; returns the name of
        its output."""
        names = [self._named(each) for each in inputs]
        key = f"{operator} {names} {attributes}"
        if key not in self.nodes:
            output = output or f"{operator} {len(self.nodes)}"
            self.nodes[key] = helper.make_node(operator, names, [output], name=output, **attributes)
        return str(self.nodes[key].name)

    def _named(self, given: Input) -> str:
        if isinstance(given, str):
            return self._tensor(given, self.weights[given]) if given in self.weights else given
        return self._tensor(repr(given), np.asarray(given, np.float32 if isinstance(given, float) else np.int64))
