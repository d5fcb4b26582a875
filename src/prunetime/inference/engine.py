"""The engine: encoders of any `ArchSpec` on this CPU, without torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np

import prunetime._engine as _engine
from prunetime.core.arch import MATRICES, ArchSpec, KeptBlocks, LayerSpec
from prunetime.core.arrays import Array, BoolArray, Float32Array, Float64Array, Weights
from prunetime.core.blocks import to_dense
from prunetime.core.config import FAMILIES, EncoderConfig
from prunetime.core.positions import BUCKETS, by_distance
from prunetime.core.precision import Precision, PrecisionPlan
from prunetime.errors import EngineError, InputError
from prunetime.inference.ragged import Ragged

HiddenState = Float32Array
"""The hidden states [tokens, hidden] of a batch that come into a layer."""

ReferenceKernel = _engine.ReferenceKernel
"""A unit of time: `ReferenceKernel(isa="").run()` does a fixed piece of work on one thread, some 300 us with AVX2."""


class Engine:
    """An encoder ready to run. Calls from several Python threads take turns.

    `weights` are the arrays of an encoder of `config` by name; a sub-layer without arrays is gone. They are copied.
    `threads` includes the calling thread. `isa` is one of `supported_isas()`; without it the environment variable
    PRUNETIME_ISA decides, and without that the CPU. `spec` is needed for what arrays cannot say: the fraction of the
    tokens that every layer keeps. `plan` says the precision of every matrix.

    Raises:
        EngineError: an array is missing, unexpected, of another shape or type, or not finite; `isa` or `threads`
            cannot be had.
    """

    def __init__(
        self,
        config: EncoderConfig,
        weights: Weights,
        threads: int = 1,
        isa: str | None = None,
        *,
        spec: ArchSpec | None = None,
        plan: PrecisionPlan = PrecisionPlan(),
    ) -> None:
        try:
            stored = {name: np.require(array, requirements=["C", "A", "E"]) for name, array in weights.items()}
            run_plan = _run_plan(config, spec, plan)
            arrays = _as_run(stored, config, plan)
            self._encoder = _engine.Encoder(_settings(config), run_plan, arrays, threads, isa or "")
        except (ValueError, TypeError, InputError) as error:
            raise EngineError(str(error)) from None
        self.config = config
        self.plan = plan
        self.precision: Mapping[str, Precision] = run_plan["precision"]
        """The precision of every matrix by name (`layers.0.query`, `head.dense`)."""
        self.spec = _spec_of(self._encoder.layer_counts, stored, spec)
        self.isa: str = self._encoder.isa
        self.threads: int = self._encoder.threads
        self.weight_bytes: int = self._encoder.weight_bytes

    def logits(self, batch: Ragged) -> Float32Array:
        """Logits of any number of sequences, [sequences, outputs].

        Raises:
            EngineError: an id, type or length is out of range, numbers overflowed inside the encoder, or tokens are
                skipped by an encoder that pools none, or drops tokens.
        """
        try:
            return self._encoder.forward(batch.ids, batch.types, batch.offsets, batch.skipped)
        except (ValueError, TypeError) as error:
            raise EngineError(str(error)) from None

    def timed(self, batch: Ragged) -> tuple[Float32Array, Float64Array]:
        """Logits, and the microseconds of every sub-layer [2 * layers + 2], as the calling thread saw them.

        In the order embedding, attention 0, ffn 0, attention 1, ..., head; a sub-layer that is gone has 0.
        """
        try:
            logits, nanoseconds = self._encoder.forward_timed(batch.ids, batch.types, batch.offsets, batch.skipped)
        except (ValueError, TypeError) as error:
            raise EngineError(str(error)) from None
        return logits, nanoseconds / 1e3

    def select(self, spec: ArchSpec) -> None:
        """Runs only the first heads and FFN neurons of every layer, and keeps as many tokens, as `spec` says, until the
        next call.

        Raises:
            EngineError: `spec` has more of them than this encoder, cuts a block apart, or drops tokens without a head
                to choose them by, or of a head that reads every token's hidden state.
        """
        heads, ffn, tokens = ([getattr(layer, name) for layer in spec.layers] for name in ("heads", "ffn", "tokens"))
        try:
            self._encoder.select(heads, ffn, tokens)
        except (ValueError, TypeError) as error:
            raise EngineError(str(error)) from None

    def logits_between(
        self, batch: Ragged, start: tuple[int, HiddenState] | None, leave: Mapping[int, HiddenState]
    ) -> Float32Array:
        """Logits, the same bits as from `logits`, of a pass that begins and leaves states in between.

        It begins at the layer `start` with the state that an earlier pass over `batch` left there, with the same layers
        before it; or at the embedding, where `start` is None. The states that come into the layers of `leave` are
        written to the arrays there.

        Raises:
            EngineError: as `logits`; or a state is of another shape or type, or of a layer into which not all tokens
                come.
        """
        first, state = start or (0, None)
        try:
            return self._encoder.forward_between(
                batch.ids, batch.types, batch.offsets, first, state, dict(leave), batch.skipped
            )
        except (ValueError, TypeError) as error:
            raise EngineError(str(error)) from None

    def kept(self, batch: Ragged) -> tuple[Float32Array, BoolArray]:
        """Logits, and [layers, tokens] which tokens are left after each layer.

        From the last attention on, only the token of each sequence is left whose hidden state the head reads, if it
        reads no other.
        """
        try:
            logits, kept = self._encoder.forward_kept(batch.ids, batch.types, batch.offsets, batch.skipped)
        except (ValueError, TypeError) as error:
            raise EngineError(str(error)) from None
        return logits, kept.astype(np.bool_)


def engine_build() -> str:
    """Identifies the build of the engine: it changes with the version, the compiler and the engine's sources."""
    return _engine.BUILD


def chosen_isa() -> str:
    """The one that an engine takes that is told none."""
    return os.environ.get("PRUNETIME_ISA") or supported_isas()[-1]


def supported_isas() -> list[str]:
    """The instruction sets that this CPU and this build have kernels for, slowest first."""
    return _engine.supported_isas()


def _settings(config: EncoderConfig) -> dict[str, Any]:
    dims, family = config.dims, FAMILIES[config.family]
    return {
        "layers": dims.layers,
        "embedding": config.embedding,
        "hidden": dims.hidden,
        "heads": dims.heads,
        "head_dim": dims.head_dim,
        "ffn": dims.ffn,
        "vocabulary": dims.vocabulary,
        "positions": dims.positions,
        "position_offset": family.position_offset,
        "token_types": config.token_types if family.token_types else 0,
        "relative_positions": family.relative_positions,
        "rotary_theta": [layer.theta for layer in config.rotary],
        "rotary_window": [layer.window or 0 for layer in config.rotary],
        "pre_norm": family.pre_norm,
        "gated": family.gated,
        "layer_norm_eps": config.layer_norm_eps,
        "outputs": config.outputs,
        "rows": "all" if config.reads_every_token else config.pooling,
        "head": [{"name": name, **asdict(layer)} for name, layer in config.head_layers],
        "normalize": config.normalize,
        "separator": -1 if config.separator is None else config.separator,
    }


def _run_plan(config: EncoderConfig, spec: ArchSpec | None, plan: PrecisionPlan) -> dict[str, Any]:
    layers = range(config.dims.layers)
    if spec is not None and len(spec.layers) != len(layers):
        raise EngineError(f"a spec of {len(spec.layers)} layers for an encoder of {len(layers)}")
    precision: dict[str, Precision] = {
        f"layers.{i}.{matrix}": plan.of(i, matrix).precision for i in layers for matrix in MATRICES
    }
    dense = [name for name, layer in config.head_layers if layer.kind == "dense"]
    narrow: Precision = "fp32" if plan.default.precision == "fp32" else "bf16"
    precision |= {name: "fp32" if name == dense[-1] else narrow for name in dense}
    return {"precision": precision, "tokens": [1.0 if spec is None else spec.layers[i].tokens for i in layers]}


def _as_run(weights: Weights, config: EncoderConfig, plan: PrecisionPlan) -> dict[str, Array]:
    """`weights` with the matrices dense that are stored in blocks and that `plan` runs dense, and with what heads add
    to scores for every distance."""
    arrays = dict(weights)
    for layer in range(config.dims.layers):
        prefix = f"layers.{layer}."
        if (bias := f"{prefix}position_bias") in arrays:
            shape = arrays[bias].shape
            if len(shape) != 2 or shape[1] != BUCKETS:
                raise EngineError(f"weights: {bias} has shape {list(shape)}; it must have [heads, {BUCKETS}]")
            arrays[bias] = by_distance(arrays[bias], config.longest)
        for matrix in MATRICES:
            name = prefix + matrix
            if f"{name}.blocks" not in arrays or plan.of(layer, matrix).sparse:
                continue
            source = {"attention_output": "query", "ffn_output": "ffn_input"}.get(matrix)
            inner = _array(arrays, f"{prefix}{source}.bias", np.float32).size if source else config.dims.hidden
            shape = (_array(arrays, f"{name}.bias", np.float32).size, inner)
            blocks = _array(arrays, f"{name}.blocks", np.float32)
            block_index = _array(arrays, f"{name}.block_index", np.int32)
            arrays[f"{name}.weight"] = to_dense(blocks, block_index, shape, name)
            del arrays[f"{name}.blocks"], arrays[f"{name}.block_index"]
    return arrays


def _array(arrays: Weights, name: str, dtype: type) -> Array:
    if name not in arrays:
        raise EngineError(f"weights: {name} is missing")
    if arrays[name].dtype != dtype:
        raise EngineError(f"weights: {name} is {arrays[name].dtype}; it must be {np.dtype(dtype)}")
    return arrays[name]


def _spec_of(counts: list[tuple[int, int, int, int]], weights: Weights, spec: ArchSpec | None) -> ArchSpec:
    """The spec that the arrays have, with the tokens kept of `spec`; raises EngineError where the rest differs."""
    layers = []
    for index, layer_counts in enumerate(counts):
        blocks = (
            KeptBlocks(matrix, array.shape[1], array.shape[2], array.shape[0])
            for matrix in MATRICES
            if (array := weights.get(f"layers.{index}.{matrix}.blocks")) is not None
        )
        tokens = 1.0 if spec is None else spec.layers[index].tokens
        layers.append(LayerSpec(*layer_counts, blocks=tuple(blocks), tokens=tokens))
    found = ArchSpec(tuple(layers))
    if spec is not None and _live(found) != _live(spec):
        raise EngineError(f"the arrays are an encoder of {found}, not of {spec}")
    return found


def _live(spec: ArchSpec) -> list[LayerSpec]:
    """Layers in which a sub-layer that is gone has no counts, however it went."""
    layers = []
    for layer in spec.layers:
        attention = layer if layer.has_attention else replace(layer, heads=0, attention_rows=0)
        layers.append(attention if layer.has_ffn else replace(attention, ffn=0, ffn_rows=0))
    return layers
