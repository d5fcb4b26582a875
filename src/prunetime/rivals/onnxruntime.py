"""ONNX Runtime on the CPU, with all of its graph optimisations."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from prunetime.artifact import Artifact
from prunetime.export.onnx import export_onnx
from prunetime.runtime.ragged import Ragged


def runner(model: Artifact, batch: Ragged, threads: int) -> Callable[[], NDArray[np.float32]]:
    """A call that gives the logits of `batch`, [rows, outputs]."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(model.manifest.config, model.weights, path)
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    arrays = zip(("input_ids", "attention_mask", "token_type_ids"), batch.padded(0), strict=True)
    wanted = {item.name for item in session.get_inputs()}
    inputs = {name: array.astype(np.int64) for name, array in arrays if name in wanted}

    def logits() -> NDArray[np.float32]:
        found: NDArray[np.float32] = session.run(["logits"], inputs)[0]
        return found

    return logits
