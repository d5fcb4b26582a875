"""OpenVINO on the CPU, at one shape: float32, bf16, and int8 by NNCF's post-training quantisation."""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import openvino

from prunetime.baselines.setting import BenchmarkSetting, Bind, LogitsCall, inputs_of
from prunetime.core.arrays import Float32Array
from prunetime.export.onnx import export_onnx
from prunetime.inference.ragged import Ragged
from prunetime.latency.measure import time_calls

HINTS = {"fp32": "f32", "bf16": "bf16"}


def precisions() -> tuple[str, ...]:
    """bf16 only where the CPU has it: elsewhere OpenVINO would quietly run float32."""
    capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ("fp32", *(["bf16"] if "BF16" in capabilities else []), "int8")


def prepare(setting: BenchmarkSetting, precision: str) -> Bind:
    """The compiled model; of int8, the fastest of both presets of NNCF and both precisions of what stays float."""
    model = _model(setting)
    if precision in HINTS:
        return _compiled(setting, model, HINTS[precision])
    hints = [HINTS[name] for name in precisions() if name in HINTS]
    binds = [_compiled(setting, quantised, hint) for quantised in _quantised(setting, model) for hint in hints]
    return min(binds, key=lambda bind: float(np.median(time_calls(bind(setting.checked[0]), 5)[1:])))


def _model(setting: BenchmarkSetting) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(setting.config, setting.weights, path)
        model = openvino.Core().read_model(path.read_bytes())
    model.reshape({item: [setting.batch, setting.seq_len] for item in model.inputs})
    return model


def _quantised(setting: BenchmarkSetting, model: Any) -> Iterator[Any]:
    nncf.set_log_level(logging.ERROR)
    calibration = [inputs_of(batch) for batch in setting.calibration]
    for preset in (nncf.QuantizationPreset.PERFORMANCE, nncf.QuantizationPreset.MIXED):
        with redirect_stdout(sys.stderr):  # where its progress bars may go: standard output is for results
            yield nncf.quantize(
                model.clone(),
                nncf.Dataset(calibration),
                preset=preset,
                subset_size=len(calibration),
                model_type=nncf.ModelType.TRANSFORMER,
            )


def _compiled(setting: BenchmarkSetting, model: Any, hint: str) -> Bind:
    settings = {
        "INFERENCE_PRECISION_HINT": hint,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": setting.threads,
        "ENABLE_CPU_PINNING": True,
    }
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    wanted = {item.any_name for item in compiled.inputs}

    def bind(batch: Ragged) -> LogitsCall:
        request = compiled.create_infer_request()
        inputs = inputs_of(batch)
        request.set_tensors({name: openvino.Tensor(inputs[name]) for name in wanted})
        output = request.get_output_tensor(0)

        def logits() -> Float32Array:
            request.infer()
            return np.asarray(output.data)

        return logits

    return bind
