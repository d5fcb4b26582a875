"""The engine: encoders of any `ArchSpec` on this CPU, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunetime import _engine
from prunetime.arch import MATRICES, ArchSpec, LayerSpec
from prunetime.config import FAMILIES, EncoderConfig
from prunetime.errors import EngineError
from prunetime.plan import Plan
from prunetime.runtime.ragged import Ragged

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
        weights: Mapping[str, NDArray[Any]],
        threads: int = 1,
        isa: str | None = None,
        *,
        spec: ArchSpec | None = None,
        plan: Plan = Plan(),  # noqa: B008 (immutable)
    ) -> None:
        arrays = {name: np.ascontiguousarray(array) for name, array in weights.items()}
        try:
            self._encoder = _engine.Encoder(_settings(config), _run_plan(config, spec, plan), arrays, threads, isa or "")
        except (ValueError, TypeError) as error:
            raise EngineError(str(error)) from None
        self.config = config
        self.spec = ArchSpec(tuple(LayerSpec(*counts) for counts in self._encoder.layer_counts))
        self.isa: str = self._encoder.isa
        self.threads: int = self._encoder.threads
        self.weight_bytes: int = self._encoder.weight_bytes

    def logits(self, batch: Ragged) -> NDArray[np.float32]:
        """Logits of any number of sequences, [rows, outputs].

        Raises:
            EngineError: an id, type or length is out of range, or numbers overflowed inside the encoder.
        """
        try:
            return self._encoder.forward(batch.ids, batch.types, batch.offsets)
        except (ValueError, TypeError) as error:
            raise EngineError(str(error)) from None

    def timed(self, batch: Ragged) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Logits, and the microseconds of every sub-layer [2 * layers + 2], as the calling thread saw them.

        In the order embedding, attention 0, ffn 0, attention 1, ..., head; a sub-layer that is gone has 0.
        """
        try:
            logits, nanoseconds = self._encoder.forward_timed(batch.ids, batch.types, batch.offsets)
        except (ValueError, TypeError) as error:
            raise EngineError(str(error)) from None
        return logits, nanoseconds / 1e3


    def select(self, spec: ArchSpec) -> None:
        """Runs only the first heads and FFN rows of every layer, as many as `spec` says, until the next call.

        Raises:
            EngineError: `spec` has more of them than this encoder, or cuts a block apart.
        """
        try:
            self._encoder.select([layer.heads for layer in spec.layers], [layer.ffn for layer in spec.layers])
        except (ValueError, TypeError) as error:
            raise EngineError(str(error)) from None

    def kept(self, batch: Ragged) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Logits, and [layers, tokens] which tokens are left after each layer.

        From the last attention on, only the first token of each sequence is, if the head reads no other.
        """
        try:
            logits, kept = self._encoder.forward_kept(batch.ids, batch.types, batch.offsets)
        except (ValueError, TypeError) as error:
            raise EngineError(str(error)) from None
        return logits, kept.astype(np.bool_)


def engine_build() -> str:
    """Identifies the build of the engine: it changes with the version, the compiler and the engine's sources."""
    return _engine.BUILD


def supported_isas() -> list[str]:
    """The instruction sets that this CPU and this build have kernels for, slowest first."""
    return _engine.supported_isas()


def _settings(config: EncoderConfig) -> dict[str, Any]:
    dims, family = config.dims, FAMILIES[config.family]
    if config.embedding != dims.hidden:
        raise EngineError(f"embeddings of width {config.embedding} for a hidden width of {dims.hidden}: must be equal")
    return {
        "layers": dims.layers,
        "hidden": dims.hidden,
        "heads": dims.heads,
        "head_dim": dims.head_dim,
        "ffn": dims.ffn,
        "vocabulary": dims.vocabulary,
        "positions": dims.positions,
        "position_offset": family.position_offset,
        "token_types": config.token_types if family.token_types else 0,
        "head_activation": family.head_activation,
        "layer_norm_eps": config.layer_norm_eps,
        "outputs": config.outputs,
        "token_rows": config.rows == "tokens",
        "separator": -1 if config.separator is None else config.separator,
    }


def _run_plan(config: EncoderConfig, spec: ArchSpec | None, plan: Plan) -> dict[str, Any]:
    layers = range(config.dims.layers)
    precision = {f"layers.{i}.{matrix}": plan.of(i, matrix).precision for i in layers for matrix in MATRICES}
    precision["head.dense"] = "fp32" if plan.default.precision == "fp32" else "bf16"
    return {"precision": precision, "tokens": [1.0 if spec is None else spec.layers[i].tokens for i in layers]}
