#!/usr/bin/env bash
# onnxruntime's quantize_dynamic warns by logging.warning, of the root logger, on any model whose shapes were not inferred
# before. Where the root logger has no handler this installs one for the whole process: from then on an application whose
# logger has a handler of its own says everything twice, and loggers that nobody configured write in a new format.
#
# Seen with onnxruntime 1.32.0 and onnx 1.23.2: no root handler before, one after, and one message of a logger becomes two lines.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnxruntime==1.32.0 onnx==1.23.2
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON' 2>lines
import logging
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic

weight = numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
shape = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 4]) for name in ("x", "y")]
graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", shape[:1], shape[1:], [weight])
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), "model.onnx")

logger = logging.getLogger("app")
logger.addHandler(logging.StreamHandler(sys.stderr))
before = len(logging.getLogger().handlers)
logger.warning("before")
quantize_dynamic("model.onnx", "int8.onnx")
logger.warning("after")
print(f"{before} handlers of the root logger before, {len(logging.getLogger().handlers)} after")
assert (before, len(logging.getLogger().handlers)) == (0, 1)
PYTHON
cat lines
[ "$(grep -c before$ lines)" = 1 ] && [ "$(grep -c after$ lines)" = 2 ]
