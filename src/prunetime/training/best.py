"""The best weights of a training, by their value on valid rows: kept in memory, and in its checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prunetime.errors import PrunetimeError
from prunetime.training.broadcast import broadcast
from prunetime.training.stopping import LearningCurve

CURVE, WEIGHTS = "curve.json", "best.safetensors"


class Best:
    """The best weights that a model had while it was trained, and the curve of their values.

    Args:
        model: The model, with the parameters that are trained.
        curve: The curve that is written.
        value: Gives the value of the model on valid rows; asked on the main process alone.
    """

    def __init__(self, model: nn.Module, curve: LearningCurve, value: Callable[[], float] | None) -> None:
        self.curve = curve
        self._model = model
        self._value = value
        self._weights: dict[str, Tensor] = {}

    def look(self, step: int) -> None:
        """Adds the value after `step` steps to the curve where its rule asks for one, and keeps the best weights.

        Raises:
            PrunetimeError: the value is none of a number.
        """
        if not self.curve.looks_at(step):
            return
        value = broadcast(self._value() if self._value else None)
        if value is None or value != value:
            raise PrunetimeError(f"the value of the model on valid rows is {value} at step {step}")
        self.curve.values.append((step, value))
        best = self.curve.best
        if best and best[0] == step:
            self._weights = {name: tensor.detach().clone() for name, tensor in self._model.state_dict().items()}

    def save(self, checkpoint: Path) -> None:
        """Adds curve and weights to a checkpoint."""
        if self.curve.values:
            save_file(self._weights, checkpoint / WEIGHTS)
            (checkpoint / CURVE).write_text(json.dumps(self.curve.values))

    def resume(self, checkpoint: Path) -> None:
        """Goes on from the curve and the weights in a checkpoint, if any were known by then."""
        if (checkpoint / CURVE).exists():
            self.curve.follow(json.loads((checkpoint / CURVE).read_text()))
            self._weights = load_file(checkpoint / WEIGHTS)

    def restore(self) -> None:
        """Gives the model its best weights, at the end of the training."""
        if self._weights:
            self._model.load_state_dict(self._weights)
