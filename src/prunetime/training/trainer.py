"""The one training loop: fine-tuning and distillation on `transformers.Trainer`, resumable to the byte."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerState, TrainingArguments

from prunetime.core.arch import ArchSpec
from prunetime.core.arrays import Int32Array
from prunetime.core.progress import Progress
from prunetime.core.task import Task
from prunetime.errors import PrunetimeError
from prunetime.models.batches import LengthBucketedBatches, TrainingBatch, TrainingData
from prunetime.models.distill import Distillation, distilled_loss
from prunetime.models.encoder import Output, SequenceClassifier, linears_of
from prunetime.models.losses import all_reduce_mean, kept_of, mean_over_rows, task_losses
from prunetime.models.prefix import run_prefix
from prunetime.models.threads import training_on
from prunetime.pruning.masks import Learned, LearnedMasks, MaskStep
from prunetime.pruning.pruners import masks_on
from prunetime.training.checkpoints import claim, mark_complete, newest, training_digest
from prunetime.training.settings import Device, TrainingSettings
from prunetime.training.tracking import tracking


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
    sub_networks: SubNetworks | None = None,
    mask_step: MaskStep | None = None,
) -> Learned | None:
    """Trains `model` in place, distilling from `teacher` where there is one.

    With `sub_networks`, every step also trains the prefixes that they draw, distilled from the whole model's outputs at
    that step (in-place distillation; Yu and Huang, arXiv 1903.05134); the whole is distilled from `teacher`.

    With `mask_step`, masks are learned with the weights, which end up masked; the result of that step is returned.

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
        _word_rows(model, used),
        _word_rows(teacher, used) if teacher else nullcontext(),
        _masked(model, mask_step) as masks,
    ):
        objective = _Objective(model, teacher, data.task, settings, sub_networks, masks)
        trainer = _Loop(objective, data, settings, checkpoints, on_progress)
        with trainer.args.main_process_first(local=False):
            claim(checkpoints, digest)
        checkpoint = newest(checkpoints)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    model.eval()
    return masks.learned() if masks else None


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
        # A tuple keeps the teacher out of the parameters, the state dict and the reach of train().
        self._teacher = (teacher.eval() if teacher else None,)
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
        skipped: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Returns the loss of a `TrainingBatch`; `seed` draws the sub-networks of this step, the same on every rank."""
        inputs = (input_ids, attention_mask, token_type_ids)
        (teacher,) = self._teacher

        def loss_of(output: Output, target: Output | None, distillation: Distillation) -> Tensor:
            loss = mean_over_rows(task_losses(output.logits.float(), labels, self._task))
            if target is None:
                return loss
            heads = self.masks.heads() if self.masks else None
            output, target = (each._replace(logits=kept_of(each.logits, self._task)) for each in (output, target))
            return distilled_loss(
                loss, output, target, attention_mask, distillation, heads=heads, choice=self._task.traits.choice
            )

        if self.masks:
            self.masks.refresh()
        distillation = self._settings.distillation
        want_scores = teacher is not None and distillation.attention > 0
        with torch.autocast(self._settings.device, torch.bfloat16, enabled=self._settings.precision == "bf16"):
            variables = self.masks.mask_variables() if self.masks else None
            whole: Output = self.student(*inputs, mask_variables=variables, want_scores=want_scores, skipped=skipped)
            with torch.no_grad():
                target: Output | None = None
                if teacher is not None:
                    target = teacher(*inputs, want_scores=want_scores, skipped=skipped)
            drawn = self._sub_networks.draw(np.random.default_rng(seed)) if self._sub_networks else ()
            parts = [run_prefix(self.student, spec, inputs, skipped=skipped) for spec in drawn]
        fixed = Output(whole.logits.detach(), tuple(state.detach() for state in whole.hidden_states))
        in_place = replace(distillation, attention=0.0)  # of other heads
        losses = [loss_of(whole, target, distillation), *(loss_of(part, fixed, in_place) for part in parts)]
        loss = torch.stack(losses).mean()
        return {"loss": loss + self.masks.penalty() if self.masks else loss}


class _Loop(Trainer):
    def __init__(
        self,
        objective: _Objective,
        data: TrainingData,
        settings: TrainingSettings,
        checkpoints: Path,
        on_progress: Progress | None,
    ) -> None:
        self._data = data
        self._settings = settings
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
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _warmup_then_decay(settings.warmup, steps))
        callbacks = [_Callback(on_progress, objective.masks), *tracking().callbacks(checkpoints.parent.name)]
        super().__init__(objective, arguments, callbacks=callbacks, optimizers=(optimizer, schedule))
        self.remove_callback(PrinterCallback)

    def get_train_dataloader(self) -> DataLoader[TrainingBatch]:
        settings, rows = self._settings, cast(Dataset[Any], range(len(self._data)))
        # Accelerate would give each rank whole batches, or drop those that are not full.
        ranks = {"rank": self.args.process_index, "world_size": self.args.world_size}
        steps = settings.steps(len(self._data))
        sampler = LengthBucketedBatches(self._data.lengths, settings.batch_size, steps, settings.seed, **ranks)
        return DataLoader(rows, batch_sampler=sampler, collate_fn=self._data.batch)

    def training_step(
        self, model: nn.Module, inputs: TrainingBatch, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        step = self.state.global_step
        torch.manual_seed(_seed_of(self._settings.seed, step, self.args.process_index))
        seeded: dict[str, Any] = {**inputs, "seed": _seed_of(self._settings.seed, step)}
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

    def on_save(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        if state.is_world_process_zero:
            mark_complete(Path(str(args.output_dir)), state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        if self.on_progress:
            self.on_progress(state.global_step, args.max_steps)
        if self.masks:
            self.masks.end_step(state.global_step, args.max_steps)


def _seed_of(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        matrix = parameter.ndim > 1 and not name.startswith("embeddings.") and not name.endswith("position_bias")
        (decayed if matrix else plain).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def _warmup_then_decay(warmup: float, steps: int) -> Callable[[int], float]:
    rising = math.ceil(warmup * steps)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        return max(0.0, (steps - step) / max(1, steps - rising))

    return factor


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


@contextmanager
def _word_rows(model: SequenceClassifier, used: Int32Array) -> Iterator[None]:
    """Within, the word table of `model` has only the rows `used`.

    Training it is the same as training the whole table: the other rows have no gradient and no weight decay, so
    AdamW never changes them. But most of a small encoder's parameters are in that table, and an optimizer step that
    touches them all costs as much as a good part of the forward pass.
    """
    embeddings, embedding = model.embeddings, model.embeddings.word
    separator, padding = embeddings.separator, embeddings.padding
    whole, rows = embedding.weight, torch.from_numpy(used.astype(np.int64)).to(embedding.weight.device)
    embedding.weight = nn.Parameter(whole.detach()[rows])

    def row_of(word: int | None) -> int | None:
        return int(np.searchsorted(used, word)) if word is not None and word in used else None

    embeddings.separator, embeddings.padding = row_of(separator), row_of(padding)
    try:
        yield
    finally:
        with torch.no_grad():
            whole[rows] = embedding.weight
        embedding.weight, embeddings.separator, embeddings.padding = whole, separator, padding


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
