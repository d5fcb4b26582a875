"""Trackers that get losses and learning rates: TensorBoard, MLflow, Weights & Biases, through Trainer's
own callbacks. What is trained does not depend on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from prunetime.errors import InputError

TRACKERS = ("tensorboard", "mlflow", "wandb")
"""The trackers, each with the name of the package that it needs."""

LOGGING_STEPS = 10


@dataclass(frozen=True)
class Tracking:
    """`folder` is that of the run: TensorBoard's events go to `tracking` in it, and others learn its name."""

    trackers: tuple[str, ...] = ()
    folder: Path = Path()

    def arguments(self, training: str) -> dict[str, Any]:
        """Returns the TrainingArguments for a training of that name."""
        if not self.trackers:
            return {"logging_strategy": "no", "report_to": []}
        others = [each for each in self.trackers if each != "tensorboard"]
        name = f"{self.folder.resolve().name}/{training}"
        return {"logging_steps": LOGGING_STEPS, "report_to": others, "run_name": name}

    def callbacks(self, training: str) -> list[TrainerCallback]:
        """Returns the callbacks that Trainer does not make itself."""
        found: list[TrainerCallback] = []
        if "tensorboard" in self.trackers:
            from torch.utils.tensorboard import SummaryWriter
            from transformers.integrations.integration_utils import TensorBoardCallback

            found.append(TensorBoardCallback(SummaryWriter(str(self.folder / "tracking" / training))))
        if "wandb" in self.trackers:
            found.append(_OneRunEach())
        return found


class _OneRunEach(TrainerCallback):
    """Ends the run of Weights & Biases with the training: Trainer's callback would go on with it in the next one."""

    def on_train_end(self, *_: Any, **__: Any) -> None:
        import wandb  # type: ignore[import-not-found]  # not among what we develop with

        wandb.finish()


_tracking: ContextVar[Tracking | None] = ContextVar("tracking", default=None)


def tracking() -> Tracking:
    """Returns the tracking that `reporting` has set."""
    return _tracking.get() or Tracking()


@contextmanager
def reporting(trackers: Sequence[str], folder: Path) -> Iterator[None]:
    """Within, trainings of the run in `folder` are reported to `trackers`.

    Raises InputError for one that is not known, or not installed.
    """
    for each in trackers:
        if each not in TRACKERS:
            raise InputError(f"nothing called {each!r} can be reported to; there are {', '.join(TRACKERS)}")
        if find_spec(each) is None:
            raise InputError(f"{each} is not installed: pip install {each}")
    before = _tracking.set(Tracking(tuple(trackers), folder))
    try:
        yield
    finally:
        _tracking.reset(before)
