"""The names of tensors and settings in each family's checkpoints and config.json, and wrappers' prefixes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files

import torch
from torch import Tensor

from prunetime.errors import InputError
from prunetime.models.heads import HeadKind


@dataclass(frozen=True)
class Names:
    """The names of tensors and settings in the checkpoints and config.json of a family.

    `sizes` maps our sizes to keys of config.json. `encoder` and `head` (by what it is for) map our modules
    (`{}` is the layer's index) to the checkpoint's; those of the encoder follow `prefix` in checkpoints that were saved
    with a task head. `fixed` are the settings in config.json that have only one supported value. `stacked` maps a
    matrix of the checkpoint to those of ours that lie in it one below the other. Biases that a checkpoint lacks are
    zero, where it may.
    """

    sizes: Mapping[str, str]
    encoder: Mapping[str, str]
    head: Mapping[HeadKind, Mapping[str, str]]
    prefix: str
    fixed: Mapping[str, object]
    stacked: Mapping[str, Sequence[str]] = field(default_factory=dict)
    layer_norm_eps: str = "layer_norm_eps"
    may_lack_biases: bool = False


SAME_AS = {"gelu_python": "gelu"}
"""Values of config.json that compute the same as another value."""

OF_WEIGHTS = {
    "quantization_config": "its weights are quantised: give the float checkpoint, which --precision quantises",
    "pruned_heads": "transformers 5 cannot read such a checkpoint either: give the whole model",
}
"""Settings, of every family, that say that the weights are stored in a form that is not read."""


def _names() -> dict[str, Names]:
    """Reads names.json: what families share, and where each is different (null: it has nothing of that name)."""
    families = json.loads((files(__package__) / "names.json").read_text(encoding="utf-8"))
    shared = families.pop("shared")
    for own in families.values():
        for part, names in shared.items():
            own[part] = {our: theirs for our, theirs in {**names, **own.get(part, {})}.items() if theirs is not None}
    return {family: Names(**own) for family, own in families.items()}


NAMES = _names()
"""One entry for each family of `prunetime.core.config.FAMILIES`."""

REFUSED = {
    "albert": "its layers share one set of weights, so that none can be pruned without all others",
    "deberta": "its attention also compares every token with every distance, which the engine does not compute",
    "deberta-v2": "its attention also compares every token with every distance, which the engine does not compute",
}
"""Why a family that people will try is not in NAMES."""

INDEX = r"(?<=\.)\d+(?=\.)"
"""The index of a layer in the name of a tensor."""

LEGACY_NORM = {".LayerNorm.gamma": ".LayerNorm.weight", ".LayerNorm.beta": ".LayerNorm.bias"}
"""The names of LayerNorm's tensors in the checkpoints that were first converted from TensorFlow."""

OF_PRETRAINING = (
    r"(cls|lm_head|pooler|vocab_transform|vocab_layer_norm|vocab_projector|decoder|generator_\w+"
    r"|discriminator_predictions)\.|.*(position_ids|inv_freq)$"
)
"""Tensors of the heads that encoders are pretrained with, and tables that are computed: a task does without them."""


def our_names(tensors: Mapping[str, Tensor], names: Names, head: HeadKind) -> dict[str, Tensor]:
    """The tensors of the encoder and its head under our names; what else the checkpoint has is left out."""
    ours: dict[str, Sequence[str]] = {
        **{theirs: (our,) for our, theirs in {**names.encoder, **names.head[head]}.items()},
        **names.stacked,
    }
    renamed: dict[str, Tensor] = {}
    for given, tensor in tensors.items():
        name = modern_name(given)
        module, _, kind = name.removeprefix(names.prefix).rpartition(".")
        indices = re.findall(INDEX, module)
        template = re.sub(INDEX, "{}", module)
        if template in ours:
            parts = tensor.chunk(len(ours[template]))
            renamed |= {f"{our.format(*indices)}.{kind}": part for our, part in zip(ours[template], parts, strict=True)}
    if (bias := renamed.pop("position_bias.weight", None)) is not None:  # one for all layers: each gets its own
        layers = [name.removesuffix(".query.weight") for name in renamed if name.endswith(".query.weight")]
        renamed |= {f"{layer}.position_bias": bias.T.contiguous() for layer in layers}
    if names.may_lack_biases:
        for module in [name.removesuffix(".weight") for name in renamed if name.endswith(".weight")]:
            if module != "embeddings.word":
                renamed.setdefault(f"{module}.bias", torch.zeros(len(renamed[f"{module}.weight"])))
    return renamed


def modern_name(name: str) -> str:
    """The `name` of a tensor, as checkpoints of today have it."""
    for legacy, modern in LEGACY_NORM.items():
        name = name.removesuffix(legacy) + modern if name.endswith(legacy) else name
    return name


INNER = r"(?:(?<=^)|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
"""torch.compile, FSDP and activation checkpointing wrap any module, and put their names anywhere."""

OUTER = r"(?:(?:module|model)\.)*"
"""DistributedDataParallel (`module.`) and Lightning (`model.`) wrap the whole model."""


def unwrapped(tensors: Mapping[str, Tensor], prefix: str, word_table: str) -> dict[str, Tensor]:
    """Returns the `tensors` of a checkpoint under the names that transformers gives them.

    Args:
        prefix: of the encoder in a model with a task head, such as `bert.`.
        word_table: the name of the word embeddings in the encoder, by which the encoder is found.

    Raises InputError where the checkpoint holds no such encoder, several, or one under an unknown prefix.
    """
    named = {re.sub(INNER, "", name): tensor for name, tensor in tensors.items()}
    if len(named) < len(tensors):
        raise InputError("two tensors of the checkpoint differ in the names of wrappers alone: it holds two models")
    table = re.compile(rf"(?P<before>(?:.*\.)?){re.escape(word_table)}")
    before = sorted(found["before"] for name in named if (found := table.fullmatch(name)))
    if not before:
        some = ", ".join(sorted(named)[:3])
        raise InputError(
            f"none of the checkpoint's {len(named)} tensors ({some}, ...) is {prefix}{word_table} or {word_table}: "
            "it is a checkpoint of something else than its config.json says"
        )
    if len(before) > 1:
        raise InputError(f"the checkpoint holds {len(before)} encoders, under {' and '.join(map(repr, before))}")
    wrapper = before[0].removesuffix(prefix)
    if not re.fullmatch(OUTER, wrapper):
        raise InputError(
            f"the checkpoint's encoder lies under {wrapper!r}, where transformers would not find it: save the encoder "
            f"itself, or rename its tensors to begin with {prefix!r}"
        )
    return {name.removeprefix(wrapper): tensor for name, tensor in named.items()}
