"""The classes through which transformers loads and trains our models; importing this module registers them.

    import prunetime.models.hf
    model = AutoModelForSequenceClassification.from_pretrained(folder)

The tensors have the names of the engine's, so one `model.safetensors` serves both.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    initialization,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from prunetime.arch import ArchSpec
from prunetime.artifact import INDEX_ARRAYS
from prunetime.config import EncoderConfig
from prunetime.errors import InputError
from prunetime.models.encoder import INITIAL_DEVIATION, encode, parts
from prunetime.models.families import OWN_MODEL_TYPE
from prunetime.models.sparse import BlockLinear
from prunetime.task import Task

PROBLEM_TYPES = {
    "classification": "single_label_classification",
    "relevance": "multi_label_classification",
    "regression": "regression",
}
"""What transformers calls our kinds of task. Relevance is one label with a logit of its own, scored by a sigmoid."""


class PrunetimeConfig(PreTrainedConfig):
    """`encoder` is an `EncoderConfig` and `spec` an `ArchSpec`, both as JSON; `dropout` is for training."""

    model_type = OWN_MODEL_TYPE

    encoder: dict[str, Any] | None = None
    spec: list[dict[str, Any]] | None = None
    dropout: float = 0.1

    @classmethod
    def of(cls, config: EncoderConfig, spec: ArchSpec, **settings: Any) -> PrunetimeConfig:
        """`settings` are any other settings of transformers, such as `id2label` and `problem_type`."""
        labels = {"id2label": {index: f"LABEL_{index}" for index in range(config.outputs)}} | settings
        return cls(encoder=config.to_json(), spec=spec.to_json(), **labels)


class PrunetimeForSequenceClassification(PreTrainedModel):
    """`SequenceClassifier` as transformers wants it; the loss follows `config.problem_type`."""

    config_class = PrunetimeConfig
    _supports_sdpa = True

    def __init__(self, config: PrunetimeConfig) -> None:
        super().__init__(config)
        encoder = EncoderConfig.from_json({**(config.encoder or {}), "outputs": config.num_labels})
        _pooled(encoder)
        self.embeddings, self.layers, self.head = parts(encoder, ArchSpec.from_json(config.spec or []), config.dropout)
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

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """`input_ids`, `attention_mask` and `token_type_ids` are [batch, tokens], `labels` [batch]."""
        attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        output = encode(self.embeddings, self.layers, self.head, (input_ids, attention_mask, token_type_ids))
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        return SequenceClassifierOutput(
            loss=None if labels is None else self._loss(output.logits, labels),
            logits=output.logits,
            hidden_states=output.hidden_states if wanted else None,
        )

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross entropy for several outputs; for one, squared error or (`multi_label_classification`) BCE."""
        if logits.shape[1] > 1:
            return functional.cross_entropy(logits, labels.long())
        one_output_loss = (
            functional.binary_cross_entropy_with_logits
            if self.config.problem_type == PROBLEM_TYPES["relevance"]
            else functional.mse_loss
        )
        return one_output_loss(logits[:, 0], labels.reshape(-1).to(logits.dtype))


def config_json(config: EncoderConfig, spec: ArchSpec, task: Task) -> bytes:
    """The config.json with which `AutoModelForSequenceClassification.from_pretrained` loads the model's folder.

    Raises InputError where the task has another number of outputs than the model, or the model a row per token.
    """
    _pooled(config)
    if task.outputs != config.outputs:
        raise InputError(f"a {task.kind} task of {task.outputs} outputs for a model of {config.outputs}")
    settings: dict[str, Any] = {
        "problem_type": PROBLEM_TYPES[task.kind],
        "architectures": [PrunetimeForSequenceClassification.__name__],
    }
    if task.labels:
        settings["id2label"] = dict(enumerate(task.labels))
        settings["label2id"] = {label: index for index, label in enumerate(task.labels)}
    return str(PrunetimeConfig.of(config, spec, **settings).to_json_string()).encode()


def _pooled(config: EncoderConfig) -> None:
    if config.rows != "pooled":
        raise InputError(
            f"the model gives {config.rows} rows; our class for transformers classifies sequences, from pooled rows"
        )


AutoConfig.register(OWN_MODEL_TYPE, PrunetimeConfig)
AutoModelForSequenceClassification.register(PrunetimeConfig, PrunetimeForSequenceClassification)
AutoTokenizer.register(PrunetimeConfig, fast_tokenizer_class=PreTrainedTokenizerFast)
