"""OpenVINO on the CPU: float32, bf16, and int8 by NNCF's post-training quantisation."""

from __future__ import annotations

import io
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import openvino

from prunetime.baselines.setting import BatchShape, BenchmarkSetting, Bind, LogitsCall, inputs_of
from prunetime.core.arrays import Float32Array, Weights
from prunetime.core.config import EncoderConfig
from prunetime.export.onnx import export_onnx
from prunetime.inference.ragged import Ragged
from prunetime.latency.measure import time_calls

HINTS = {"fp32": "f32", "bf16": "bf16"}


def precisions() -> tuple[str, ...]:
    """bf16 only where the CPU has it: elsewhere OpenVINO would quietly run float32."""
    capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ("fp32", *(["bf16"] if "BF16" in capabilities else []), "int8")


def prepare(setting: BenchmarkSetting, precision: str) -> Bind:
    """The model, compiled for one shape; of int8, the fastest of both presets of NNCF and both precisions of what stays
    float."""
    model = _model(setting.config, setting.weights)
    _reshape(model, setting.shape)
    if precision in HINTS:
        return _compiled(model, HINTS[precision], setting.threads)
    models = _quantised_by_presets(model, setting.calibration)
    binds = [_compiled(quantised, hint, setting.threads) for quantised in models for hint in _hints()]
    return min(binds, key=lambda bind: float(np.median(time_calls(bind(setting.checked[0]), 5).wall_us[1:])))


def write_int8(config: EncoderConfig, weights: Weights, path: Path, calibration: Sequence[Ragged]) -> None:
    """Writes the encoder in int8 to the file `path` (.xml, with a .bin beside it), for batches of any shape.

    It is quantised by NNCF's preset for transformers, which sees the activations of the batches of `calibration`.
    """
    openvino.save_model(_quantised(_model(config, weights), calibration), path, compress_to_fp16=False)


def open_file(path: Path, threads: int, shape: BatchShape | None = None) -> Bind:
    """The model of a file, compiled for `threads` threads and batches of one shape or of any; what stays float is bf16
    where the CPU has it, as OpenVINO would do of itself."""
    model = openvino.Core().read_model(path)
    if shape is not None:
        _reshape(model, shape)
    return _compiled(model, _hints()[-1], threads)


def _hints() -> list[str]:
    return [HINTS[name] for name in precisions() if name in HINTS]


def _model(config: EncoderConfig, weights: Weights) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(config, weights, path)
        return openvino.Core().read_model(path.read_bytes())


def _reshape(model: Any, shape: BatchShape) -> None:
    model.reshape({item: list(shape) for item in model.inputs})


def _quantised_by_presets(model: Any, calibration: Sequence[Ragged]) -> Iterator[Any]:
    import nncf

    for preset in (nncf.QuantizationPreset.PERFORMANCE, nncf.QuantizationPreset.MIXED):
        yield _quantised(model.clone(), calibration, preset)


def _quantised(model: Any, calibration: Sequence[Ragged], preset: Any = None) -> Any:
    import nncf  # here, because it imports torch, which running a file does not need

    nncf.set_log_level(logging.ERROR)
    inputs = [inputs_of(batch) for batch in calibration]
    with redirect_stdout(io.StringIO()):  # its progress bars: standard output is for results
        return nncf.quantize(
            model,
            nncf.Dataset(inputs),
            preset=preset,
            subset_size=len(inputs),
            model_type=nncf.ModelType.TRANSFORMER,
        )


def _compiled(model: Any, hint: str, threads: int) -> Bind:
    settings = {
        "INFERENCE_PRECISION_HINT": hint,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": True,
    }
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    wanted = {item.any_name for item in compiled.inputs}
    request = compiled.create_infer_request()  # one for all batches: making it takes longer than a call
    bound: Ragged | None = None

    def bind(batch: Ragged) -> LogitsCall:
        inputs = inputs_of(batch)
        tensors = {name: openvino.Tensor(inputs[name]) for name in wanted}

        def logits() -> Float32Array:
            nonlocal bound
            if bound is not batch:  # what is called again and again is not set again
                request.set_tensors(tensors)
                bound = batch
            request.infer()
            return np.array(request.get_output_tensor(0).data)

        return logits

    return bind
