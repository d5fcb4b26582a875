"""Loading pretrained encoders: what the checkpoints of each family call things, and what we call them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunetime.arch import ArchSpec, Dims
from prunetime.config import FAMILIES, EncoderConfig, Rotary
from prunetime.errors import InputError
from prunetime.models import sentence
from prunetime.models.checkpoint import folder_of, read_json, read_tensors
from prunetime.models.encoder import SequenceClassifier, load_tensors
from prunetime.models.heads import CLASSES, OWN_MODEL_TYPE, Head
from prunetime.positions import BUCKETS
from prunetime.task import Kind, rows_of

GLOBAL, LOCAL = "full_attention", "sliding_attention"
"""What transformers calls layers that attend to all tokens, and to those near by."""

DEFAULT_LAYER_NORM_EPS = 1e-12
"""Where config.json does not say (the first BERT releases do not)."""


def head_of(kind: Kind) -> Head:
    """That of a kind of task."""
    of_kind: dict[Kind, Head] = {
        "question-answering": "answers",
        "token-classification": "tags",
        "similarity": "embedding",
    }
    return of_kind.get(kind, "pooled")


@dataclass(frozen=True)
class Names:
    """What the checkpoints and config.json of a family call things.

    `sizes` maps our sizes to keys of config.json. `encoder` and `head` (by what it is for) map our modules
    (`{}` is the layer's index) to the checkpoint's; those of the encoder follow `prefix` in checkpoints that were saved
    with a task head. `fixed` are the settings in config.json that have only one supported value. `stacked` maps a
    matrix of the checkpoint to those of ours that lie in it one below the other. Biases that a checkpoint lacks are
    zero, where it may.
    """

    sizes: Mapping[str, str]
    encoder: Mapping[str, str]
    head: Mapping[Head, Mapping[str, str]]
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
OF_TOKENS: Mapping[Head, Mapping[str, str]] = {
    "answers": {"head.output": "qa_outputs"},
    "tags": {"head.output": "classifier"},
    "embedding": {},
}
MODERN_HEAD: Mapping[str, str] = {"head.dense": "head.dense", "head.norm": "head.norm", "head.output": "classifier"}
FIXED = {"hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False}

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
"""One entry for each family of `prunetime.config.FAMILIES`."""

REFUSED = {
    "albert": "its layers share one set of weights, so that none can be pruned without all others",
    "deberta": "its attention also compares every token with every distance, which the engine does not compute",
    "deberta-v2": "its attention also compares every token with every distance, which the engine does not compute",
}
"""Why a family that people will try is not in NAMES."""

INDEX = r"(?<=\.)\d+(?=\.)"
"""Of a layer, in the name of a tensor."""

LEGACY_NORM = {".LayerNorm.gamma": ".LayerNorm.weight", ".LayerNorm.beta": ".LayerNorm.bias"}
"""LayerNorm's tensors in the checkpoints that were first converted from TensorFlow."""


@dataclass(frozen=True)
class Pretrained:
    """A loaded model; `folder` has its tokenizer files.

    `has_head`: the head is the checkpoint's and has the number of outputs that was asked for; `labels` are then their
    names. Otherwise `labels` is None and the output layer is fresh, and so is what the checkpoint lacks before it.
    `problem_type` is what config.json says that its logits are.
    """

    model: SequenceClassifier
    config: EncoderConfig
    folder: Path
    labels: tuple[str, ...] | None
    has_head: bool
    pad_token_id: int
    problem_type: str | None = None


def load(model: str, outputs: int | None, seed: int = 0, kind: Kind = "classification") -> Pretrained:
    """Load `model`, a folder written by `save_pretrained`, sentence-transformers or prunetime, or a hub id, with
    `outputs` logits (None: it gives an embedding), for tasks of a `kind`.

    Its head is that of transformers' class for such tasks. A fresh head depends on `seed` only. What is pooled into an
    embedding, a folder of sentence-transformers says; without that it is the mean.

    The hub is `HF_ENDPOINT`; with `HF_HUB_OFFLINE=1` only its cache is read.
    Raises InputError where there is no such model, its architecture is not supported, or its files are damaged.
    """
    whole = folder_of(model)
    folder = sentence.transformer_folder(whole)
    settings = read_json(folder / "config.json")
    family, head = settings.get("model_type"), head_of(kind)
    rows = rows_of(kind)
    spec: ArchSpec | None = None
    other_head = head == "embedding" or _is_for_another(settings, head)
    if family == OWN_MODEL_TYPE:
        config, spec = _own_config(settings, folder)
        tensors = read_tensors(folder)
        other_head = other_head or config.rows != rows
    elif family in FAMILIES:
        config = family_config(settings, family, outputs or 1, str(folder))
        tensors = our_names(read_tensors(folder), NAMES[family], head)
    else:
        why = REFUSED.get(str(family), f"supported are {', '.join((*FAMILIES, OWN_MODEL_TYPE))}")
        raise InputError(f"{folder}: architecture {family!r} is not supported: {why}")
    if head == "embedding":
        config = replace(config, pooling=sentence.pooling_of(whole) or "mean")
    config = replace(config, outputs=outputs or config.dims.hidden, rows=rows)
    if other_head:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}
    has_head = head == "embedding" or _has_head(tensors, config)
    if not has_head:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.output.")}
    try:
        classifier = _fresh(config, spec, seed)
        load_tensors(classifier, tensors, fresh_head=True)
    except InputError as error:
        raise InputError(f"{folder}: config.json and the weights do not fit: {error}") from error
    return Pretrained(
        model=classifier,
        config=config,
        folder=folder,
        labels=_labels(settings, config.outputs) if has_head and head != "embedding" else None,
        has_head=has_head,
        pad_token_id=settings.get("pad_token_id") or 0,
        problem_type=settings.get("problem_type"),
    )


def with_outputs(pretrained: Pretrained, outputs: Sequence[int]) -> Pretrained:
    """The model with the outputs of its head in another order, `outputs` (their numbers until now), which is changed in
    place, and with its labels in that order."""
    assert pretrained.labels is not None
    assert sorted(outputs) == list(range(pretrained.config.outputs))
    layer = pretrained.model.head.output
    assert layer is not None
    with torch.no_grad():
        for parameter in (layer.weight, layer.bias):
            parameter.copy_(parameter[list(outputs)].clone())
    return replace(pretrained, labels=tuple(pretrained.labels[output] for output in outputs))


def named_labels(model: str) -> tuple[str, ...]:
    """The names that config.json of `model` has for the outputs of its head (`id2label`), () where it has none.

    Raises InputError where there is no such model, or the numbers of the labels are not 0, 1, 2, ...
    """
    folder = sentence.transformer_folder(folder_of(model))
    named = read_json(folder / "config.json").get("id2label") or {}
    if not isinstance(named, dict) or set(named) != {str(number) for number in range(len(named))}:
        raise InputError(f"{folder}: id2label of config.json is {named!r}; it must have a name for 0, 1, 2, ...")
    return tuple(str(named[str(number)]) for number in range(len(named)))


def _is_for_another(settings: Mapping[str, Any], head: Head) -> bool:
    """Whether config.json says that the checkpoint's head is for something else."""
    classes = settings.get("architectures") or []
    known = [each for each, ending in CLASSES.items() if any(str(name).endswith(ending) for name in classes)]
    return bool(known) and head not in known


def _own_config(settings: Mapping[str, Any], folder: Path) -> tuple[EncoderConfig, ArchSpec]:
    try:
        return EncoderConfig.from_json(settings["encoder"]), ArchSpec.from_json(settings["spec"])
    except (KeyError, TypeError, InputError) as error:
        raise InputError(f"{folder}: config.json has no usable encoder and spec: {error!r}") from error


def family_config(settings: Mapping[str, Any], family: str, outputs: int, where: str) -> EncoderConfig:
    """What config.json's `settings` say of a model of `family`, called `where` in messages.

    Raises InputError where they are not supported, or damaged.
    """
    names = NAMES[family]
    for key, value in names.fixed.items():
        if settings.get(key) not in (None, value):
            raise InputError(f"{where}: {key} {settings[key]!r} is not supported for {family}; only {value!r} is")
    missing = [key for key in names.sizes.values() if key not in settings]
    if missing:
        raise InputError(f"{where}: config.json lacks {', '.join(missing)}")
    sizes = {name: settings[key] for name, key in names.sizes.items()}
    wrong = [f"{names.sizes[name]} {size!r}" for name, size in sizes.items() if type(size) is not int or size < 1]
    if wrong:
        raise InputError(f"{where}: config.json has {', '.join(wrong)}; it must be a whole number of at least 1")
    if sizes["hidden"] % sizes["heads"]:
        raise InputError(f"{where}: hidden size {sizes['hidden']} is no multiple of its {sizes['heads']} heads")
    eps = settings.get(names.layer_norm_eps, DEFAULT_LAYER_NORM_EPS)
    if not isinstance(eps, float):
        raise InputError(
            f"{where}: config.json has {names.layer_norm_eps} {eps!r}; it must be a number above 0 and below 1"
        )
    token_types, embedding = sizes.pop("token_types", 1), sizes.pop("embedding", sizes["hidden"])
    return EncoderConfig(
        family=family,
        dims=Dims(**sizes, head_dim=sizes["hidden"] // sizes["heads"], gated=FAMILIES[family].gated),
        embedding=embedding,
        token_types=token_types,
        layer_norm_eps=eps,
        outputs=outputs,
        pooling="mean" if settings.get("classifier_pooling") == "mean" else "first",
        rotary=rotary_of(settings, sizes["layers"], where) if FAMILIES[family].rotary else (),
    )


def rotary_of(settings: Mapping[str, Any], layers: int, where: str) -> tuple[Rotary, ...]:
    """What config.json says of the rotary positions of every layer, as transformers wrote it until 4 and since 5."""
    every = settings.get("global_attn_every_n_layers", 3)
    types = settings.get("layer_types") or [LOCAL if index % every else GLOBAL for index in range(layers)]
    given = settings.get("rope_parameters") or {}
    bases = {GLOBAL: settings.get("global_rope_theta", 160_000.0), LOCAL: settings.get("local_rope_theta", 10_000.0)}
    try:
        scaled = [kind for kind, each in given.items() if each["rope_type"] != "default"]
        bases |= {kind: each["rope_theta"] for kind, each in given.items()}
        window = {GLOBAL: None, LOCAL: settings.get("local_attention", 128) // 2}
        found = tuple(Rotary(float(bases[kind]), window[kind]) for kind in types)
    except (KeyError, TypeError, ValueError, InputError) as error:
        raise InputError(f"{where}: config.json has no usable rotary positions: {error!r}") from error
    if scaled or settings.get("rope_scaling"):
        raise InputError(f"{where}: scaled rotary positions are not supported; only the default is")
    return found


def our_names(tensors: Mapping[str, Tensor], names: Names, head: Head) -> dict[str, Tensor]:
    """The tensors of the encoder and its head under our names; what else the checkpoint has is left out."""
    ours: dict[str, tuple[str, ...]] = {
        **{theirs: (our,) for our, theirs in {**names.encoder, **names.head[head]}.items()},
        **names.stacked,
    }
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        for legacy, modern in LEGACY_NORM.items():
            name = name.removesuffix(legacy) + modern if name.endswith(legacy) else name
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


def _fresh(config: EncoderConfig, spec: ArchSpec | None, seed: int) -> SequenceClassifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SequenceClassifier(config, spec)


def _has_head(tensors: Mapping[str, Tensor], config: EncoderConfig) -> bool:
    output = tensors.get("head.output.weight")
    needed = config.rows == "tokens" or "head.dense.weight" in tensors
    return output is not None and len(output) == config.outputs and needed


def _labels(settings: Mapping[str, Any], outputs: int) -> tuple[str, ...]:
    named = settings.get("id2label") or {}
    return tuple(str(named.get(str(index), f"LABEL_{index}")) for index in range(outputs))
