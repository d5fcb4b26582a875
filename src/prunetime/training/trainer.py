"""The one training loop: fine-tuning and distillation on `transformers.Trainer`, resumable to the byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from prunetime.core.arch import ArchSpec
from prunetime.core.arrays import Int32Array
from prunetime.core.precision import PrecisionPlan
from prunetime.core.progress import Progress
from prunetime.core.task import Task
from prunetime.core.task_kind import Choice
from prunetime.errors import PrunetimeError
from prunetime.models.batches import LengthBucketedBatches, TrainingBatch, TrainingData
from prunetime.models.distill import Distillation, distilled_loss
from prunetime.models.encoder import Output, SequenceClassifier, linears_of
from prunetime.models.fake_quant import fake_quantised
from prunetime.models.losses import all_reduce_mean, cosines_of_pairs, kept_of, mean_over_rows, task_losses
from prunetime.models.passes import Passes
from prunetime.models.threads import training_on
from prunetime.pruning.masks import Learned, LearnedMasks, MaskStep
from prunetime.pruning.pruners import masks_on
from prunetime.training.best import Best
from prunetime.training.checkpoints import checkpoint_of, claim, mark_complete, newest, training_digest
from prunetime.training.settings import Device, TrainingSettings
from prunetime.training.stopping import LearningCurve
from prunetime.training.tracking import tracking

Valuer = Callable[[SequenceClassifier], float]
"""Gives the value of a model on valid rows; higher is better."""


@dataclass(frozen=True)
class Trained:
    """A training came to this: the values on valid rows by steps, and the masks that were learned, if any were."""

    curve: LearningCurve
    learned: Learned | None = None


class SubNetworks(Protocol):
    """The sub-networks that elastic training trains beside the whole; the `repr` has all that `draw` depends on."""

    def draw(self, rng: np.random.Generator) -> Sequence[ArchSpec]:
        """Draws the sub-networks of one step."""
        ...


def fit(
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
    """Trains `model` in place, distilling from `teacher` where there is one.

    With `settings.stopping`, `value` is asked on valid rows when that says so, and the weights are in the end those of
    the best value (`LearningCurve.best`), which need not be the last.

    With `sub_networks`, every step also trains the prefixes that they draw, distilled from the whole model's outputs at
    that step (in-place distillation; Yu and Huang, arXiv 1903.05134); the whole is distilled from `teacher`.

    With `mask_step`, masks are learned with the weights, which end up masked.

    The models are on the CPU before and after. Checkpoints go to `folder/checkpoints`. Killed at any point and called
    again with the same arguments, it ends in the same weights, byte for byte, as an uninterrupted run with as many
    threads and ranks on the same CPU; with others it goes on as well, and bytes differ. The checkpoints stay until
    `discard_checkpoints`, so that a kill between here and saving the model costs nothing either.
    `on_progress` gets (steps done, steps in all).

    Under torchrun every rank calls it with the same arguments, takes its share of every batch, and has the same weights
    in the end: those of one process but for rounding and dropout. `folder` is one that all ranks see.

    Raises InputError where the folder has checkpoints of another training, PrunetimeError where the loss is not finite.
    """
    checkpoints = folder / "checkpoints"
    beside = f"{sub_networks!r} {mask_step and mask_step.digest()}"
    digest = training_digest(model, data, settings, teacher, beside)
    used, data = _with_used_vocabulary(data)
    with (
        _on(settings.device, model, teacher),
        training_on(settings.threads),
        _WordRows(model, used) as words,
        _WordRows(teacher, used) if teacher else nullcontext(),
        _masked(model, mask_step) as masks,
    ):
        objective = _Objective(model, teacher, data.task, settings, sub_networks, masks)
        curve = LearningCurve(settings.steps(len(data)), settings.stopping)
        best = Best(model, curve, partial(words.with_whole_table, value) if value else None)
        trainer = _Loop(objective, data, settings, checkpoints, on_progress, best)
        with trainer.args.main_process_first(local=False):
            claim(checkpoints, digest)
        checkpoint = newest(checkpoints)
        if checkpoint:
            best.resume(checkpoint)
            trainer.args.max_steps = best.curve.cooldown[1]
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        best.restore()
    model.eval()
    return Trained(best.curve, masks.learned() if masks else None)


class _Objective(nn.Module):
    """The loss of a batch, in the form in which Trainer wants it."""

    def __init__(
        self,
        student: SequenceClassifier,
        teacher: SequenceClassifier | None,
        task: Task,
        settings: TrainingSettings,
        sub_networks: SubNetworks | None,
        masks: LearnedMasks | None,
    ) -> None:
        super().__init__()
        self.student = student
        self.masks = masks
        dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
        self._passes = Passes(student, dtype)
        # No module: that keeps the teacher out of the parameters, the state dict and the reach of train().
        self._teacher = Passes(teacher.eval(), dtype, frozen=True) if teacher else None
        self._task = task
        self._settings = settings
        self._sub_networks = sub_networks

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor,
        labels: Tensor,
        seed: int,
        *,
        plan: PrecisionPlan,
        skipped: Tensor | None = None,
        teacher_logits: Tensor | None = None,
        groups: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Returns the loss of a `TrainingBatch`.

        `seed` draws the sub-networks of this step, the same on every rank; the student computes in the precisions of
        `plan`. `teacher_logits`, where there is no teacher here, are all that the student is distilled from.
        """
        inputs = (input_ids, attention_mask, token_type_ids)
        passes, teacher = self._passes, self._teacher
        logits_only = teacher is None and self._sub_networks is None

        def loss_of(output: Output, target: Output | None, distillation: Distillation) -> Tensor:
            loss = mean_over_rows(task_losses(output.logits.float(), labels, self._task))
            if teacher_logits is not None:
                return self._from_logits(loss, output, teacher_logits, attention_mask, groups)
            if target is None:
                return loss
            heads = self.masks.heads() if self.masks else None
            output, target = (each._replace(logits=kept_of(each.logits, self._task)) for each in (output, target))
            choice = self._task.traits.choice
            return distilled_loss(
                loss, output, target, attention_mask, distillation, heads=heads, choice=choice, groups=groups
            )

        if self.masks:
            self.masks.refresh()
        distillation = self._settings.distillation
        want_scores = teacher is not None and distillation.attention > 0
        bf16 = torch.autocast(self._settings.device, torch.bfloat16, enabled=self._settings.precision == "bf16")
        with bf16, fake_quantised(self.student, plan):
            variables = self.masks.mask_variables() if self.masks else None
            passes.begin()
            whole = passes.whole(inputs, variables, want_scores=want_scores, skipped=skipped, logits_only=logits_only)
            with torch.no_grad():
                target: Output | None = None
                if teacher is not None:
                    teacher.begin()
                    target = teacher.whole(inputs, want_scores=want_scores, skipped=skipped)
            drawn = self._sub_networks.draw(np.random.default_rng(seed)) if self._sub_networks else ()
            parts = [passes.prefix(spec, inputs, skipped=skipped) for spec in drawn]
        fixed = Output(whole.logits.detach(), tuple(state.detach() for state in whole.hidden_states))
        in_place = replace(distillation, attention=0.0)  # of other heads
        losses = [loss_of(whole, target, distillation), *(loss_of(part, fixed, in_place) for part in parts)]
        loss = torch.stack(losses).mean()
        return {"loss": loss + self.masks.penalty() if self.masks else loss}

    def _from_logits(
        self, task_loss: Tensor, output: Output, teacher_logits: Tensor, tokens: Tensor, groups: Tensor | None
    ) -> Tensor:
        """The distilled loss from a teacher of another shape: only what both say of an example can be compared."""
        logits, traits = kept_of(output.logits, self._task), self._task.traits
        if traits.reads_apart:
            logits = cosines_of_pairs(logits)[:, None]
        choice: Choice = "outputs" if traits.reads_apart else traits.choice
        weights = replace(self._settings.distillation, hidden=0.0, attention=0.0)
        both = Output(logits, ()), Output(teacher_logits, ())
        return distilled_loss(task_loss, *both, tokens, weights, choice=choice, groups=groups)


class _Loop(Trainer):
    def __init__(
        self,
        objective: _Objective,
        data: TrainingData,
        settings: TrainingSettings,
        checkpoints: Path,
        on_progress: Progress | None,
        best: Best,
    ) -> None:
        self._data = data
        self._settings = settings
        self._curve = best.curve
        steps = settings.steps(len(data))
        arguments = TrainingArguments(
            output_dir=str(checkpoints),
            max_steps=steps,
            per_device_train_batch_size=settings.batch_size,
            save_steps=settings.checkpoint_steps,
            seed=settings.seed,
            use_cpu=settings.device == "cpu",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            ddp_find_unused_parameters=False,
            **tracking().arguments(checkpoints.parent.name),
        )
        groups = _parameter_groups(objective.student, settings.weight_decay)
        if objective.masks:
            groups.append(objective.masks.parameter_group())
        optimizer = torch.optim.AdamW(groups, settings.learning_rate, fused=True)
        rising = settings.rising_steps(steps)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(best.curve.learning_rate, rising=rising))
        callback = _Callback(on_progress, objective.masks, best)
        callbacks = [callback, *tracking().callbacks(checkpoints.parent.name)]
        super().__init__(objective, arguments, callbacks=callbacks, optimizers=(optimizer, schedule))
        self.remove_callback(PrinterCallback)

    def get_train_dataloader(self) -> DataLoader[TrainingBatch]:
        settings, rows = self._settings, cast(Dataset[Any], range(len(self._data)))
        # Accelerate would give each rank whole batches, or drop those that are not full.
        ranks = {"rank": self.args.process_index, "world_size": self.args.world_size}
        steps = settings.steps(len(self._data))
        sampler = LengthBucketedBatches(
            self._data.lengths, settings.batch_size, steps, settings.seed, groups=self._data.groups, **ranks
        )
        return DataLoader(rows, batch_sampler=sampler, collate_fn=self._data.batch)

    def training_step(
        self, model: nn.Module, inputs: TrainingBatch, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        step = self.state.global_step
        torch.manual_seed(_seed_of(self._settings.seed, step, self.args.process_index))
        plan = self._settings.plan_at(step, self._curve)
        seeded: dict[str, Any] = {**inputs, "seed": _seed_of(self._settings.seed, step), "plan": plan}
        # Of all ranks: where one of them fails, all do, and none waits for it.
        loss = all_reduce_mean(super().training_step(model, seeded, num_items_in_batch))
        if not torch.isfinite(loss):
            raise PrunetimeError(
                f"the training loss is {float(loss)} at step {step}: lower the learning rate "
                f"({self._settings.learning_rate:g}), or train in fp32"
            )
        return loss


@dataclass
class _Callback(TrainerCallback):
    on_progress: Progress | None
    masks: LearnedMasks | None
    best: Best

    def on_save(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        if state.is_world_process_zero:
            checkpoints = Path(str(args.output_dir))
            self.best.save(checkpoint_of(checkpoints, state.global_step))
            mark_complete(checkpoints, state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        step = state.global_step
        if self.masks:
            self.masks.end_step(step, args.max_steps)
        self.best.look(step)
        end = self.best.curve.cooldown[1]
        if self.on_progress:
            self.on_progress(step, end)
        if step >= end:
            control.should_training_stop = control.should_save = True
        return control


def _seed_of(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        matrix = parameter.ndim > 1 and not name.startswith("embeddings.") and not name.endswith("position_bias")
        (decayed if matrix else plain).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def _with_used_vocabulary(data: TrainingData) -> tuple[Int32Array, TrainingData]:
    """Returns the token ids that occur (and the padding), ascending, and the data with ids as positions among them."""
    used = np.union1d(data.tokens.ids, [data.pad_id]).astype(np.int32)
    ids = np.searchsorted(used, data.tokens.ids).astype(np.int32)
    pad_id = int(np.searchsorted(used, data.pad_id))
    return used, replace(data, tokens=replace(data.tokens, ids=ids), pad_id=pad_id)


@contextmanager
def _on(device: Device, *models: SequenceClassifier | None) -> Iterator[None]:
    """Within, the models that are there are on the device."""
    there = [model.to(device) for model in models if model]
    try:
        yield
    finally:
        for model in there:
            model.cpu()


class _WordRows:
    """Within, the word table of `model` has only the rows `used`.

    Training it is the same as training the whole table: the other rows have no gradient and no weight decay, so
    AdamW never changes them. But most of a small encoder's parameters are in that table, and an optimizer step that
    touches them all costs as much as a good part of the forward pass.
    """

    def __init__(self, model: SequenceClassifier, used: Int32Array) -> None:
        embeddings = model.embeddings
        weight = cast(nn.Parameter, embeddings.word.weight)
        self._model = model
        self._rows = torch.from_numpy(used.astype(np.int64)).to(weight.device)
        self._whole = weight, embeddings.separator, embeddings.padding

        def row_of(word: int | None) -> int | None:
            return int(np.searchsorted(used, word)) if word is not None and word in used else None

        part = nn.Parameter(weight.detach()[self._rows])
        self._part = part, row_of(embeddings.separator), row_of(embeddings.padding)

    def __enter__(self) -> _WordRows:
        self._set(*self._part)
        return self

    def __exit__(self, *_: object) -> None:
        with torch.no_grad():
            self._whole[0][self._rows] = self._part[0]
        self._set(*self._whole)

    def _set(self, table: nn.Parameter, separator: int | None, padding: int | None) -> None:
        embeddings = self._model.embeddings
        embeddings.word.weight, embeddings.separator, embeddings.padding = table, separator, padding

    def with_whole_table(self, value: Valuer) -> float:
        """Returns the value of the model with all of its words."""
        self.__exit__()
        try:
            return value(self._model)
        finally:
            self.__enter__()


@contextmanager
def _masked(model: SequenceClassifier, step: MaskStep | None) -> Iterator[LearnedMasks | None]:
    """Within, the matrices of `model` are masked; after it, the masks are part of the weights."""
    if step is None:
        yield None
        return
    masks = masks_on(step, linears_of(model.layers))
    try:
        yield masks
    finally:
        masks.detach()
