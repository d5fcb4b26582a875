"""Learned multilevel masks in anybody's training script: a callback for `transformers.Trainer`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, TrainerCallback, TrainerState, TrainingArguments

from prunetime.arch import Grain
from prunetime.errors import InputError
from prunetime.mask import Mask, Scores
from prunetime.models.compact import compact, in_blocks
from prunetime.models.encoder import Output
from prunetime.models.modeling import PrunetimePreTrainedModel
from prunetime.models.transformed import AttentionScores, encoder_of, model_of, weights_from
from prunetime.pruning.masks import MaskStep, mask_of
from prunetime.pruning.regularise import WeightsKept
from prunetime.pruning.topk import TopK
from prunetime.training.distill import Distillation, distilled_loss

LABELS = ("labels", "start_positions", "end_positions")


class MultilevelPruning(TrainerCallback):
    """Masks of one step on a `Bert...ForSequenceClassification` (or question answering), or on a model that an earlier
    step left, learned while `Trainer` trains it as it would without.

        pruning = MultilevelPruning(model, 0.4)
        trainer = Trainer(model, arguments, ..., callbacks=[pruning], optimizers=(pruning.optimizer(arguments), None))
        trainer.train()
        pruning.compact().save_pretrained("pruned")

    `weights` is the share of the dense encoder's layer weights to be kept: in heads and rows, or, with `grain`, in
    blocks of that size. The model's loss gets the regularisation, and `distillation` from `teacher` where there is one.
    `scores` say what is kept first, as in `MaskStep`, and `changes` are its other settings.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        weights: float,
        grain: Grain | None = None,
        teacher: PreTrainedModel | None = None,
        distillation: Distillation = Distillation(),  # noqa: B008 (immutable)
        scores: Scores | None = None,
        **changes: Any,
    ) -> None:
        if not 0.0 < weights <= 1.0:
            raise InputError(f"weights is {weights}: it must be a share above 0 and at most 1")
        self._model, self._encoder = model, encoder_of(model)
        config, base = self._encoder.config, self._encoder.spec
        cost = WeightsKept(config.dims)
        self._step = MaskStep(config.dims, base, cost, weights * cost.dense, grain, scores, **changes)
        self._masks = TopK(self._step, self._encoder.linears)
        model.add_module("multilevel", self._masks)  # for checkpoints, and for gradients over ranks
        model.accepts_loss_kwargs = False  # type: ignore[assignment]  # so that Trainer averages over what it accumulates
        self._teacher = None if teacher is None else teacher.eval().requires_grad_(False)
        self._distillation = distillation
        self._scores: list[AttentionScores | None] = [None, None]
        if self._teacher is not None and distillation.attention:
            self._scores = [AttentionScores(model), AttentionScores(self._teacher)]
        self._hooks = [
            model.register_forward_pre_hook(self._before, with_kwargs=True),
            model.register_forward_hook(self._after, with_kwargs=True),
        ]

    def optimizer(self, arguments: TrainingArguments) -> torch.optim.Optimizer:
        """AdamW with the learning rate of `arguments` for weights, and that of the step for scores and thresholds."""
        weights = [p for name, p in self._model.named_parameters() if not name.startswith("multilevel.")]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in weights if p.ndim > 1], "weight_decay": arguments.weight_decay},
            {"params": [p for p in weights if p.ndim < 2], "weight_decay": 0.0},
            self._masks.parameter_group(),
        ]
        return torch.optim.AdamW(groups, arguments.learning_rate)

    @property
    def share(self) -> float:
        """Of the dense encoder's layer weights, what is kept now."""
        return self._masks.share

    def compact(self) -> PrunetimePreTrainedModel:
        """Ends the step: takes the masks off the model, whose weights they have become, and returns what they keep.

        That is a model of transformers, to be trained on (with blocks, next), saved and loaded again.
        """
        self._masks.detach()
        for hook in self._hooks:
            hook.remove()
        for scores in filter(None, self._scores):
            scores.remove()
        del self._model.multilevel, self._model.accepts_loss_kwargs
        config, spec = self._encoder.config, self._masks.spec()
        mask = mask_of(self._step, self._masks.learned().kept, Mask.full(config.dims))
        weights = weights_from(self._model, config)
        of_blocks = self._step.grain is not None
        kept = in_blocks(weights, mask) if of_blocks else compact(weights, mask, config.dims)
        return model_of(config, spec, kept, self._model)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:  # noqa: ARG002 (Trainer gives it)
        self._masks.end_step(state.global_step, state.max_steps)

    def _before(
        self, _: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        self._masks.refresh()
        if self._teacher is None or not self._model.training:
            return arguments, named
        return arguments, {**named, "output_hidden_states": True}

    def _after(self, model: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], output: Any) -> Any:
        """The loss hook."""
        if not model.training or output.get("loss") is None:
            return output
        loss = output["loss"]
        if self._teacher is not None:
            inputs = {name: value for name, value in named.items() if name not in LABELS}
            of_student, of_teacher = self._scores
            with torch.no_grad():
                expected = _output(self._teacher.to(loss.device)(*arguments, **inputs), of_teacher)
            tokens = named.get("attention_mask")
            tokens = torch.ones_like(named["input_ids"]) if tokens is None else tokens
            student = _output(output, of_student)
            loss = distilled_loss(
                loss,
                student,
                expected,
                tokens,
                self._distillation,
                heads=self._masks.heads(),
                choice="tokens" if self._encoder.head == "answers" else "outputs",
            )
        output["loss"] = loss + self._masks.penalty()
        return output


def _output(found: Any, scores: AttentionScores | None) -> Output:
    logits = found["logits"] if "logits" in found else torch.stack((found["start_logits"], found["end_logits"]), dim=-1)
    return Output(logits, tuple(found["hidden_states"]), attention_scores=scores.take() if scores else ())
