"""Timing the sub-layers of forward passes on a machine that may be busy."""

from __future__ import annotations

from functools import partial

import numpy as np

from prunetime.core.arrays import Float64Array
from prunetime.inference.engine import Engine
from prunetime.inference.ragged import Ragged
from prunetime.latency.measure import time_call

_WARM_UP = 2


def time_parts(engine: Engine, batch: Ragged, passes: int) -> Float64Array:
    """Median microseconds over `passes` of all but the sub-layers, then of each of them, [2 * layers + 1].

    The engine times sub-layers on the clock. Where other processes ran during some of the passes, lower quartiles, in
    which few interruptions are, are scaled to add up to the median own time of a pass.
    """
    call = partial(engine.timed, batch)
    for _ in range(_WARM_UP):
        call()
    parts, times = np.empty((passes, 2 * len(engine.spec.layers) + 1)), np.empty((passes, 2))
    for done in range(passes):
        (_, microseconds), *times[done] = time_call(call)
        parts[done, 1:] = microseconds[1:-1]
    wall_us, own_us = times.T
    parts[:, 0] = wall_us - parts[:, 1:].sum(axis=1)
    if (own_us == wall_us).all():
        return np.asarray(np.median(parts, axis=0))
    quick = np.percentile(parts, 25, axis=0)
    return np.asarray(quick * np.median(own_us) / quick.sum())
