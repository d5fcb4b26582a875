"""Types of numpy arrays by their elements; shapes are in the docstrings of what takes or returns one."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
BoolArray = NDArray[np.bool_]
Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
Int32Array = NDArray[np.int32]
Int64Array = NDArray[np.int64]

Weights = Mapping[str, Array]
"""The arrays of an encoder by their names in model.safetensors."""
