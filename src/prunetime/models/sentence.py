"""Folders of sentence-transformers, as of its version 6.2: an encoder, the modules after it, and how both are used.

Every field of modules.json, of the modules' own files and of config_sentence_transformers.json that changes a number is
read here or refused by its name (docs/reference/inputs.md).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from prunetime.core.config import HeadLayer, Pooling
from prunetime.core.embedding import EmbeddingSettings
from prunetime.core.prompts import Prompts
from prunetime.core.task import ScoreActivation, Task
from prunetime.core.task_kind import TASK_KINDS, TaskKind
from prunetime.errors import InputError
from prunetime.models import sentence_modules
from prunetime.models.checkpoint import read_tensors
from prunetime.models.sentence_modules import (
    CROSS_ENCODER,
    EMBEDDING,
    MODEL_SETTINGS,
    MODULES,
    SCORES,
    SENTENCE_TRANSFORMER,
    optional,
    transformer_settings,
)

ALWAYS_PROMPTS: Mapping[str, str] = {"query": "", "document": ""}
"""The prompts that every SentenceTransformer has, empty where its folder does not say otherwise."""


@dataclass(frozen=True)
class SentenceFolder:
    """A model for tasks of a kind, as its folder describes it; `folder` has the encoder's files, `root` modules.json.

    `pooling` is None where the folder says nothing of it. `layers` follow pooling, each with the folder of its weights;
    with `normalize`, embeddings are scaled to length 1. `activation` is what a CrossEncoder does to its logits, None
    where the folder does not say.
    `max_seq_length` is the most tokens of a text, with the name of the field that says so.
    """

    folder: Path
    root: Path
    pooling: Pooling | None = None
    layers: tuple[tuple[HeadLayer, Path], ...] = ()
    normalize: bool = False
    prompts: Prompts = field(default_factory=Prompts)
    embedding: EmbeddingSettings = field(default_factory=EmbeddingSettings)
    activation: ScoreActivation | None = None
    max_seq_length: tuple[int, str] | None = None

    @property
    def head(self) -> tuple[HeadLayer, ...] | None:
        """The layers after pooling, as in `EncoderConfig`; None where there are none."""
        return tuple(layer for layer, _ in self.layers) or None

    def head_tensors(self) -> dict[str, Tensor]:
        """The tensors of the layers after pooling, by our names."""
        named: dict[str, Tensor] = {}
        for index, (_, folder) in enumerate(self.layers):
            found = {name.rpartition(".")[2]: tensor for name, tensor in read_tensors(folder).items()}
            if "weight" in found:
                found.setdefault("bias", found["weight"].new_zeros(len(found["weight"])))
            named |= {f"head.layers.{index}.{name}": tensor for name, tensor in found.items()}
        return named

    def files(self) -> list[Path]:
        """All files of the encoder and of the modules beside it."""
        folders = {self.folder, self.root, *(path for path in self.root.glob("[0-9]*_*") if path.is_dir())}
        return [path for folder in sorted(folders) for path in sorted(folder.iterdir()) if path.is_file()]

    def applied(self, task: Task, has_head: bool, is_trained: bool) -> Task:
        """`task` with prompts, settings and activation of the folder.

        Args:
            has_head: the model has the folder's own head. Its activation is kept; where the folder does not say one,
                sentence-transformers takes a sigmoid for one logit, else nothing.
            is_trained: the model will be trained on labels, which the logits of a regression then become.
        """
        if task.rows == "tokens":
            return task
        if task.rows == "embedding":
            return replace(task, prompts=self.prompts, embedding=self.embedding)
        activation: ScoreActivation = task.traits.activation
        if has_head and not (task.traits.score == "identity" and is_trained):
            activation = self.activation or ("sigmoid" if task.outputs == 1 else "identity")
        return replace(task, prompts=self.prompts, activation=activation)

    def check_length(self, tokens: int) -> None:
        """Raises InputError where the model reads fewer than `tokens` of a text."""
        if self.max_seq_length is not None and tokens > self.max_seq_length[0]:
            longest, name = self.max_seq_length
            raise InputError(
                f"--seq-len {tokens} is longer than the {longest} tokens that {self.folder} reads of a text ({name}): "
                f"give --seq-len {longest}, or change that file"
            )


def transformer_folder(root: Path) -> Path:
    """The folder of the encoder's files in a model folder `root`."""
    return root / next((each.path for each in _modules(root) if each.kind == "Transformer"), "")


def read_folder(root: Path, kind: TaskKind) -> SentenceFolder:
    """Reads the model folder `root` for tasks of a `kind`.

    A CrossEncoder is for tasks with pooled rows, a SentenceTransformer for those of embeddings. Of another model, as of
    a folder without modules, the encoder alone is taken: sentence-transformers does so, too.

    Raises InputError for a module or a setting that is not supported.
    """
    modules, rows, folder = _modules(root), TASK_KINDS[kind].rows, transformer_folder(root)
    encoder = SentenceFolder(folder, root)
    if rows == "embedding":
        encoder = replace(encoder, normalize=True, prompts=Prompts(ALWAYS_PROMPTS))
    if rows == "pooled":
        config = folder / "config.json"
        encoder = replace(encoder, activation=sentence_modules.encoder_activation(optional(config), config))
    settings, wanted = optional(root / MODEL_SETTINGS), SENTENCE_TRANSFORMER if rows == "embedding" else CROSS_ENCODER
    model_type = settings.get("model_type", SENTENCE_TRANSFORMER)
    if modules and rows == "embedding" and model_type not in (SENTENCE_TRANSFORMER, CROSS_ENCODER):
        raise InputError(
            f"{root}: model_type {model_type!r} is not supported; {SENTENCE_TRANSFORMER} and {CROSS_ENCODER} are"
        )
    if not modules or rows == "tokens" or model_type != wanted:
        return encoder
    found = _with_modules(SentenceFolder(folder, root), modules, model_type)
    try:
        if model_type == CROSS_ENCODER:
            named = settings.get("activation_fn")
            activation = sentence_modules.score_activation(named, "activation_fn", root / MODEL_SETTINGS)
            return replace(found, prompts=_prompts(settings), activation=activation or encoder.activation)
        names = [name for name in ("similarity_fn_name", "truncate_dim") if settings.get(name) is not None]
        embedding = replace(found.embedding, **{name: settings[name] for name in names})
        return replace(found, prompts=_prompts(settings, ALWAYS_PROMPTS), embedding=embedding)
    except InputError as error:
        raise InputError(f"{root / MODEL_SETTINGS}: {error}") from error


def lower_cased(normalizer: Mapping[str, Any] | None) -> dict[str, Any]:
    """The `normalizer` of a tokenizer.json that lower-cases first, as sentence-transformers makes it where told."""
    if normalizer is None:
        return {"type": "Lowercase"}
    steps = normalizer["normalizers"] if normalizer["type"] == "Sequence" else [normalizer]
    if any(step["type"] == "Lowercase" for step in steps):
        return dict(normalizer)
    return {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, *steps]}


class _Module(NamedTuple):
    """An entry of modules.json; `kind` is the last part of its type."""

    path: str
    type: str

    @property
    def kind(self) -> str:
        return self.type.rpartition(".")[2]


def _modules(root: Path) -> list[_Module]:
    path = root / MODULES
    if not path.is_file():
        return []
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
        found = [_Module(str(module["path"]), str(module["type"])) for module in listed]
        names = [module["name"] for module in listed if "name" in module]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not the list of modules that sentence-transformers writes: {error!r}") from error
    if len(set(names)) < len(names):
        raise InputError(f"{path}: a name is there twice among {names}; sentence-transformers leaves such a module out")
    for module in found:
        if not (root / module.path).resolve().is_relative_to(root.resolve()):
            raise InputError(f"{path} names {module.path!r}, which is not in its folder")
    return found


def _with_modules(encoder: SentenceFolder, modules: Sequence[_Module], model_type: str) -> SentenceFolder:
    """`encoder` with what follows it, and its longest text."""
    first, *after = modules
    root, found = encoder.root, encoder
    _check_type(first, ("Transformer",), root)
    settings, where = transformer_settings(encoder.folder)
    found = replace(found, max_seq_length=sentence_modules.longest(settings, where))
    task = sentence_modules.transformer_task(settings, where)
    if (task == "sequence-classification") == bool(after):
        raise InputError(
            f"{where}: transformer_task {task!r} before {len(after)} other modules is not supported: a Pooling follows "
            "'feature-extraction', and nothing 'sequence-classification'"
        )
    written = EMBEDDING
    for module in after:
        if written == SCORES:
            raise InputError(f"{root}: the module {module.type} after the one that gives {SCORES} is not supported")
        found, written = _with_module(found, module, model_type)
    if model_type == CROSS_ENCODER and after and written != SCORES:
        raise InputError(f"{root}: no Dense gives the scores of a CrossEncoder (module_output_name {SCORES!r})")
    return found


def _with_module(found: SentenceFolder, module: _Module, model_type: str) -> tuple[SentenceFolder, str]:
    """`found` with one more module after it, and what that module writes."""
    root, where = found.root, found.root / module.path / "config.json"
    _check_type(module, ("Pooling", "Dense", "LayerNorm", "Normalize", "Dropout"), root)
    settings = optional(where)
    if (module.kind == "Pooling") != (found.pooling is None):
        raise InputError(f"{root}: one module Pooling must follow the encoder, before all others; see {MODULES}")
    if module.kind == "Pooling":
        way, include_prompt = sentence_modules.pooling(settings, where)
        if model_type == CROSS_ENCODER and not include_prompt:
            raise InputError(f"{where}: include_prompt false is not supported of a CrossEncoder")
        return replace(found, pooling=way, embedding=EmbeddingSettings(include_prompt=include_prompt)), EMBEDDING
    if module.kind == "Dropout":
        return found, EMBEDDING
    if found.normalize and module.kind != "Normalize":
        raise InputError(f"{root}: the module {module.type} after Normalize is not supported")
    written = sentence_modules.output(settings, where, may_be_scores=model_type == CROSS_ENCODER)
    if module.kind == "Normalize":
        return replace(found, normalize=True), written
    layer = (
        sentence_modules.dense(settings, where) if module.kind == "Dense" else sentence_modules.norm(settings, where)
    )
    return replace(found, layers=(*found.layers, (layer, where.parent))), written


def _check_type(module: _Module, supported: Sequence[str], root: Path) -> None:
    if not module.type.startswith("sentence_transformers.") or module.kind not in supported:
        raise InputError(f"{root}: the module {module.type} is not supported there; {', '.join(supported)} is")


def _prompts(settings: Mapping[str, Any], always: Mapping[str, str] | None = None) -> Prompts:
    """The prompts of config_sentence_transformers.json, and those that are `always` there."""
    given = settings.get("prompts") or {}
    if not isinstance(given, Mapping):
        raise InputError(f"prompts is {given!r}; it must be an object of texts by their names")
    texts = {**(always or {}), **{name: "" if text is None else text for name, text in given.items()}}
    return Prompts(texts, settings.get("default_prompt_name"))
