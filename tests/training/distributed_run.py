"""Trains on every rank, whole and in two pieces, and writes losses and weights. See test_distributed.py."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from trainings import DIMS, SETTINGS, SUB_NETWORKS, dense, half, made

from prunetime.core.arch import ArchSpec
from prunetime.models.distill import Distillation
from prunetime.models.encoder import SequenceClassifier, weights_of
from prunetime.pruning.masks import MaskStep
from prunetime.pruning.regularise import WeightsKept
from prunetime.training.distributed import fit_on_every_rank, process_group
from prunetime.training.stopping import Stopping
from prunetime.training.trainer import fit

ROWS = 57
"""Seven batches of eight rows and one of one, in which the second rank has none."""

COST = WeightsKept(DIMS)
MASKS = MaskStep(DIMS, ArchSpec.full(DIMS), COST, 0.5 * COST.dense, (16, 16), learning_rate=0.3)

TRAININGS = {
    "alone": ({}, {}),
    "distilled": ({"teacher": True}, {}),
    "elastic": ({}, {"sub_networks": SUB_NETWORKS}),
    "masked": ({"teacher": True}, {"mask_step": MASKS}),
    "ordered": ({"teacher": True, "order": 2.0}, {}),
}


def train(name: str, folder: Path, stop_at: int = 0) -> tuple[SequenceClassifier, list[float]]:
    """Without dropout, which is another on every rank."""
    (distilled, options), losses, model = TRAININGS[name], [], dense(dropout=0.0)

    def noted(module: torch.nn.Module, _: object, output: object) -> None:
        if type(module).__name__ == "_Objective":
            losses.append(output["loss"].item())

    def stop(done: int, _: int) -> None:
        if done == stop_at:
            raise KeyboardInterrupt

    hook = torch.nn.modules.module.register_module_forward_hook(noted)
    teacher = half() if distilled else None
    try:
        data, settings = made(rows=ROWS), replace(SETTINGS, epochs=2.0)
        if weight := distilled.get("order"):
            data = replace(data, groups=np.arange(ROWS) // 4)
            settings = replace(settings, distillation=Distillation(order=weight))
        fit(model, data, settings, folder / name, teacher, stop, **options)
    except KeyboardInterrupt:
        pass
    finally:
        hook.remove()
    return model, losses


def main(folder: Path) -> None:
    with process_group() as is_main_process:
        if is_main_process:
            model = dense(dropout=0.0)
            fit_on_every_rank(model, made(rows=ROWS), replace(SETTINGS, epochs=2.0), folder / "led")
            np.savez(folder / "led_0.npz", **weights_of(model))
            model, stopping = dense(dropout=0.0), Stopping(every=3, patience=2)
            settings = replace(SETTINGS, epochs=6.0, stopping=stopping)
            # The value is known to the main process alone, and all ranks stop by it.
            fit_on_every_rank(model, made(rows=ROWS), settings, folder / "stopped-early", value=lambda _: 0.0)
            np.savez(folder / "stopped-early_0.npz", **weights_of(model))
    for name in TRAININGS:
        model, losses = train(name, folder)
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        np.savez(folder / f"{name}_{rank}.npz", losses=losses, **weights_of(model))
    train("elastic", folder / "stopped", stop_at=13)
    model, losses = train("elastic", folder / "stopped")
    np.savez(folder / f"resumed_{rank}.npz", losses=losses, **weights_of(model))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
