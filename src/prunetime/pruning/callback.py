"""A callback for `transformers.Trainer` that learns multilevel masks in any training script."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from prunetime.core.arch import BlockShape
from prunetime.core.deprecation import renamed_arguments
from prunetime.core.mask import Mask, Scores
from prunetime.core.task_kind import Choice
from prunetime.errors import InputError
from prunetime.models.compact import compact, in_blocks
from prunetime.models.distill import Distillation, distilled_loss
from prunetime.models.encoder import Output
from prunetime.models.heads import PROBLEM_TYPES
from prunetime.models.modeling import PrunetimePreTrainedModel
from prunetime.models.transformed import AttentionScores, encoder_of, model_of, weights_from
from prunetime.pruning.auxiliary_loss import AuxiliaryLoss, GradientAccumulation
from prunetime.pruning.mask_optimizer import MaskOptimizer, schedule_of
from prunetime.pruning.masks import MaskStep, mask_of
from prunetime.pruning.regularise import WeightsKept
from prunetime.pruning.topk import TopK

LABELS = ("labels", "start_positions", "end_positions")

STEPS_IN_BACKWARD = ("lomo", "adalomo")
"""Optimizers that step in the backward pass; those with a name that ends in `layerwise` do, too."""


class MultilevelPruning(TrainerCallback):
    """A `TrainerCallback` that prunes a model while `Trainer` trains it: it learns masks beside the weights.

    The loss that `Trainer` computes from the model's outputs gets a sparsity loss and, with a teacher, distillation.
    Scores and thresholds have an AdamW of their own, at `MaskStep`'s learning rate times the weights' schedule.

    Args:
        model: A `...ForSequenceClassification`, `...ForQuestionAnswering` or `...ForTokenClassification` of a supported
            family, or what an earlier `compact()` returned.
        weights: The share of the dense encoder's layer weights to keep, above 0 and at most 1.
        block_shape: The (rows, columns) of the blocks to prune; None prunes heads and FFN neurons.
        teacher: The model to distil from; it is not trained.
        distillation: The weights of the terms of the distilled loss.
        scores: What is kept first, as in `MaskStep`; None starts from zeros.
        changes: Other settings of `MaskStep`, such as `learning`, the share of the steps in which masks are learned.

    Raises:
        InputError: the model, the share or a setting is not supported.

    Example:
        >>> pruning = MultilevelPruning(model, 0.4)
        >>> Trainer(model, arguments, train_dataset=rows, callbacks=[pruning]).train()
        >>> pruning.compact().save_pretrained("pruned")
    """

    _accumulation: GradientAccumulation  # of the training, from its beginning

    @renamed_arguments(grain="block_shape")
    def __init__(
        self,
        model: PreTrainedModel,
        weights: float,
        block_shape: BlockShape | None = None,
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
        self._step = MaskStep(config.dims, base, cost, weights * cost.dense, block_shape, scores, **changes)
        self._masks = TopK(self._step, self._encoder.linears)
        self._optimizer = MaskOptimizer(self._masks)
        model.add_module("multilevel", self._masks)  # for checkpoints, and for gradients over ranks
        model.add_module("multilevel_optimizer", self._optimizer)
        model.accepts_loss_kwargs = False  # type: ignore[assignment]  # so that Trainer averages over what it accumulates
        self._teacher = None if teacher is None else teacher.eval().requires_grad_(False)
        self._distillation = distillation
        self._auxiliary_loss = AuxiliaryLoss()
        self._steps = 0, 0
        self._scores: list[AttentionScores | None] = [None, None]
        if self._teacher is not None and distillation.attention:
            self._scores = [AttentionScores(model), AttentionScores(self._teacher)]
        untraced: Any = torch.compiler.disable  # torch declares no type of it
        before, after = untraced(self._before), untraced(self._after)
        self._hooks = [
            model.register_forward_pre_hook(before, with_kwargs=True),
            model.register_forward_hook(after, with_kwargs=True),
        ]

    def optimizer(self, arguments: TrainingArguments) -> torch.optim.Optimizer:
        """Returns an AdamW for `Trainer(optimizers=...)` that decays matrices only; masks do with any other, too."""
        weights = list(self._model.parameters())
        groups: list[dict[str, Any]] = [
            {"params": [p for p in weights if p.ndim > 1], "weight_decay": arguments.weight_decay},
            {"params": [p for p in weights if p.ndim < 2], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, arguments.learning_rate)

    @property
    def share(self) -> float:
        """The share of the dense encoder's layer weights that is kept now."""
        return self._masks.share

    def compact(self) -> PrunetimePreTrainedModel:
        """Ends the step: takes the masks off the model, and removes the weights that they mask.

        Returns:
            A smaller model of transformers, to be saved, loaded, trained on, or pruned in a next step.

        Raises:
            InputError: the masks are not frozen: training ended early, or an earlier checkpoint was loaded as the best.
        """
        if not self._masks.frozen:
            raise InputError(self._why_not_frozen())
        self._masks.detach()
        for hook in self._hooks:
            hook.remove()
        for scores in filter(None, self._scores):
            scores.remove()
        del self._model.multilevel, self._model.multilevel_optimizer, self._model.accepts_loss_kwargs
        config, spec = self._encoder.config, self._masks.spec()
        mask = mask_of(self._step, self._masks.learned().kept, Mask.full(config.dims))
        weights = weights_from(self._model, config)
        of_blocks = self._step.block_shape is not None
        kept = in_blocks(weights, mask) if of_blocks else compact(weights, mask, config.dims)
        return model_of(config, spec, kept, self._model)

    def _why_not_frozen(self) -> str:
        done, of = self._steps
        last = self._step.last_learning_step(of)
        learning = f"masks keep {self.share:.1%} of the weights, and are not frozen at the target"
        if not of:
            return f"{learning}: train the model first"
        if done < last:
            return (
                f"{learning}: training ended after step {done} of {of}, and they freeze after step {last}. Train on "
                f"(resume_from_checkpoint), or give a smaller share of steps (learning={self._step.learning})"
            )
        return (
            f"{learning}: the best checkpoint, which load_best_model_at_end loaded, is of a step before {last}. Load "
            f"the last checkpoint instead, or evaluate only after masks are frozen (eval_delay={last})"
        )

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002 (Trainer gives it)
        **given: Any,
    ) -> None:
        """Raises InputError where masks cannot be learned in this training."""
        optimizer: torch.optim.Optimizer = given["optimizer"]
        scaler = getattr(optimizer, "scaler", None)
        self._check(args, given["model"])
        if scaler is not None:
            self._check_scaled(optimizer)
        self._auxiliary_loss.begin(scaler)
        self._accumulation = GradientAccumulation(args, state, given["train_dataloader"])
        last = self._step.last_learning_step(state.max_steps)
        if args.load_best_model_at_end and args.eval_delay < last:
            warnings.warn(
                f"load_best_model_at_end may load a checkpoint of a step before {last}, when masks freeze, which "
                f"compact() refuses: evaluate only after that (eval_delay={last})",
                stacklevel=1,
            )

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self._accumulation.begin_epoch()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._auxiliary_loss.begin_step(self._accumulation.next_step())

    def on_pre_optimizer_step(self, *_: Any, **given: Any) -> None:
        """Gradients are whole, clipped and without the scale of a scaler here."""
        self._auxiliary_loss.check_step()
        if not self._masks.frozen:
            self._optimizer.step(schedule_of(given["optimizer"]))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:  # noqa: ARG002 (Trainer gives it)
        self._steps = state.global_step, state.max_steps
        self._masks.end_step(state.global_step, state.max_steps)

    def _check(self, args: TrainingArguments, model: nn.Module) -> None:
        if model is not self._model:
            raise InputError(
                f"this {type(self).__name__} is of another model than the Trainer's: make it of the model that is "
                "trained (a model_init makes a new one), after any changes to it"
            )
        refused = {
            "fsdp": bool(args.fsdp),
            "deepspeed": args.deepspeed is not None,
            "parallelism_config": args.parallelism_config is not None,
            f"several GPUs in one process (n_gpu={args.n_gpu})": args.n_gpu > 1,
        }
        for name, given in refused.items():
            if given:
                raise InputError(f"masks are not learned with {name}: start a process for each device, with torchrun")
        if args.optim in STEPS_IN_BACKWARD or args.optim.endswith("layerwise"):
            raise InputError(f"masks are not learned with optim={args.optim}, which steps in the backward pass")
        if _reentrant(args) and self._scores[0] is not None:
            raise InputError(
                "attention scores are not distilled with use_reentrant=True in activation_checkpointing_kwargs, which "
                "keeps no gradient of them: leave that out, or give Distillation(attention=0.0)"
            )

    def _check_scaled(self, optimizer: torch.optim.Optimizer) -> None:
        known = {parameter for group in optimizer.param_groups for parameter in group["params"]}
        if not known.issuperset(self._masks.parameters()):
            raise InputError(
                "the optimizer of this training has been made without what masks learn, whose gradients fp16 scales: "
                f"make it of model.parameters() after {type(self).__name__}, or train in bf16"
            )

    def _before(
        self, _: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        self._masks.refresh()
        if self._teacher is None or not self._model.training:
            return arguments, named
        return arguments, {**named, "output_hidden_states": True}

    def _after(self, model: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], output: Any) -> Any:
        """The loss hook: the loss and the logits bring the auxiliary loss into the gradient, whichever is used."""
        if not model.training:
            return output
        if not isinstance(output, dict):
            raise InputError(f"the model returns a {type(output).__name__}: masks need return_dict=True")
        auxiliary = self._masks.penalty() + self._distilled(arguments, named, output)
        names = [name for name in ("loss", "logits", "start_logits", "end_logits") if output.get(name) is not None]
        weight = 1.0 if self._teacher is None else self._distillation.task
        added = self._auxiliary_loss.added_to([output[name] for name in names], auxiliary, weight)
        for name, tensor in zip(names, added, strict=True):
            output[name] = tensor
        if "loss" in names:
            output["loss"] = output["loss"] + (weight - 1.0) * output["loss"].detach() + auxiliary.detach()
        return output

    @property
    def _choice(self) -> Choice:
        """What the model's logits choose among."""
        if self._encoder.head == "answers":
            return "tokens"
        multi_label = PROBLEM_TYPES["multi-label-classification"]
        is_multi_label = self._encoder.head == "pooled" and self._model.config.problem_type == multi_label
        return "yes-no" if is_multi_label else "outputs"

    def _distilled(self, arguments: tuple[Any, ...], named: dict[str, Any], output: Any) -> Tensor | float:
        """Returns the weighed distance of the model from its teacher; 0 where there is none."""
        if self._teacher is None:
            return 0.0
        logits = output["logits"] if "logits" in output else output["start_logits"]
        inputs = {name: value for name, value in named.items() if name not in LABELS}
        of_student, of_teacher = self._scores
        with torch.no_grad():
            expected = _output(self._teacher.to(logits.device)(*arguments, **inputs), of_teacher)
        tokens = named.get("attention_mask")
        tokens = torch.ones_like(named["input_ids"]) if tokens is None else tokens
        return distilled_loss(
            logits.new_zeros(()),
            _output(output, of_student),
            expected,
            tokens,
            self._distillation,
            heads=self._masks.heads(),
            choice=self._choice,
        )


def _reentrant(args: TrainingArguments) -> bool:
    """Returns whether activations are checkpointed the older way; transformers 5.24 renamed the options."""
    options: Any = [
        getattr(args, f"{name}_checkpointing_kwargs", None)
        for name in ("activation", "gradient")
        if getattr(args, f"{name}_checkpointing", False)
    ]
    return any(given and given.get("use_reentrant") for given in options)


def _output(found: Any, scores: AttentionScores | None) -> Output:
    logits = found["logits"] if "logits" in found else torch.stack((found["start_logits"], found["end_logits"]), dim=-1)
    return Output(logits, tuple(found["hidden_states"]), attention_scores=scores.take() if scores else ())
