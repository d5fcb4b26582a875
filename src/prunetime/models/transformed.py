"""Conversion between models of transformers and our encoders, for training scripts that are not ours."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from prunetime.core.arch import ArchSpec, LayerSpec
from prunetime.core.arrays import Array, Weights
from prunetime.core.config import FAMILIES, EncoderConfig
from prunetime.errors import InputError
from prunetime.models.encoder import Linears, linears_of
from prunetime.models.families import family_config
from prunetime.models.heads import CLASSES, HeadKind, heads_of
from prunetime.models.modeling import OF_HEAD, PrunetimeConfig, PrunetimePreTrainedModel
from prunetime.models.names import NAMES, our_names


@dataclass(frozen=True)
class Encoder:
    """The encoder inside a model of transformers: its structure, its matrices, and the use of its head."""

    config: EncoderConfig
    spec: ArchSpec
    linears: Linears
    head: HeadKind


def encoder_of(model: PreTrainedModel) -> Encoder:
    """Returns the encoder inside `model`; raises InputError where its family or its head is not supported."""
    if isinstance(model, PrunetimePreTrainedModel):
        config, spec = EncoderConfig.from_json(model.config.encoder), ArchSpec.from_json(model.config.spec)
        return Encoder(config, spec, linears_of(model.layers), head_of_class(model))
    family, name = model.config.model_type, type(model).__name__
    if family not in FAMILIES or not name.endswith(tuple(CLASSES.values())):
        raise InputError(
            f"{name} of family {family!r} is not supported: masks are learned of models {', '.join(CLASSES.values())}, "
            f"of {', '.join(FAMILIES)}"
        )
    head = head_of_class(model)
    config = family_config(model.config.to_dict(), family, int(model.config.num_labels or 0), name)
    names = NAMES[family]
    if names.stacked:
        raise InputError(
            f"{name} has several matrices in one ({', '.join(names.stacked)}), of which masks cannot be learned apart: "
            "save it, and train what prunetime.models.families.load and prunetime.models.hf make of it"
        )
    linears: list[dict[str, Any]] = [
        {
            matrix: model.get_submodule(names.prefix + names.encoder[f"layers.{{}}.{matrix}"].format(index))
            for matrix in LayerSpec.full(config.dims).matrix_shapes(config.dims)
        }
        for index in range(config.dims.layers)
    ]
    return Encoder(replace(config, rows=OF_HEAD[head].rows), ArchSpec.full(config.dims), linears, head)


def head_of_class(model: PreTrainedModel) -> HeadKind:
    """Returns the head of the model's class."""
    return next(iter(heads_of([type(model).__name__])), "embedding")


class AttentionScores:
    """Hooks that keep the attention scores, before the softmax, of the last forward pass of a model; until `remove`."""

    def __init__(self, model: PreTrainedModel) -> None:
        encoder = encoder_of(model)
        self._head_dim, self._seen = encoder.config.dims.head_dim, [dict[str, Tensor]() for _ in encoder.linears]
        self._hooks = [
            layer[matrix].register_forward_hook(partial(self._look, seen, matrix))
            for seen, layer in zip(self._seen, encoder.linears, strict=True)
            for matrix in ("query", "key")
            if matrix in layer
        ]

    def _look(self, seen: dict[str, Tensor], matrix: str, _: nn.Module, __: Any, output: Tensor) -> None:
        seen[matrix] = torch.unflatten(output, 2, (-1, self._head_dim)).transpose(1, 2)

    def take(self) -> tuple[Tensor | None, ...]:
        """Returns scores [batch, heads, tokens, tokens] of every layer, None without attention; call it once a pass."""
        scale = math.sqrt(self._head_dim)
        found = tuple(seen["query"] @ seen["key"].transpose(-1, -2) / scale if seen else None for seen in self._seen)
        for seen in self._seen:
            seen.clear()
        return found

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()


def weights_from(model: PreTrainedModel, config: EncoderConfig) -> dict[str, Array]:
    """Returns the weights of the model by our names."""
    tensors = model.state_dict()
    if not isinstance(model, PrunetimePreTrainedModel):
        tensors = our_names(tensors, NAMES[config.family], head_of_class(model))
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}


def model_of(
    config: EncoderConfig, spec: ArchSpec, weights: Weights, like: PreTrainedModel
) -> PrunetimePreTrainedModel:
    """Returns the model of transformers with these weights and the labels of `like`."""
    kept = ("id2label", "label2id", "problem_type")
    settings: dict[str, Any] = {name: getattr(like.config, name) for name in kept}
    model = OF_HEAD[head_of_class(like)](PrunetimeConfig.of(config, spec, **settings))
    model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    return model
