"""The engine: encoders of any `ArchSpec` on this CPU, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunetime import _engine
from prunetime.arch import ArchSpec, LayerSpec
from prunetime.config import FAMILIES, EncoderConfig
from prunetime.errors import EngineError
from prunetime.runtime.ragged import Ragged

ReferenceKernel = _engine.ReferenceKernel
"""A unit of time: `ReferenceKernel(isa="").run()` does a fixed piece of work on one thread, some 300 us with AVX2."""


class Engine:
    """An encoder ready to run. Calls from several Python threads take turns.

    `weights` are the arrays of an encoder of `config` by name; a sub-layer without arrays is gone. They are copied.
    `threads` includes the calling thread. `isa` is one of `supported_isas()`; without it the environment variable
    PRUNETIME_ISA decides, and without that the CPU.

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
    ) -> None:
        arrays = {name: np.ascontiguousarray(array) for name, array in weights.items()}
        try:
            self._encoder = _engine.Encoder(_settings(config), arrays, threads, isa or "")
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
    }
