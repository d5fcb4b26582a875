"""Our classes under transformers' Trainer: a step over accumulated batches has the gradient of all of their rows."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import Trainer, TrainerCallback, TrainingArguments

from prunetime.core.arch import ArchSpec, Dims
from prunetime.core.config import EncoderConfig
from prunetime.models.modeling import OF_HEAD, PROBLEM_TYPES, PrunetimeConfig, PrunetimePreTrainedModel

ROWS, TOKENS, OUTPUTS = 8, 10, 3
DIMS = Dims(vocabulary=60, positions=16, layers=2, hidden=64, heads=4, head_dim=16, ffn=128)


class Gradients(TrainerCallback):
    """The gradients of the first step, before the optimizer has them."""

    def __init__(self) -> None:
        self.found: dict[str, Tensor] = {}

    def on_pre_optimizer_step(self, *_: Any, model: torch.nn.Module, **__: Any) -> None:
        if not self.found:
            self.found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def data(labels: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    ids = torch.randint(3, 60, (ROWS, TOKENS), generator=torch.Generator().manual_seed(0))
    rows = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **labels}
    return [{name: values[row] for name, values in rows.items()} for row in range(ROWS)]


def some_tags() -> Tensor:
    """Rows with one to eight labels: accumulated batches differ in how many they have."""
    tags = torch.full((ROWS, TOKENS), -100)
    for row in range(ROWS):
        tags[row, : row + 1] = torch.arange(row + 1) % OUTPUTS
    return tags


CLASSES = torch.arange(ROWS) % OUTPUTS
SEVERAL = (torch.arange(ROWS * OUTPUTS).reshape(ROWS, OUTPUTS) % 3 == 0).float()
NUMBERS = torch.linspace(-1, 1, ROWS)
POSITIONS = {"start_positions": torch.arange(ROWS), "end_positions": torch.arange(ROWS) + 1}

CASES: dict[str, tuple[str, int, str | None, dict[str, Tensor], Any]] = {
    "classes": ("pooled", OUTPUTS, None, {"labels": CLASSES}, lambda o: functional.cross_entropy(o.logits, CLASSES)),
    "numbers": ("pooled", 1, None, {"labels": NUMBERS}, lambda o: functional.mse_loss(o.logits[:, 0], NUMBERS)),
    "relevance": (
        "pooled",
        1,
        PROBLEM_TYPES["relevance"],
        {"labels": (NUMBERS > 0).float()},
        lambda o: functional.binary_cross_entropy_with_logits(o.logits[:, 0], (NUMBERS > 0).float()),
    ),
    "several labels": (
        "pooled",
        OUTPUTS,
        PROBLEM_TYPES["multi-label-classification"],
        {"labels": SEVERAL},
        lambda o: functional.binary_cross_entropy_with_logits(o.logits, SEVERAL),
    ),
    "tags": (
        "tags",
        OUTPUTS,
        None,
        {"labels": some_tags()},
        lambda o: functional.cross_entropy(o.logits.flatten(0, 1), some_tags().flatten()),
    ),
    "answers": (
        "answers",
        2,
        None,
        POSITIONS,
        lambda o: (
            (
                functional.cross_entropy(o.start_logits, POSITIONS["start_positions"])
                + functional.cross_entropy(o.end_logits, POSITIONS["end_positions"])
            )
            / 2
        ),
    ),
}


def model_of(head: Any, outputs: int, problem: str | None) -> PrunetimePreTrainedModel:
    torch.manual_seed(0)
    config = EncoderConfig("bert", DIMS, DIMS.hidden, 2, 1e-12, outputs, rows=OF_HEAD[head].rows)
    settings = {"problem_type": problem} if problem else {}
    return OF_HEAD[head](PrunetimeConfig.of(config, ArchSpec.full(DIMS), dropout=0.0, **settings))


BATCHES = [(case, batch) for case in CASES for batch in (8, 4, 2, 3) if (case, batch) != ("answers", 3)]
"""Batches of 3, 3 and 2 rows weigh the same where `Trainer` has no `labels` to count, as for answers."""


@pytest.mark.parametrize(("case", "batch"), BATCHES)
def test_accumulated_batches_have_the_gradient_of_all_rows(case: str, batch: int, tmp_path: Path) -> None:
    head, outputs, problem, labels, loss = CASES[case]
    rows = data(labels)
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=1,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=-(-ROWS // batch),
        max_grad_norm=0.0,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    gradients = Gradients()
    Trainer(model_of(head, outputs, problem), arguments, train_dataset=rows, callbacks=[gradients]).train()
    model = model_of(head, outputs, problem)
    loss(model(input_ids=torch.stack([row["input_ids"] for row in rows]))).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients.found[name], parameter.grad, atol=1e-6, rtol=1e-4)
