"""Every option of `TrainingArguments` beside learned masks: honoured, or refused by name before the first step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from trainers import ROWS, arguments, bert, logits, rows, weights_kept
from transformers import (
    BertForSequenceClassification,
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_utils import SaveStrategy

from prunetime.errors import InputError
from prunetime.models.distill import Distillation
from prunetime.pruning.callback import MultilevelPruning
from prunetime.pruning.mask_optimizer import MaskOptimizer

RATE = 0.1
STEPS, LEARNING = 4, 0.5
TARGET = 0.6


class Recorder(TrainerCallback):
    """Thresholds and their gradients in every step that learns masks. It comes before the pruning, which takes the
    gradients away."""

    def __init__(self, pruning: MultilevelPruning) -> None:
        self._pruning = pruning
        self.thresholds: list[Tensor] = []
        self.gradients: list[Tensor] = []
        self.penalties: list[Tensor] = []
        self.schedule: list[float] = []
        self.first: dict[str, Tensor] = {}

    def on_pre_optimizer_step(
        self, args: TrainingArguments, *_: Any, model: torch.nn.Module, optimizer: torch.optim.Optimizer, **__: Any
    ) -> None:
        masks = self._pruning._masks
        if masks.frozen:
            return
        (penalty,) = torch.autograd.grad(masks.penalty(), masks.thresholds)
        self.thresholds.append(masks.thresholds.detach().clone())
        self.gradients.append(masks.thresholds.grad.clone())
        self.penalties.append(penalty)
        self.schedule.append(optimizer.param_groups[0]["lr"] / args.learning_rate)
        if not self.first:
            self.first = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def deaf() -> BertForSequenceClassification:
    """A model whose encoder gets no gradient of a task: its classifier is zero, and is to learn next to nothing."""
    model = bert()
    torch.nn.init.zeros_(model.classifier.weight)
    return model


def trained(folder: Path, **options: Any) -> tuple[MultilevelPruning, Recorder, BertForSequenceClassification]:
    model = deaf()
    pruning = MultilevelPruning(model, TARGET, learning_rate=RATE, learning=LEARNING)
    recorder = Recorder(pruning)
    settings = arguments(
        folder,
        **({"max_steps": STEPS, "learning_rate": 1e-9, "logging_strategy": "no", "max_grad_norm": 0.0} | options),
    )
    data = [{**row, "length": 12} for row in rows()] if "length_column_name" in options else rows()
    trainer = Trainer(model, settings, train_dataset=data, eval_dataset=rows()[:8], callbacks=[recorder, pruning])
    trainer.train()
    return pruning, recorder, model


EVALUATED = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}

SCHEDULES: dict[str, dict[str, Any]] = {
    "linear": {"warmup_steps": 0.5},
    "cosine": {"lr_scheduler_kwargs": {"num_cycles": 0.7}},
    "cosine_with_restarts": {},
    "polynomial": {"lr_scheduler_kwargs": {"lr_end": 0.0}},
    "constant": {},
    "constant_with_warmup": {"warmup_steps": 2},
    "inverse_sqrt": {"warmup_steps": 2},
    "reduce_lr_on_plateau": {**EVALUATED, "lr_scheduler_kwargs": {"patience": 0}},
    "cosine_with_min_lr": {"lr_scheduler_kwargs": {"min_lr": 1e-10}},
    "cosine_warmup_with_min_lr": {"lr_scheduler_kwargs": {"min_lr": 1e-10}, "warmup_steps": 2},
    "warmup_stable_decay": {"warmup_steps": 2, "lr_scheduler_kwargs": {"num_decay_steps": 2}},
    "greedy": {**EVALUATED, "lr_scheduler_kwargs": {"patience": 0}},
}

HONOURED: list[dict[str, Any]] = [
    {"max_steps": 4},
    {"max_steps": -1, "num_train_epochs": 1, "per_device_train_batch_size": 11, "dataloader_drop_last": True},
    {"learning_rate": 1e-12},
    *({"lr_scheduler_type": name, **more} for name, more in SCHEDULES.items()),
    *({"optim": name} for name in ("adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop")),
    {"optim": "adamw_torch", "adam_beta1": 0.5, "adam_beta2": 0.5, "adam_epsilon": 1e-3, "optim_args": "amsgrad=True"},
    {"weight_decay": 0.9, "max_grad_norm": 1e-3},
    {"gradient_accumulation_steps": 4},
    {"accelerator_config": {"gradient_accumulation_kwargs": {"num_steps": 2}}},
    {"label_smoothing_factor": 0.3, "gradient_accumulation_steps": 2},
    {"bf16": True},
    {"fp16": True},
    {"activation_checkpointing": True},
    {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": True}},
    {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
    {"torch_compile": True, "torch_compile_backend": "eager", "torch_compile_mode": None},
    {"auto_find_batch_size": True, "neftune_noise_alpha": 5.0, "torch_empty_cache_steps": 1, "use_cache": True},
    {"average_tokens_across_devices": False, "logging_nan_inf_filter": False, "include_num_input_tokens_seen": "all"},
    {"remove_unused_columns": False, "label_names": ["labels"], "full_determinism": True, "seed": 7, "data_seed": 8},
    {"train_sampling_strategy": "group_by_length", "length_column_name": "length"},
    {**EVALUATED, "eval_on_start": True, "save_strategy": "best", "metric_for_best_model": "loss"},
    {**EVALUATED, "prediction_loss_only": True, "save_only_model": True, "save_total_limit": 1},
    {**EVALUATED, "load_best_model_at_end": True, "eval_delay": 2, "greater_is_better": True},
]
"""Options that touch loss, optimizer or checkpoints, with values to train with."""

OF_RANKS = {
    *("ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_static_graph"),
    *("ddp_backend", "ddp_timeout"),
}
"""Options of training on several processes: test_callback.py."""

RESUMED = {"resume_from_checkpoint", "ignore_data_skip", "restore_callback_states_from_checkpoint"}
"""Options of a training that goes on: below."""

REFUSED: dict[str, list[Any]] = {
    "optim": ["galore_adamw_layerwise", "apollo_adamw_layerwise", "lomo", "adalomo"],
    "fsdp": [True],
    "deepspeed": [{"zero_optimization": {"stage": 2}}],
    "parallelism_config": [SimpleNamespace(tp_size=2)],
}

PASSED_OVER = {
    *("output_dir", "run_name", "project", "do_train", "do_eval", "do_predict", "debug", "tf32", "use_cpu"),
    *("logging_strategy", "logging_steps", "logging_first_step", "log_on_each_node", "log_level", "log_level_replica"),
    *("disable_tqdm", "report_to", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"),
    *("per_device_eval_batch_size", "eval_do_concat_batches", "eval_use_gather_object"),
    *("eval_accumulation_steps", "include_for_metrics", "batch_eval_metrics", "bf16_full_eval", "fp16_full_eval"),
    *("save_on_each_node", "enable_jit_checkpoint", "push_to_hub", "hub_token", "hub_private_repo", "hub_model_id"),
    *("hub_strategy", "hub_always_push", "hub_revision", "local_rank", "skip_memory_metrics"),
    *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_in_order"),
    *("dataloader_prefetch_factor", "dataloader_multiprocessing_context", "fsdp_config"),
    *("optim_target_modules", "use_liger_kernel", "liger_kernel_config"),
}
"""Options of logs, evaluation, the hub and how data is loaded; what only a refused or absent optimizer reads; and the
kernels that Liger has for other families."""


def test_every_option_is_in_the_table() -> None:
    known = {name for options in HONOURED for name in options} | REFUSED.keys() | OF_RANKS | RESUMED | PASSED_OVER
    assert {field.name for field in dataclasses.fields(TrainingArguments) if field.init} == known


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing", "ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("options", HONOURED, ids=lambda options: "-".join(map(str, options)))
def test_masks_learn_by_the_penalty_in_every_step(options: dict[str, Any], tmp_path: Path) -> None:
    pruning, recorder, model = trained(tmp_path, **options)
    assert len(recorder.gradients) >= 2
    for gradient, penalty in zip(recorder.gradients, recorder.penalties, strict=True):
        assert functional.cosine_similarity(gradient, penalty, dim=0) > 0.999
        if not options.get("max_grad_norm"):
            torch.testing.assert_close(gradient, penalty, rtol=1e-3, atol=1e-6)
    assert stepped_by_adamw(recorder)
    kept = weights_kept(pruning.compact())
    assert 0.3 < kept <= TARGET  # in whole tiles of a small model
    assert not [name for name, _ in model.named_parameters() if "multilevel" in name or "parametrizations" in name]


def stepped_by_adamw(recorder: Recorder) -> bool:
    """Whether torch's AdamW, given the gradients, steps as the masks did: at their own rate, times the schedule."""
    parameter = torch.nn.Parameter(recorder.thresholds[0].clone())
    optimizer = torch.optim.AdamW([parameter], RATE, weight_decay=0.0)
    steps = zip(recorder.gradients, recorder.schedule, recorder.thresholds[1:], strict=False)
    for gradient, schedule, after in steps:
        parameter.grad, optimizer.param_groups[0]["lr"] = gradient, RATE * schedule
        optimizer.step()
        torch.testing.assert_close(parameter.detach(), after)
    return True


@pytest.mark.parametrize(("option", "value"), [(name, value) for name, all_ in REFUSED.items() for value in all_])
def test_options_that_masks_cannot_be_learned_with_are_refused_by_name(option: str, value: Any, tmp_path: Path) -> None:
    model = bert()
    pruning, settings = MultilevelPruning(model, TARGET), arguments(tmp_path)
    setattr(settings, option, TrainingArguments.__dataclass_fields__[option].default)
    setattr(settings, option, _as_given(option, value))
    optimizer = torch.optim.AdamW(model.parameters())
    with pytest.raises(InputError, match=option):
        pruning.on_train_begin(settings, None, None, model=model, optimizer=optimizer, train_dataloader=None)


def _as_given(option: str, value: Any) -> Any:
    from transformers.training_args import OptimizerNames

    return OptimizerNames(value) if option == "optim" else value


class OwnLoss(Trainer):
    """Pops the labels and weighs the classes, as many scripts do."""

    def compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, **_: Any
    ) -> Any:
        labels = inputs.pop("labels")
        output = model(**inputs)
        loss = functional.cross_entropy(output.logits, labels, weight=torch.tensor([1.0, 3.0]))
        return (loss, output) if return_outputs else loss


def summed(output: Any, labels: Tensor, num_items_in_batch: Tensor | None = None) -> Tensor:
    return functional.cross_entropy(output.logits, labels, reduction="sum") / num_items_in_batch


Loss = Callable[[Tensor, Tensor], Tensor]

LOSSES: dict[str, tuple[type[Trainer], dict[str, Any], dict[str, Any], Loss]] = {
    "the model's": (Trainer, {}, {}, functional.cross_entropy),
    "smoothed": (
        Trainer,
        {"label_smoothing_factor": 0.3},
        {},
        lambda logits, labels: functional.cross_entropy(logits, labels, label_smoothing=0.3),
    ),
    "compute_loss_func": (Trainer, {}, {"compute_loss_func": summed}, functional.cross_entropy),
    "compute_loss": (
        OwnLoss,
        {},
        {},
        lambda logits, labels: torch.stack(
            [
                functional.cross_entropy(logits[i : i + 4], labels[i : i + 4], weight=torch.tensor([1.0, 3.0]))
                for i in range(0, len(labels), 4)
            ]
        ).mean(),
    ),
}
"""Who computes the loss, what the task's loss of the rows of one step is then."""


@pytest.mark.parametrize("task", [1.0, 0.25])
@pytest.mark.parametrize("whose", LOSSES)
def test_the_gradient_of_a_step_is_of_task_and_penalty_and_distillation(
    whose: str, task: float, tmp_path: Path
) -> None:
    kind, options, given, loss_of = LOSSES[whose]
    torch.manual_seed(5)
    teacher = bert()
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    weights = Distillation(task=task, hidden=0.0, logits=1.0, temperature=2.0)
    model = bert()
    pruning = MultilevelPruning(model, TARGET, teacher=teacher, distillation=weights, learning=LEARNING)
    recorder = Recorder(pruning)
    data = rows()[:8]
    changes = {"max_steps": 2, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_grad_norm": 0.0}
    settings = arguments(tmp_path, train_sampling_strategy="sequential", **(changes | options))
    kind(model, settings, train_dataset=data, callbacks=[recorder, pruning], **given).train()

    again = bert()
    masks = MultilevelPruning(again, TARGET, learning=LEARNING)._masks
    masks.refresh()
    inputs = {name: torch.stack([row[name] for row in data]) for name in ("input_ids", "attention_mask")}
    labels = torch.stack([row["labels"] for row in data])
    found = again.eval()(**inputs).logits
    with torch.no_grad():
        expected = teacher(**inputs).logits
    far = functional.kl_div(
        functional.log_softmax(found / 2, -1), functional.softmax(expected / 2, -1), reduction="batchmean"
    )
    (task * loss_of(found, labels) + 4.0 * far + masks.penalty()).backward()
    for name, parameter in again.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(recorder.first[name], parameter.grad, atol=1e-5, rtol=1e-3, msg=name)


def test_a_loss_that_is_not_of_the_outputs_of_the_model_is_refused(tmp_path: Path) -> None:
    class Around(Trainer):
        def compute_loss(self, model: Any, inputs: dict[str, Tensor], *_: Any, **__: Any) -> Tensor:
            states = model.bert(inputs["input_ids"], attention_mask=inputs["attention_mask"]).pooler_output
            loss: Tensor = functional.cross_entropy(model.classifier(states), inputs["labels"])
            return loss

    model = bert()
    pruning = MultilevelPruning(model, TARGET)
    trainer = Around(model, arguments(tmp_path), train_dataset=rows(), callbacks=[pruning])
    with pytest.raises(InputError, match="not computed from the outputs"):
        trainer.train()


def test_another_model_than_the_trainers_is_refused(tmp_path: Path) -> None:
    trainer = Trainer(bert(), arguments(tmp_path), train_dataset=rows(), callbacks=[MultilevelPruning(bert(), TARGET)])
    with pytest.raises(InputError, match="another model"):
        trainer.train()


def test_masks_that_are_not_frozen_are_not_made_a_model_of(tmp_path: Path) -> None:
    model = bert()
    pruning = MultilevelPruning(model, TARGET)
    with pytest.raises(InputError, match="train the model first"):
        pruning.compact()

    class Stop(TrainerCallback):
        def on_step_end(self, *arguments: Any, **_: Any) -> None:
            arguments[2].should_training_stop = True

    Trainer(model, arguments(tmp_path), train_dataset=rows(), callbacks=[pruning, Stop()]).train()
    with pytest.raises(InputError, match=r"training ended after step 1 of 24, and they freeze after step 10"):
        pruning.compact()


def test_an_early_best_checkpoint_is_not_made_a_model_of(tmp_path: Path) -> None:
    for patience in ((), (EarlyStoppingCallback(1),)):
        model = bert()
        pruning = MultilevelPruning(model, TARGET)
        settings = arguments(
            tmp_path,
            load_best_model_at_end=True,
            metric_for_best_model="epoch",
            greater_is_better=False,
            **EVALUATED | {"save_strategy": SaveStrategy.STEPS, "max_steps": 6},
        )
        trainer = Trainer(
            model, settings, train_dataset=rows(), eval_dataset=rows()[:8], callbacks=[pruning, *patience],
            compute_metrics=lambda _: {"epoch": 0.0},
        )  # fmt: skip
        with pytest.warns(UserWarning, match="eval_delay=3"):
            trainer.train()
        with pytest.raises(InputError, match="freeze" if patience else "eval_delay=3"):
            pruning.compact()


@pytest.mark.parametrize("skip", [False, True])
def test_a_training_without_optimizers_is_resumed_where_it_was(skip: bool, tmp_path: Path) -> None:
    """While masks are learned, with fewer batches in the last step of an epoch."""
    found = []
    for again in (False, True):
        model = bert()
        pruning = MultilevelPruning(model, TARGET, learning=0.8)
        settings = arguments(
            tmp_path,
            save_strategy="steps",
            save_steps=2,
            max_steps=6,
            gradient_accumulation_steps=4,
            ignore_data_skip=skip,
            train_sampling_strategy="sequential",
        )
        trainer = Trainer(model, settings, train_dataset=rows(), callbacks=[pruning])
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2") if again else None)
        found.append((logits(model), pruning._masks.thresholds.detach()))
    assert ROWS == 48  # six batches: four and two a step, so that step 2 ends an epoch
    for before, after in zip(*found, strict=True):
        torch.testing.assert_close(before, after, atol=1e-6, rtol=1e-5)


def test_gradients_under_a_scaler_are_those_without(tmp_path: Path) -> None:
    """A real scaler, on the CPU."""
    model = deaf()
    pruning = MultilevelPruning(model, TARGET, learning_rate=RATE, learning=LEARNING)
    recorder = Recorder(pruning)
    settings = arguments(tmp_path, max_steps=STEPS, learning_rate=1e-9, max_grad_norm=0.0)
    trainer = Trainer(model, settings, train_dataset=rows(), callbacks=[recorder, pruning])
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    trainer.accelerator.native_amp = True
    trainer.accelerator.state._mixed_precision = "fp16"
    trainer.train()
    for gradient, penalty in zip(recorder.gradients, recorder.penalties, strict=True):
        torch.testing.assert_close(gradient, penalty, rtol=1e-3, atol=1e-6)
    assert stepped_by_adamw(recorder)


def test_gradients_that_a_scaler_made_infinite_are_left_out() -> None:
    masks = MultilevelPruning(bert(), TARGET)._masks
    optimizer, before = MaskOptimizer(masks), masks.thresholds.detach().clone()
    for value in (torch.inf, torch.nan):
        masks.scores.grad, masks.thresholds.grad = torch.ones_like(masks.scores), torch.full_like(before, value)
        optimizer.step(1.0)
        assert torch.equal(masks.thresholds, before)
        assert masks.thresholds.grad is None
