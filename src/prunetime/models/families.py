"""Loading pretrained encoders of every family."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunetime.core.arch import ArchSpec, Dims
from prunetime.core.config import FAMILIES, EncoderConfig, LogitRows, Rotary
from prunetime.core.task_kind import TASK_KINDS, TaskKind
from prunetime.errors import InputError
from prunetime.models.checkpoint import folder_of, read_json, read_tensors
from prunetime.models.encoder import SequenceClassifier, load_tensors
from prunetime.models.heads import OWN_MODEL_TYPE, HeadKind, heads_of
from prunetime.models.names import (
    INDEX,
    NAMES,
    OF_PRETRAINING,
    OF_WEIGHTS,
    REFUSED,
    SAME_AS,
    Names,
    modern_name,
    our_names,
    unwrapped,
)
from prunetime.models.sentence import SentenceFolder, read_folder, transformer_folder

GLOBAL, LOCAL = "full_attention", "sliding_attention"
"""The names of transformers for layers that attend to all tokens, and to a sliding window."""

DEFAULT_LAYER_NORM_EPS = 1e-12
"""The eps where config.json has none (the first BERT releases)."""


ADAPTER = "adapter_config.json"
"""The file by which transformers would load an adapter that peft trained beside the weights."""


@dataclass(frozen=True)
class Pretrained:
    """A loaded model; `folder` has its tokenizer files, `sentence` is what sentence-transformers reads beside them.

    `has_head`: the head is the checkpoint's and has the number of outputs that was asked for; `labels` are then their
    names. Otherwise `labels` is None and the output layer is fresh, and so is what the checkpoint lacks before it.
    `unused` are the names of tensors of the checkpoint that the model has no place for.
    `problem_type` is what config.json says that its logits are.
    """

    model: SequenceClassifier
    config: EncoderConfig
    folder: Path
    labels: tuple[str, ...] | None
    has_head: bool
    pad_token_id: int
    sentence: SentenceFolder
    unused: tuple[str, ...] = ()
    problem_type: str | None = None


def load(model: str, outputs: int | None, seed: int = 0, kind: TaskKind = "classification") -> Pretrained:
    """Load `model`, a folder written by `save_pretrained`, sentence-transformers or prunetime, or a hub id, with
    `outputs` logits (None: it gives an embedding), for tasks of a `kind`.

    Its head is that of transformers' class for such tasks, or the modules that a CrossEncoder has after pooling. A
    fresh head depends on `seed` only. A folder of sentence-transformers says how a text becomes an embedding; without
    one the embedding is the mean of all rows, of length 1.

    The hub is `HF_ENDPOINT`; with `HF_HUB_OFFLINE=1` only its cache is read.
    Raises InputError where there is no such model, its architecture is not supported, or its files are damaged.
    """
    sentence = read_folder(folder_of(model), kind)
    folder = sentence.folder
    settings = read_json(folder / "config.json")
    family, head = settings.get("model_type"), TASK_KINDS[kind].head
    rows = TASK_KINDS[kind].rows
    spec: ArchSpec | None = None
    unused: tuple[str, ...] = ()
    known = heads_of(settings.get("architectures") or ())
    other_head = bool(known) and head not in known
    if (folder / ADAPTER).is_file():
        raise InputError(f"{folder} has {ADAPTER}, which changes the model: merge the adapter into the weights first")
    if family == OWN_MODEL_TYPE:
        try:
            config, spec = EncoderConfig.from_json(settings["encoder"]), ArchSpec.from_json(settings["spec"])
        except (KeyError, TypeError, InputError) as error:
            raise InputError(f"{folder}: config.json has no usable encoder and spec: {error!r}") from error
        tensors = read_tensors(folder)
        other_head = other_head or config.rows != rows
    elif family in FAMILIES:
        config = family_config(settings, family, outputs or 1, str(folder))
        tensors, unused = _our_tensors(folder, NAMES[family], head)
    elif family is None:
        raise InputError(
            f"{folder}: config.json has no model_type, which says what family the model is of: add the one of "
            f"{', '.join(FAMILIES)} that it is (architectures: {settings.get('architectures')})"
        )
    else:
        why = REFUSED.get(str(family), f"supported are {', '.join((*FAMILIES, OWN_MODEL_TYPE))}")
        raise InputError(f"{folder}: architecture {family!r} is not supported: {why}")
    config = _with_head(config, sentence, rows, outputs)
    if other_head or sentence.layers:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}
    if config.head == sentence.head:
        tensors |= sentence.head_tensors()
    has_head = head == "embedding" or _has_head(tensors, config)
    if not has_head:
        tensors = {
            name: tensor for name, tensor in tensors.items() if not name.startswith(("head.output.", "head.layers."))
        }
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            classifier = SequenceClassifier(config, spec)
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
        unused=unused,
        problem_type=settings.get("problem_type"),
        sentence=sentence,
    )


def _with_head(config: EncoderConfig, sentence: SentenceFolder, rows: LogitRows, outputs: int | None) -> EncoderConfig:
    """`config` with the head that a folder of sentence-transformers says, where it fits `outputs` (None: those of its
    embeddings), else with its own or the family's."""
    if rows == "embedding":
        if config.rows == rows and sentence.pooling is None:
            return config
        layers = sentence.head
        return replace(
            config,
            rows=rows,
            outputs=layers[-1].width if layers else config.dims.hidden,
            pooling=sentence.pooling or "mean",
            head=layers,
            normalize=sentence.normalize,
        )
    head, pooling = config.head, config.pooling
    if sentence.pooling and sentence.head:
        head, pooling = sentence.head, sentence.pooling
    wanted = outputs or config.outputs
    if rows != "pooled" or config.rows == "embedding" or (head and head[-1].width != wanted):
        head, pooling = None, "first" if config.rows == "embedding" else config.pooling
    return replace(config, rows=rows, outputs=wanted, pooling=pooling, head=head, normalize=False)


def _our_tensors(folder: Path, names: Names, head: HeadKind) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors of the checkpoint in `folder` under our names, and the names of trained ones that are no part of the
    encoder, of its pretraining, or of a head of the family."""
    try:
        tensors = unwrapped(read_tensors(folder), names.prefix, f"{names.encoder['embeddings.word']}.weight")
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{folder}: tensor {name} has numbers that are not finite")
    known = {
        *names.encoder.values(),
        *names.stacked,
        *(module for each in names.head.values() for module in each.values()),
    }
    unused = (
        name
        for name in tensors
        if re.sub(INDEX, "{}", modern_name(name).removeprefix(names.prefix).rpartition(".")[0]) not in known
        and not re.match(OF_PRETRAINING, name.removeprefix(names.prefix))
    )
    return our_names(tensors, names, head), tuple(sorted(unused))


def with_outputs(pretrained: Pretrained, outputs: Sequence[int]) -> Pretrained:
    """The model, changed in place, with outputs and labels in another order: `outputs`, their numbers until now."""
    assert pretrained.labels is not None
    assert sorted(outputs) == list(range(pretrained.config.outputs))
    layer = pretrained.model.get_submodule(pretrained.config.head_layers[-1][0])
    assert isinstance(layer, torch.nn.Linear)
    with torch.no_grad():
        for parameter in (layer.weight, layer.bias):
            parameter.copy_(parameter[list(outputs)].clone())
    return replace(pretrained, labels=tuple(pretrained.labels[output] for output in outputs))


def named_labels(model: str) -> tuple[str, ...]:
    """The names that config.json of `model` has for the outputs of its head (`id2label`), () where it has none.

    Raises InputError where there is no such model, or the numbers of the labels are not 0, 1, 2, ...
    """
    folder = transformer_folder(folder_of(model))
    named = read_json(folder / "config.json").get("id2label") or {}
    if not isinstance(named, dict) or set(named) != {str(number) for number in range(len(named))}:
        raise InputError(f"{folder}: id2label of config.json is {named!r}; it must have a name for 0, 1, 2, ...")
    return tuple(str(named[str(number)]) for number in range(len(named)))


def family_config(settings: Mapping[str, Any], family: str, outputs: int, where: str) -> EncoderConfig:
    """The config of a model of `family` by the `settings` of its config.json, called `where` in messages.

    Raises InputError where they are not supported, or damaged.
    """
    names = NAMES[family]
    for key, value in names.fixed.items():
        given = settings.get(key)
        if given is not None and SAME_AS.get(str(given), given) != value:
            raise InputError(f"{where}: {key} {given!r} is not supported for {family}; only {value!r} is")
    for key, why in OF_WEIGHTS.items():
        if settings.get(key):
            raise InputError(f"{where}: config.json has {key}: {why}")
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
    """The rotary positions of every layer by config.json, as transformers wrote it until 4 and since 5."""
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
        raise InputError(
            f"{where}: rope_parameters (or rope_scaling) of config.json scale rotary positions; only rope_type "
            "'default' is supported"
        )
    return found


def _has_head(tensors: Mapping[str, Tensor], config: EncoderConfig) -> bool:
    if config.head is not None:
        return config.head_shapes.keys() <= tensors.keys()
    output = tensors.get("head.output.weight")
    needed = config.rows == "tokens" or "head.dense.weight" in tensors
    return output is not None and len(output) == config.outputs and needed


def _labels(settings: Mapping[str, Any], outputs: int) -> tuple[str, ...]:
    named = settings.get("id2label") or {}
    return tuple(str(named.get(str(index), f"LABEL_{index}")) for index in range(outputs))
