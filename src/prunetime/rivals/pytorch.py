"""PyTorch, eager."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from prunetime.artifact import Artifact
from prunetime.models.encoder import from_weights
from prunetime.runtime.ragged import Ragged


def runner(model: Artifact, batch: Ragged, threads: int) -> Callable[[], NDArray[np.float32]]:
    """A call that gives the logits of `batch`, [rows, outputs]. Threads are set for the whole process."""
    torch.set_num_threads(threads)
    encoder = from_weights(model.manifest.config, model.weights).eval()
    inputs = tuple(torch.from_numpy(array.astype(np.int64)) for array in batch.padded(0))

    def logits() -> NDArray[np.float32]:
        with torch.inference_mode():
            found: NDArray[np.float32] = encoder(*inputs).logits.numpy()
        return found

    return logits
