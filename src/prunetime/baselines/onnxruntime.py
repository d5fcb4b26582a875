"""ONNX Runtime on the CPU, with all of its graph optimisations, at one shape.

int8 is dynamic quantisation, weights per output channel. Static quantisation took twice as long here, and neither the
fp32 nor the int8 model of onnxruntime.transformers' optimizer (Attention, QAttention, SkipLayerNormalization and
BiasGelu fused) was faster than the plain one (within 1 % for MiniLM at 1x64 and 8x64 on Zen 4).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnxruntime
from onnxruntime.quantization import QuantType, quantize_dynamic

from prunetime.baselines.setting import BenchmarkSetting, Bind, LogitsCall, inputs_of
from prunetime.core.machine import this_machine
from prunetime.export.onnx import export_onnx
from prunetime.inference.ragged import Ragged


def precisions() -> tuple[str, ...]:
    return ("fp32", "int8")


def prepare(setting: BenchmarkSetting, precision: str) -> Bind:
    """A session of the exported encoder."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = setting.threads
    options.inter_op_num_threads = 1
    options.add_free_dimension_override_by_name("batch", setting.batch)
    options.add_free_dimension_override_by_name("tokens", setting.seq_len)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(setting.config, setting.weights, path)
        if precision == "int8":
            path = _quantised(path)
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    wanted = {item.name for item in session.get_inputs()}

    def bind(batch: Ragged) -> LogitsCall:
        inputs = {name: array for name, array in inputs_of(batch).items() if name in wanted}
        return lambda: session.run(None, inputs)[0]

    return bind


def _quantised(path: Path) -> Path:
    to = path.with_name("int8.onnx")
    # Without VNNI, sums of two products saturate at 16 bits unless weights have 7.
    saturates = not {"avx512_vnni", "avx_vnni"} & set(this_machine().flags)
    quantize_dynamic(
        path,
        to,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        reduce_range=saturates,
        weight_type=QuantType.QInt8,
    )
    return to
