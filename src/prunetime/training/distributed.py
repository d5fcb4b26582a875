"""A run under torchrun: the main process does everything, and the other ranks train what it trains."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunetime.core.progress import Progress
from prunetime.errors import PrunetimeError
from prunetime.training.broadcast import broadcast

if TYPE_CHECKING:
    from prunetime.models.batches import TrainingData
    from prunetime.models.encoder import SequenceClassifier
    from prunetime.pruning.masks import MaskStep
    from prunetime.training.settings import TrainingSettings
    from prunetime.training.trainer import SubNetworks, Trained, Valuer

TIMEOUT = timedelta(days=30)
"""The other ranks wait while the main process searches and measures."""


@contextmanager
def process_group() -> Iterator[bool]:
    """Joins torchrun's process group, if there is one, and yields whether this is its main process.

    Elsewhere than on the main process, it first runs what the main process broadcasts, until that leaves the context.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield True
        return
    import torch.distributed as dist

    dist.init_process_group(timeout=TIMEOUT)
    if dist.get_rank():
        _run_broadcast_fits()
        yield False
        return
    try:
        yield True
    except PrunetimeError:
        broadcast(None)
        raise
    broadcast(None)


def fit_on_every_rank(
    model: SequenceClassifier,
    data: TrainingData,
    settings: TrainingSettings,
    folder: Path,
    teacher: SequenceClassifier | None = None,
    on_progress: Progress | None = None,
    *,
    value: Valuer | None = None,
    sub_networks: SubNetworks | None = None,
    mask_step: MaskStep | None = None,
) -> Trained:
    """Runs `trainer.fit` on every rank of the group; the main process calls it within `process_group`."""
    from prunetime.training.trainer import fit  # only here: transformers is slow to import

    special: dict[str, Any] = {"sub_networks": sub_networks, "mask_step": mask_step}
    broadcast((model, data, settings, folder, teacher, special))
    return fit(model, data, settings, folder, teacher, on_progress, value=value, **special)


def _run_broadcast_fits() -> None:
    while job := broadcast(None):
        from prunetime.training.trainer import fit

        *arguments, special = job
        with suppress(PrunetimeError):  # the main process raises it as well, and reports it
            fit(*arguments, **special)
