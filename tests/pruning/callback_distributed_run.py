"""Learns masks with transformers' Trainer on every rank; leaves what the first one has. See test_callback.py."""

import sys
from pathlib import Path

import torch
from test_callback import FAST, trainer
from trainers import arguments, bert, logits

from prunetime.pruning.callback import MultilevelPruning


def main(folder: Path, rows: int) -> None:
    model = bert()
    pruning = MultilevelPruning(model, 0.5, teacher=bert(), **FAST)
    settings = arguments(folder, max_steps=8, per_device_train_batch_size=rows)
    trainer(model, pruning, settings).train()
    if settings.process_index == 0:
        torch.save({"share": pruning.share, "logits": logits(model)}, folder / "found.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
