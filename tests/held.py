"""An engine that a test keeps busy."""

from __future__ import annotations

from threading import Event

import numpy as np
from waiting import PATIENCE

from prunetime.inference.ragged import Ragged


class Held:
    """Keeps the engine busy until it may go on."""

    def __init__(self) -> None:
        self.busy, self.go = Event(), Event()

    def logits(self, batch: Ragged) -> np.ndarray:
        self.busy.set()
        self.go.wait(PATIENCE)
        return np.zeros((len(batch), 1), np.float32)
