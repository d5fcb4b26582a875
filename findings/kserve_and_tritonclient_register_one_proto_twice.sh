#!/usr/bin/env bash
# kserve and tritonclient.grpc, the two clients of the Open Inference Protocol, cannot be imported in one process, in
# either order: both register messages of one name, in files of different names, which protobuf refuses.
#
# Seen with kserve 0.21.0 and tritonclient 2.73.0: TypeError, duplicate symbol 'inference.ServerLiveRequest'.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet kserve==0.21.0 'tritonclient[grpc]==2.73.0'
for first in kserve tritonclient.grpc; do
    "$folder/venv/bin/python" - "$first" <<'PYTHON'
import importlib
import sys

first = sys.argv[1]
(second,) = {"kserve", "tritonclient.grpc"} - {first}
importlib.import_module(first)
try:
    importlib.import_module(second)
except TypeError as error:
    print(f"import {first}, then {second}: TypeError: {error}")
    assert "duplicate symbol 'inference.ServerLiveRequest'" in str(error)
else:
    raise AssertionError(f"{first} and {second} can be imported together now")
PYTHON
done
