"""The names of tensors and settings in the checkpoints and config.json of each family, beside ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from prunetime.core.positions import BUCKETS
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
    stacked: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    layer_norm_eps: str = "layer_norm_eps"
    may_lack_biases: bool = False


SIZES = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "ffn": "intermediate_size",
    "vocabulary": "vocab_size",
    "positions": "max_position_embeddings",
    "token_types": "type_vocab_size",
}

ENCODER = {
    "embeddings.word": "embeddings.word_embeddings",
    "embeddings.position": "embeddings.position_embeddings",
    "embeddings.token_type": "embeddings.token_type_embeddings",
    "embeddings.norm": "embeddings.LayerNorm",
    "layers.{}.query": "encoder.layer.{}.attention.self.query",
    "layers.{}.key": "encoder.layer.{}.attention.self.key",
    "layers.{}.value": "encoder.layer.{}.attention.self.value",
    "layers.{}.attention_output": "encoder.layer.{}.attention.output.dense",
    "layers.{}.attention_norm": "encoder.layer.{}.attention.output.LayerNorm",
    "layers.{}.ffn_input": "encoder.layer.{}.intermediate.dense",
    "layers.{}.ffn_output": "encoder.layer.{}.output.dense",
    "layers.{}.ffn_norm": "encoder.layer.{}.output.LayerNorm",
}

TWO_LAYERS: Mapping[str, str] = {"head.dense": "classifier.dense", "head.output": "classifier.out_proj"}
OF_TOKENS: Mapping[HeadKind, Mapping[str, str]] = {
    "answers": {"head.output": "qa_outputs"},
    "tags": {"head.output": "classifier"},
    "embedding": {},
}
MODERN_HEAD: Mapping[str, str] = {"head.dense": "head.dense", "head.norm": "head.norm", "head.output": "classifier"}
FIXED = {
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}

SAME_AS = {"gelu_python": "gelu"}
"""Values of config.json that compute the same as another value."""

OF_WEIGHTS = {
    "quantization_config": "its weights are quantised: give the float checkpoint, which --precision quantises",
    "pruned_heads": "transformers 5 cannot read such a checkpoint either: give the whole model",
}
"""Settings, of every family, that say that the weights are stored in a form that is not read."""

ROBERTA = Names(SIZES, ENCODER, {"pooled": TWO_LAYERS, **OF_TOKENS}, "roberta.", {**FIXED, "pad_token_id": 1})
"""Positions begin after that of padding, whose id is 1 wherever these families were trained."""

NAMES = {
    "bert": Names(
        SIZES,
        ENCODER,
        {"pooled": {"head.dense": "pooler.dense", "head.output": "classifier"}, **OF_TOKENS},
        "bert.",
        FIXED,
    ),
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "camembert": ROBERTA,
    "distilbert": Names(
        {
            "layers": "n_layers",
            "hidden": "dim",
            "heads": "n_heads",
            "ffn": "hidden_dim",
            "vocabulary": "vocab_size",
            "positions": "max_position_embeddings",
        },
        {
            "embeddings.word": "embeddings.word_embeddings",
            "embeddings.position": "embeddings.position_embeddings",
            "embeddings.norm": "embeddings.LayerNorm",
            "layers.{}.query": "transformer.layer.{}.attention.q_lin",
            "layers.{}.key": "transformer.layer.{}.attention.k_lin",
            "layers.{}.value": "transformer.layer.{}.attention.v_lin",
            "layers.{}.attention_output": "transformer.layer.{}.attention.out_lin",
            "layers.{}.attention_norm": "transformer.layer.{}.sa_layer_norm",
            "layers.{}.ffn_input": "transformer.layer.{}.ffn.lin1",
            "layers.{}.ffn_output": "transformer.layer.{}.ffn.lin2",
            "layers.{}.ffn_norm": "transformer.layer.{}.output_layer_norm",
        },
        {"pooled": {"head.dense": "pre_classifier", "head.output": "classifier"}, **OF_TOKENS},
        "distilbert.",
        {"activation": "gelu"},
    ),
    "electra": Names(
        {**SIZES, "embedding": "embedding_size"},
        {**ENCODER, "embeddings.project": "embeddings_project"},
        {"pooled": TWO_LAYERS, **OF_TOKENS},
        "electra.",
        FIXED,
    ),
    "mpnet": Names(
        {name: key for name, key in SIZES.items() if name != "token_types"},
        {
            **{name: theirs for name, theirs in ENCODER.items() if name != "embeddings.token_type"},
            "layers.{}.query": "encoder.layer.{}.attention.attn.q",
            "layers.{}.key": "encoder.layer.{}.attention.attn.k",
            "layers.{}.value": "encoder.layer.{}.attention.attn.v",
            "layers.{}.attention_output": "encoder.layer.{}.attention.attn.o",
            "layers.{}.attention_norm": "encoder.layer.{}.attention.LayerNorm",
            "position_bias": "encoder.relative_attention_bias",
        },
        {"pooled": TWO_LAYERS, **OF_TOKENS},
        "mpnet.",
        {**FIXED, "pad_token_id": 1, "relative_attention_num_buckets": BUCKETS},
    ),
    "modernbert": Names(
        {name: key for name, key in SIZES.items() if name != "token_types"},
        {
            "embeddings.word": "embeddings.tok_embeddings",
            "embeddings.norm": "embeddings.norm",
            "layers.{}.attention_norm": "layers.{}.attn_norm",
            "layers.{}.attention_output": "layers.{}.attn.Wo",
            "layers.{}.ffn_norm": "layers.{}.mlp_norm",
            "layers.{}.ffn_output": "layers.{}.mlp.Wo",
            "final_norm": "final_norm",
        },
        {"pooled": MODERN_HEAD, "answers": MODERN_HEAD, "tags": MODERN_HEAD, "embedding": {}},
        "model.",
        {"hidden_activation": "gelu", "classifier_activation": "gelu"},
        {
            "layers.{}.attn.Wqkv": ("layers.{}.query", "layers.{}.key", "layers.{}.value"),
            "layers.{}.mlp.Wi": ("layers.{}.ffn_input", "layers.{}.ffn_gate"),
        },
        "norm_eps",
        may_lack_biases=True,
    ),
}
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
    ours: dict[str, tuple[str, ...]] = {
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
