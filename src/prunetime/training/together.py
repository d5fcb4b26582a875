"""A run under torchrun: the first rank does everything, and the others train what it trains."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunetime.core.progress import Progress
from prunetime.errors import PrunetimeError

if TYPE_CHECKING:
    from prunetime.models.batches import TrainingData
    from prunetime.models.encoder import SequenceClassifier
    from prunetime.pruning.masks import Learned, MaskStep
    from prunetime.training.trainer import SubNetworks, TrainingSettings

PATIENCE = timedelta(days=30)
"""The others wait while the first rank searches and measures."""


@contextmanager
def leading() -> Iterator[bool]:
    """Within, it is True on the first rank; False on the others, which come so far once the first has left.

    Without torchrun there is no other rank.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield True
        return
    import torch.distributed as dist

    dist.init_process_group(timeout=PATIENCE)
    if dist.get_rank():
        _follow()
        yield False
        return
    try:
        yield True
    except PrunetimeError:
        _told(None)
        raise
    _told(None)


def fit_on_every_rank(
    model: SequenceClassifier,
    data: TrainingData,
    settings: TrainingSettings,
    folder: Path,
    teacher: SequenceClassifier | None = None,
    on_progress: Progress | None = None,
    *,
    sub_networks: SubNetworks | None = None,
    mask_step: MaskStep | None = None,
) -> Learned | None:
    """`trainer.fit`, of which every rank that follows does its share; to be called inside `leading`."""
    from prunetime.training.trainer import fit  # only here: transformers is slow to import

    special: dict[str, Any] = {"sub_networks": sub_networks, "mask_step": mask_step}
    _told((model, data, settings, folder, teacher, special))
    return fit(model, data, settings, folder, teacher, on_progress, **special)


def _follow() -> None:
    while job := _told(None):
        from prunetime.training.trainer import fit

        *arguments, special = job
        with suppress(PrunetimeError):  # the first rank has it as well, and says it
            fit(*arguments, **special)


def _told(job: Any) -> Any:
    """What the first rank tells all others: its `job`."""
    import torch.distributed as dist

    box = [job]
    if dist.is_initialized():
        dist.broadcast_object_list(box)
    return box[0]
