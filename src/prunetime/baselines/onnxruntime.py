"""ONNX Runtime on the CPU, with all of its graph optimisations.

int8 is dynamic quantisation, weights per output channel. Static quantisation took twice as long here, and neither the
fp32 nor the int8 model of onnxruntime.transformers' optimizer (Attention, QAttention, SkipLayerNormalization and
BiasGelu fused) was faster than the plain one (within 1 % for MiniLM at 1x64 and 8x64 on Zen 4).
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnxruntime
from onnxruntime.quantization import QuantType, quantize_dynamic

from prunetime.baselines.setting import BatchShape, BenchmarkSetting, Bind, LogitsCall, inputs_of
from prunetime.core.arrays import Weights
from prunetime.core.config import EncoderConfig
from prunetime.core.machine import this_machine
from prunetime.export.onnx import export_onnx
from prunetime.inference.ragged import Ragged


def precisions() -> tuple[str, ...]:
    return ("fp32", "int8")


def prepare(setting: BenchmarkSetting, precision: str) -> Bind:
    """A session of the exported encoder, at one shape."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write = write_int8 if precision == "int8" else export_onnx
        write(setting.config, setting.weights, path)
        return open_file(path, setting.threads, setting.shape)


def write_int8(config: EncoderConfig, weights: Weights, path: Path, _: Sequence[Ragged] = ()) -> None:
    """Writes the encoder in int8 to the file `path`, for batches of any shape; no batch is needed to calibrate it."""
    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder) / path.name
        export_onnx(config, weights, exported)
        _quantise(exported, path)


def open_file(path: Path, threads: int, shape: BatchShape | None = None) -> Bind:
    """A session of a file, on `threads` threads, for batches of one shape or of any."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    for name, size in zip(("batch", "tokens"), shape or (), strict=False):
        options.add_free_dimension_override_by_name(name, size)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    wanted = {item.name for item in session.get_inputs()}

    def bind(batch: Ragged) -> LogitsCall:
        inputs = {name: array for name, array in inputs_of(batch).items() if name in wanted}
        return lambda: session.run(None, inputs)[0]

    return bind


def _quantise(path: Path, to: Path) -> None:
    # Without VNNI, sums of two products saturate at 16 bits unless weights have 7.
    saturates = not {"avx512_vnni", "avx_vnni"} & set(this_machine().flags)
    root = logging.getLogger()
    level, silent = root.level, logging.NullHandler()
    root.setLevel(logging.ERROR)  # it warns that shapes were not inferred before, which it does itself
    root.addHandler(silent)  # where the root logger has no handler, its warning would install one for good
    try:
        quantize_dynamic(
            path,
            to,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=saturates,
            weight_type=QuantType.QInt8,
        )
    finally:
        root.removeHandler(silent)
        root.setLevel(level)
