#!/usr/bin/env bash
# Trainer of transformers 5 leaves the division by the number of accumulated batches to models whose forward takes
# **kwargs, and BertForSequenceClassification takes them but divides by nothing: with gradient_accumulation_steps=4 the
# gradient of a step is 4 times that of the same rows in one batch. accepts_loss_kwargs = False on the model mends it.
#
# Seen with transformers 5.24.0, accelerate 1.15.0 and torch 2.13.0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0 accelerate==1.15.0
"$folder/venv/bin/python" - "$folder/out" <<'PYTHON' 2>/dev/null
import sys

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

sizes = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
rows = [{"input_ids": [n % 30, 3, 5, 7], "attention_mask": [1] * 4, "labels": n % 2} for n in range(16)]


class Gradient(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        self.norm = torch.linalg.vector_norm(torch.cat([p.grad.ravel() for p in model.parameters()])).item()


def norm(batch: int, accumulated: int, accepts: bool | None = None) -> float:
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**sizes, hidden_dropout_prob=0, attention_probs_dropout_prob=0))
    if accepts is not None:
        model.accepts_loss_kwargs = accepts
    arguments = TrainingArguments(
        sys.argv[1], max_steps=1, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulated,
        max_grad_norm=0, use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True, logging_strategy="no",
    )
    seen = Gradient()
    Trainer(model, arguments, train_dataset=rows, callbacks=[seen]).train()
    return seen.norm


whole, parts, mended = norm(16, 1), norm(4, 4), norm(4, 4, accepts=False)
print(f"gradient of 4 batches of 4 over that of 16 rows: {parts / whole:.3f}; accepts_loss_kwargs = False: {mended / whole:.3f}")
assert abs(parts / whole - 4) < 1e-3 and abs(mended / whole - 1) < 1e-3
PYTHON
