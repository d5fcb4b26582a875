"""The engine: encoders of any `ArchSpec` on this CPU, without torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import ParamSpec, Protocol, TypeVar

import numpy as np

import prunetime._engine as _engine
from prunetime._engine import ForwardConfig, ForwardPlan, HeadLayerConfig, SharedEncoder
from prunetime.core.arch import MATRICES, ArchSpec, LayerSpec
from prunetime.core.arrays import BoolArray, Float32Array, Float64Array, Weights
from prunetime.core.artifact import Artifact
from prunetime.core.blocks import kept_blocks
from prunetime.core.config import FAMILIES, EncoderConfig
from prunetime.core.positions import BUCKETS, by_distance
from prunetime.core.precision import Precision, PrecisionPlan
from prunetime.errors import EngineError, InputError
from prunetime.inference.ragged import Ragged

Arguments = ParamSpec("Arguments")
Returned = TypeVar("Returned")

HiddenStates = Float32Array
"""The hidden states [tokens, hidden] of a batch that come into a layer."""

ReferenceKernel = _engine.ReferenceKernel
"""A unit of time: `ReferenceKernel(isa="").run()` does a fixed piece of work on one thread, some 300 us with AVX2."""


class RunnableModel(Protocol):
    """A model that is ready to run gives logits of batches: the engine, or a file that another library runs."""

    def logits(self, batch: Ragged) -> Float32Array: ...


class Engine:
    """An encoder ready to run. Calls from several Python threads take turns.

    Args:
        config: the encoder's config.
        weights: its arrays by name (`core.artifact.weight_shapes`), which are copied; a sub-layer without arrays is
            gone.
        threads: how many threads run it, 1 to 256, with the calling one.
        isa: one of `supported_isas()`; without it the environment variable PRUNETIME_ISA decides, and without that the
            CPU.
        spec: the encoder's spec, needed for what arrays cannot say: the fraction of the tokens that every layer keeps.
        plan: the precision of every matrix, and whether one that is stored in blocks is multiplied by them.

    Raises:
        EngineError: an array is missing, unexpected, of another shape or type, or not finite; `isa` or `threads`
            cannot be had.

    Example:
        ```python
        engine = Engine(config, weights, threads=2, plan=Plan.uniform("bf16"))
        logits = engine.logits(Ragged.of([[101, 2023, 102], [101, 102]]))  # [2, outputs]
        ```
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
            run_plan = forward_plan(config, spec, plan)
            arrays = _with_distances(stored, config)
            self._encoder = SharedEncoder(forward_config(config), run_plan, arrays, threads, isa or "")
        except (ValueError, TypeError, InputError) as error:
            raise EngineError(str(error)) from None
        self.config = config
        self.plan = plan
        self.precision: Mapping[str, Precision] = run_plan.precision
        """The precision of every matrix by name (`layers.0.query`, `head.dense`)."""
        self.spec = _spec_of(self._encoder.layer_counts, stored, spec)
        self.isa: str = self._encoder.isa
        self.threads: int = self._encoder.threads
        self.weight_bytes: int = self._encoder.weight_bytes

    @classmethod
    def of(cls, model: Artifact, threads: int = 1, plan: PrecisionPlan | None = None) -> Engine:
        """Returns the engine of an artifact, which runs `plan` or else the artifact's own."""
        manifest = model.manifest
        return cls(manifest.config, model.weights, threads, spec=manifest.spec, plan=plan or manifest.plan)

    def logits(self, batch: Ragged) -> Float32Array:
        """Computes the logits of any number of sequences.

        Returns:
            [sequences, outputs], where the head reads every token [tokens, outputs].

        Raises:
            EngineError: an id, type or length is out of range, numbers overflowed inside the encoder, or tokens are
                skipped by an encoder that pools none, or drops tokens.
        """
        return _answer(self._encoder.forward, batch.ids, batch.types, batch.offsets, batch.skipped)

    def timed(self, batch: Ragged) -> tuple[Float32Array, Float64Array]:
        """Computes the logits, and measures every sub-layer as the calling thread sees it.

        Returns:
            The logits; and microseconds [2 * layers + 2] of embedding, attention 0, ffn 0, attention 1, ..., head; a
            sub-layer that is gone has 0.
        """
        logits, nanoseconds = _answer(self._encoder.forward_timed, batch.ids, batch.types, batch.offsets, batch.skipped)
        return logits, nanoseconds / 1e3

    def select(self, spec: ArchSpec) -> None:
        """Runs only the first heads and FFN neurons of every layer, and keeps as many tokens, as `spec` says, until the
        next call.

        Raises:
            EngineError: `spec` has more of them than this encoder, cuts a block apart, or drops tokens without a head
                to choose them by, or of a head that reads every token's hidden state.
        """
        heads, ffn, tokens = ([getattr(layer, name) for layer in spec.layers] for name in ("heads", "ffn", "tokens"))
        _answer(self._encoder.select, heads, ffn, tokens)

    def logits_between(
        self, batch: Ragged, start: tuple[int, HiddenStates] | None, leave: Mapping[int, HiddenStates]
    ) -> Float32Array:
        """Computes the logits, the same bits as `logits`, in a pass that begins and leaves hidden states in between.

        Args:
            batch: the sequences.
            start: the layer at which the pass begins, and the states that an earlier pass over `batch` left there with
                the same layers before it; None: the embedding.
            leave: arrays that the states which come into these layers are written to.

        Raises:
            EngineError: as `logits`; or states are of another shape or type, or of a layer into which not all tokens
                come.
        """
        first, states = start or (0, None)
        tokens = batch.ids, batch.types, batch.offsets
        return _answer(self._encoder.forward_between, *tokens, first, states, dict(leave), batch.skipped)

    def kept(self, batch: Ragged) -> tuple[Float32Array, BoolArray]:
        """Computes the logits, and says which tokens are left after each layer.

        Returns:
            The logits; and [layers, tokens] whether a token is left. From the last attention on it is only the one of
            each sequence whose row the head reads, if it reads no other.
        """
        logits, kept = _answer(self._encoder.forward_kept, batch.ids, batch.types, batch.offsets, batch.skipped)
        return logits, kept.astype(np.bool_)


def _answer(function: Callable[Arguments, Returned], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Returned:
    """Calls a function of the binding; raises its errors as EngineError."""
    try:
        return function(*args, **kwargs)
    except (ValueError, TypeError) as error:
        raise EngineError(str(error)) from None


def engine_build() -> str:
    """Identifies the build of the engine: it changes with the version, the compiler and the engine's sources."""
    return _engine.BUILD


def chosen_isa() -> str:
    """The instruction set of an engine that is told none.

    Raises:
        EngineError: PRUNETIME_ISA names one that this CPU does not run.
    """
    return _answer(_engine.chosen_isa)


def supported_isas() -> list[str]:
    """The instruction sets that this CPU and this build have kernels for, slowest first."""
    return _engine.supported_isas()


def forward_config(config: EncoderConfig) -> ForwardConfig:
    """`config` as the engine takes it: the differences of its family and the layers of its head are written out."""
    family = FAMILIES[config.family]
    return ForwardConfig(
        **asdict(config.dims),
        embedding=config.embedding,
        position_offset=family.position_offset,
        token_types=config.token_types if family.token_types else 0,
        relative_positions=family.relative_positions,
        rotary_theta=[layer.theta for layer in config.rotary],
        rotary_window=[layer.window or 0 for layer in config.rotary],
        pre_norm=family.pre_norm,
        layer_norm_eps=config.layer_norm_eps,
        outputs=config.outputs,
        rows="all" if config.reads_every_token else config.pooling,
        head=[HeadLayerConfig(name=name, **asdict(layer)) for name, layer in config.head_layers],
        normalize=config.normalize,
        separator=-1 if config.separator is None else config.separator,
    )


def forward_plan(config: EncoderConfig, spec: ArchSpec | None, plan: PrecisionPlan) -> ForwardPlan:
    """`plan` as the engine takes it: by the names of the matrices, with those of the head, and with the fraction of the
    tokens that every layer of `spec` keeps.

    Raises:
        EngineError: `spec` has another number of layers.
    """
    layers = range(config.dims.layers)
    if spec is not None and len(spec.layers) != len(layers):
        raise EngineError(f"a spec of {len(spec.layers)} layers for an encoder of {len(layers)}")
    plans = {f"layers.{i}.{matrix}": plan.of(i, matrix) for i in layers for matrix in MATRICES}
    precision: dict[str, Precision] = {name: of.precision for name, of in plans.items()}
    head = [name for name, layer in config.head_layers if layer.kind == "dense"]
    narrow: Precision = "fp32" if plan.default.precision == "fp32" else "bf16"
    return ForwardPlan(
        precision=precision | {name: "fp32" if name == head[-1] else narrow for name in head},
        dense=[name for name, of in plans.items() if not of.sparse],
        tokens=[1.0 if spec is None else spec.layers[i].tokens for i in layers],
    )


def _with_distances(weights: Weights, config: EncoderConfig) -> Weights:
    """`weights` in which the position bias of a head, by buckets, is written out for every distance."""
    arrays = dict(weights)
    for name in (f"layers.{layer}.position_bias" for layer in range(config.dims.layers)):
        if name in arrays:
            shape = arrays[name].shape
            if len(shape) != 2 or shape[1] != BUCKETS:
                raise EngineError(f"weights: {name} has shape {list(shape)}; it must have [heads, {BUCKETS}]")
            arrays[name] = by_distance(arrays[name], config.longest)
    return arrays


def _spec_of(counts: list[tuple[int, int, int, int]], weights: Weights, spec: ArchSpec | None) -> ArchSpec:
    """The spec that the arrays have, with the tokens kept of `spec`; raises EngineError where the rest differs."""
    tokens = [1.0] * len(counts) if spec is None else [layer.tokens for layer in spec.layers]
    layers = (LayerSpec(*each, kept_blocks(weights, i), tokens[i]) for i, each in enumerate(counts))
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
