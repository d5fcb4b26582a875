"""A small BERT, rows for it, and arguments of transformers' Trainer, for tests of what trains there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel, TrainingArguments

from prunetime.core.arch import ArchSpec
from prunetime.models.transformed import encoder_of

CONFIG = BertConfig(
    vocab_size=60,
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=256,
    max_position_embeddings=16,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)
ROWS = 48


def bert(kind: type[PreTrainedModel] = BertForSequenceClassification) -> PreTrainedModel:
    torch.manual_seed(1)
    return kind(CONFIG)


def rows(**labels: int) -> list[dict[str, torch.Tensor]]:
    rng = np.random.default_rng(0)
    names = labels or {"labels": 2}
    return [
        {
            "input_ids": torch.from_numpy(rng.integers(3, 60, 12)),
            "attention_mask": torch.tensor([1] * 9 + [0] * 3),
            **{name: torch.tensor(int(rng.integers(0, most))) for name, most in names.items()},
        }
        for _ in range(ROWS)
    ]


def arguments(folder: Path, **changes: object) -> TrainingArguments:
    given = {"num_train_epochs": 4, "per_device_train_batch_size": 8, "learning_rate": 1e-3, "save_strategy": "no"}
    given |= {"report_to": [], "disable_tqdm": True, "use_cpu": True, "output_dir": str(folder), "seed": 3}
    return TrainingArguments(**(given | changes))


def logits(model: PreTrainedModel) -> torch.Tensor:
    data = rows()
    inputs = {name: torch.stack([row[name] for row in data]) for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        return model.eval()(**inputs).logits


def weights_kept(model: PreTrainedModel) -> float:
    found = encoder_of(model)
    return found.spec.weights(found.config.dims) / ArchSpec.full(found.config.dims).weights(found.config.dims)
