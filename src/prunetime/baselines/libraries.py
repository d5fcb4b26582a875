"""An encoder in the int8 of other inference libraries, as files that they read."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np

from prunetime.baselines.setting import BatchShape, Bind
from prunetime.core.arrays import Float32Array, Weights
from prunetime.core.config import EncoderConfig
from prunetime.errors import InputError
from prunetime.inference.ragged import Ragged


@dataclass(frozen=True)
class Library:
    """An inference library that quantises an encoder, and runs it from a file.

    Attributes:
        title: Its name for people.
        file: The name of the file.
        packages: The packages that it needs, by the names that they are imported by.
    """

    title: str
    file: str
    packages: tuple[str, ...]

    @property
    def missing(self) -> list[str]:
        """Its packages that are not installed."""
        return [name for name in self.packages if find_spec(name) is None]


LIBRARIES = {
    "onnxruntime": Library("ONNX Runtime", "model.onnx", ("onnx", "onnxruntime")),
    "openvino": Library("OpenVINO", "model.xml", ("onnx", "openvino", "nncf")),
}
"""Libraries by the module of this package that knows them: it has `write_int8` and `open_file`."""


class FileModel:
    """A file that another library runs gives logits of batches in the shape in which the engine gives them.

    Sequences of one length are run together, `batch` at a time: nothing is padded, and activations are quantised as in
    a call of so many sequences.
    """

    def __init__(self, file: Path, config: EncoderConfig, batch: int, threads: int) -> None:
        self._bind = open_file(file, threads)
        self._by_token = config.rows == "tokens"
        self._batch = batch
        self._outputs = config.outputs

    def logits(self, batch: Ragged) -> Float32Array:
        """Logits [sequences, outputs], or [tokens, outputs] with a row per token.

        Raises:
            InputError: pooling is to leave out the tokens of prompts.
        """
        if batch.skipped is not None:
            raise InputError("a file pools the tokens of prompts, which this model leaves out")
        rows = len(batch.ids) if self._by_token else len(batch)
        found = np.empty((rows, self._outputs), np.float32)
        lengths = batch.lengths
        for length in np.unique(lengths):
            alike = np.flatnonzero(lengths == length)
            for start in range(0, len(alike), self._batch):
                sequences = alike[start : start + self._batch]
                part, tokens = batch.select_tokens(sequences)
                found[tokens if self._by_token else sequences] = self._bind(part)().reshape(-1, self._outputs)
        return found


def write_int8(name: str, config: EncoderConfig, weights: Weights, folder: Path, calibration: Sequence[Ragged]) -> Path:
    """Writes the encoder into `folder` in the usual int8 of the library `name`, for batches of any shape.

    Returns:
        The file.
    """
    file = folder / LIBRARIES[name].file
    _module(name).write_int8(config, weights, file, calibration)
    return file


def open_file(file: Path, threads: int, shape: BatchShape | None = None) -> Bind:
    """Opens a file by the library that reads it, for batches of one shape or of any."""
    name = next(name for name, library in LIBRARIES.items() if library.file == file.name)
    bind: Bind = _module(name).open_file(file, threads, shape)
    return bind


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"prunetime.baselines.{name}")
