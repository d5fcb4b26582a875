"""Writing an encoder as OpenVINO's IR: an `.xml` and a `.bin` beside it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import openvino

from prunetime.core.arch import ArchSpec
from prunetime.core.arrays import Weights
from prunetime.core.config import EncoderConfig
from prunetime.core.task import Task
from prunetime.errors import InputError
from prunetime.export.onnx import export_onnx

PRECISION_NOTE = (
    "The file is float32, but on CPUs that multiply bf16 OpenVINO runs it in bf16 unless it is told otherwise: "
    'compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}) holds float32.'
)
"""A note for users of the file: the property belongs to compiling, and no file can hold it (OpenVINO 2026.4)."""


def export_openvino(
    config: EncoderConfig, weights: Weights, path: Path, spec: ArchSpec | None = None, task: Task | None = None
) -> None:
    """Write the encoder to `path`, which ends in .xml, in float32: inputs and output are those of the ONNX file, and so
    is the `task`, in the runtime information.

    In which precision OpenVINO runs it is said when it is compiled (`PRECISION_NOTE`).
    Raises InputError as `export_onnx` does, and for another ending.
    """
    if path.suffix != ".xml":
        raise InputError(f"{path}: OpenVINO's files are called .xml (with a .bin beside it)")
    with tempfile.TemporaryDirectory() as folder:
        onnx = Path(folder) / "model.onnx"
        export_onnx(config, weights, onnx, spec=spec)
        model = openvino.Core().read_model(onnx)
        if task is not None:
            model.set_rt_info(json.dumps(task.to_json()), "task")
        try:
            openvino.save_model(model, path, compress_to_fp16=False)
        except (OSError, RuntimeError) as error:
            raise InputError(f"cannot write {path}: {error}") from error
