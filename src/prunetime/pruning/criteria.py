"""What learned masks start from: parts in the order of a criterion. Without one, from zeros, masks are learned by the
movement of their weights alone (movement pruning, arXiv 2005.07683)."""

from __future__ import annotations

import numpy as np

from prunetime.core.arrays import Float64Array
from prunetime.core.mask import Scores


def ranks(scores: Scores) -> Scores:
    """Each part's scores as ranks, evenly from 0 (the lowest) to 1: comparable with what training adds to them.

    Those that are all equal order nothing and become zeros.
    """
    return [{name: _ranks(values) for name, values in layer.items()} for layer in scores]


def _ranks(values: Float64Array) -> Float64Array:
    if values.min() == values.max():
        return np.zeros_like(values)
    order = values.ravel().argsort(kind="stable").argsort()
    return (order / max(1, values.size - 1)).reshape(values.shape)
