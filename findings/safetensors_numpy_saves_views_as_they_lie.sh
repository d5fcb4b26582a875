#!/usr/bin/env bash
# safetensors.numpy saves an array that is a view (a transposed weight, every second column) with the shape of the view and
# the bytes of the array beneath: other numbers come back, and nothing is said. safetensors.torch refuses such a tensor with
# a ValueError. The docstring asks for contiguous arrays; who saves weight.T has a model that loads and is wrong.
#
# Seen with safetensors 0.8.0 and NumPy 2.3.5: of [[0 1 2 3] [4 5 6 7] [8 9 10 11]].T the first row comes back as 0 1 2,
# where it is 0 4 8; arrays of the other byte order, which are copied first, come back right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet safetensors==0.8.0 numpy==2.3.5
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from safetensors.numpy import load, save

weight = np.arange(12, dtype=np.float32).reshape(3, 4)
views = {"transposed": weight.T, "every second column": weight[:, ::2]}
for name, view in views.items():
    found = load(save({"weight": view}))["weight"]
    print(f"{name}: saved {view[0]}, loaded {found[0]}, shapes {view.shape} and {found.shape}")
    assert found.shape == view.shape and not np.array_equal(found, view), f"{name} comes back as it was saved"
swapped = weight.T.astype(">f4", order="C")
assert np.array_equal(load(save({"weight": swapped}))["weight"], weight.T), "the other byte order is wrong, too"
PYTHON
