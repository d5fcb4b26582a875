"""The classes of transformers that our models are. They need nothing but torch, transformers and a few modules of ours,
which an exported folder takes along (`export.transformers`); `hf` registers them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel, initialization
from transformers.modeling_outputs import (
    BaseModelOutputWithPooling,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.utils.generic import ModelOutput

from prunetime.core.arch import ArchSpec
from prunetime.core.blocks import INDEX_ARRAYS
from prunetime.core.config import EncoderConfig, LogitRows
from prunetime.errors import InputError
from prunetime.models.encoder import INITIAL_DEVIATION, Output, Parts, encode, parts
from prunetime.models.heads import OWN_MODEL_TYPE, PROBLEM_TYPES, HeadKind
from prunetime.models.sparse import BlockLinear


class PrunetimeConfig(PreTrainedConfig):
    """The config of our models: `encoder` is an `EncoderConfig` and `spec` an `ArchSpec`, both as JSON."""

    model_type = OWN_MODEL_TYPE

    encoder: dict[str, Any] | None = None
    spec: list[dict[str, Any]] | None = None
    dropout: float = 0.1

    modules: ClassVar[Mapping[str, str]] = {}
    """The code, by file name, of the modules that `auto_map` names; `prunetime.models.hf` sets it. Where prunetime is
    not installed these classes come from such files, and transformers copies them."""

    def save_pretrained(self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any) -> None:
        """As in transformers; a folder whose config.json has `auto_map` also gets the modules that it names."""
        if getattr(self, "auto_map", None):
            Path(save_directory).mkdir(parents=True, exist_ok=True)
            for name, code in self.modules.items():
                (Path(save_directory) / name).write_text(code, encoding="utf-8")
        super().save_pretrained(save_directory, push_to_hub, **kwargs)

    @property
    def hidden_size(self) -> int | None:
        """The hidden size, which transformers and sentence-transformers read off every config."""
        return EncoderConfig.from_json(self.encoder).dims.hidden if self.encoder else None

    @classmethod
    def of(cls, config: EncoderConfig, spec: ArchSpec, **settings: Any) -> PrunetimeConfig:
        """Makes a config; `settings` are other settings of transformers, such as `id2label` and `problem_type`."""
        labels = {"id2label": {index: f"LABEL_{index}" for index in range(config.outputs)}} | settings
        return cls(encoder=config.to_json(), spec=spec.to_json(), **labels)


class PrunetimePreTrainedModel(PreTrainedModel):
    """The base of our models of transformers: `SequenceClassifier` as a `PreTrainedModel`, on the `rows` of its class.

    A class whose forward pass takes `num_items_in_batch` divides its loss by that, as `Trainer` then expects of it;
    of the others `Trainer` averages the losses of the batches that a step accumulates.
    """

    config_class = PrunetimeConfig
    accepts_loss_kwargs = False
    rows: ClassVar[LogitRows]
    _supports_sdpa = True

    def __init__(self, config: PrunetimeConfig) -> None:
        super().__init__(config)
        encoder = EncoderConfig.from_json(config.encoder or {})
        if encoder.rows != "embedding":
            encoder = encoder.with_outputs(int(config.num_labels or encoder.outputs))
        if encoder.rows != self.rows:
            raise InputError(f"the model gives {encoder.rows} rows; {type(self).__name__} needs {self.rows} rows")
        self.embeddings, self.layers, self.final_norm, self.head = parts(
            encoder, ArchSpec.from_json(config.spec or []), config.dropout
        )
        self.post_init()  # type: ignore[no-untyped-call]  # transformers has no type for it

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[no-untyped-call]  # transformers has no type for it
        for name, buffer in module.named_buffers(recurse=False):
            if name.endswith(INDEX_ARRAYS):
                initialization.copy_(buffer, torch.arange(len(buffer), dtype=buffer.dtype))
        if isinstance(module, BlockLinear):
            initialization.copy_(module.blocks, module.fresh_blocks(INITIAL_DEVIATION))
            initialization.zeros_(module.bias)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings.word

    def _run(self, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None) -> Output:
        attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        own = Parts(self.embeddings, self.layers, self.final_norm, self.head)
        return encode(own, (input_ids, attention_mask, token_type_ids))

    def _states(self, output: Output, wanted: bool | None) -> tuple[Tensor, ...] | None:
        """Returns the hidden states where they are `wanted`; None leaves it to the config."""
        return output.hidden_states if (self.config.output_hidden_states if wanted is None else wanted) else None


class PrunetimeClassifier(PrunetimePreTrainedModel):
    """The base of our models of labels, one of each sequence or of each token."""

    accepts_loss_kwargs = True
    output_class: ClassVar[type[ModelOutput]]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **_: Any,
    ) -> ModelOutput:
        """`input_ids`, `attention_mask` and `token_type_ids` are [batch, tokens], `labels` [batch] or [batch, tokens]
        (-100: none). The loss is the sum over labels by `num_items_in_batch`, those of a step; without it the mean."""
        output = self._run(input_ids, attention_mask, token_type_ids)
        return self.output_class(
            loss=None if labels is None else self._loss(output.logits, labels, num_items_in_batch),
            logits=output.logits,
            hidden_states=self._states(output, output_hidden_states),
        )

    def _loss(self, logits: Tensor, labels: Tensor, items: Tensor | int | None) -> Tensor:
        """Returns the sum of the cross entropies by `items`, by default the number of labels."""
        total = functional.cross_entropy(
            logits.movedim(-1, 1), labels.long(), reduction="mean" if items is None else "sum"
        )
        return total if items is None else total / items


class PrunetimeForSequenceClassification(PrunetimeClassifier):
    """A model for `AutoModelForSequenceClassification`, on pooled rows; the loss follows `config.problem_type`."""

    rows = "pooled"
    output_class = SequenceClassifierOutput

    def _loss(self, logits: Tensor, labels: Tensor, items: Tensor | int | None) -> Tensor:
        """BCE of every output where the problem is `multi_label_classification`; else squared error of one output, and
        cross entropy of several."""
        is_multi_label = self.config.problem_type == PROBLEM_TYPES["multi-label-classification"]
        if logits.shape[1] > 1 and not is_multi_label:
            return super()._loss(logits, labels, items)
        loss_of = functional.binary_cross_entropy_with_logits if is_multi_label else functional.mse_loss
        losses = loss_of(logits, labels.reshape(logits.shape).to(logits.dtype), reduction="none")
        return losses.sum() / (losses.numel() if items is None else items)


class PrunetimeForQuestionAnswering(PrunetimePreTrainedModel):
    """A model for `AutoModelForQuestionAnswering`, with two outputs per token: the answer starts there, and it ends."""

    rows = "tokens"

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **_: Any,
    ) -> QuestionAnsweringModelOutput:
        """`input_ids`, `attention_mask` and `token_type_ids` are [batch, tokens], the positions [batch]; one outside of
        the tokens counts for nothing in the loss, as in transformers."""
        output = self._run(input_ids, attention_mask, token_type_ids)
        loss = None
        if start_positions is not None and end_positions is not None:
            tokens = input_ids.shape[1]
            labels = torch.stack((start_positions, end_positions), dim=1).long().clamp(0, tokens)
            loss = torch.stack(
                [functional.cross_entropy(output.logits[..., i], labels[:, i], ignore_index=tokens) for i in (0, 1)]
            ).mean()
        return QuestionAnsweringModelOutput(
            loss=loss,
            start_logits=output.logits[..., 0],
            end_logits=output.logits[..., 1],
            hidden_states=self._states(output, output_hidden_states),
        )


class PrunetimeForTokenClassification(PrunetimeClassifier):
    """A model for `AutoModelForTokenClassification`, with an output per token for every label."""

    rows = "tokens"
    output_class = TokenClassifierOutput


class PrunetimeModel(PrunetimePreTrainedModel):
    """A model for `AutoModel`, without a head: `pooler_output` is the embedding."""

    rows = "embedding"

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **_: Any,
    ) -> BaseModelOutputWithPooling:
        """`input_ids`, `attention_mask` and `token_type_ids` are [batch, tokens]."""
        output = self._run(input_ids, attention_mask, token_type_ids)
        return BaseModelOutputWithPooling(
            last_hidden_state=output.hidden_states[-1],
            pooler_output=output.logits,
            hidden_states=self._states(output, output_hidden_states),
        )


OF_HEAD: dict[HeadKind, type[PrunetimePreTrainedModel]] = {
    "pooled": PrunetimeForSequenceClassification,
    "answers": PrunetimeForQuestionAnswering,
    "tags": PrunetimeForTokenClassification,
    "embedding": PrunetimeModel,
}
