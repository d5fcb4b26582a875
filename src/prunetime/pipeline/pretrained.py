"""A pretrained model and its tokenizer, read and checked for a task, and the files by which other libraries load it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from prunetime.core.arrays import Weights
from prunetime.core.artifact import Manifest
from prunetime.core.config import FAMILIES, EncoderConfig
from prunetime.core.progress import Say
from prunetime.core.task import Task
from prunetime.core.task_kind import TaskKind
from prunetime.errors import InputError
from prunetime.inference.tokenize import Tokenizer
from prunetime.models import families
from prunetime.models.tokenization import PretrainedTokenizer, load_tokenizer

MOST_NAMES = 5
"""A message names at most so many tensors."""


def load(model: str, outputs: int | None, kind: TaskKind, say: Say, seed: int = 0) -> families.Pretrained:
    """The pretrained `model`, as `families.load` gives it; `say` is told which of its tensors are left out."""
    pretrained = families.load(model, outputs, seed, kind)
    if pretrained.unused:
        count, some = len(pretrained.unused), ", ".join(pretrained.unused[:MOST_NAMES])
        say(
            f"{model}: {count} tensors belong to neither the encoder nor its head, and are left out: "
            f"{some}{', ...' * (count > MOST_NAMES)}"
        )
    return pretrained


def hub_id(model: str) -> str | None:
    """The hub id that `model` is; None of a folder, whose path says nothing to others."""
    return None if Path(model).expanduser().exists() else model


def check_length(tokens: int, pretrained: families.Pretrained) -> None:
    """Raises InputError where the model has too few positions for sequences of `tokens`."""
    longest = pretrained.config.longest
    if tokens > longest:
        raise InputError(f"--seq-len {tokens} is longer than the {longest} positions of the model")
    pretrained.sentence.check_length(tokens)


def tokenizer_of(pretrained: families.Pretrained, max_length: int) -> PretrainedTokenizer:
    """The tokenizer of a pretrained model, for sequences of `max_length`; raises InputError as `load_tokenizer`."""
    vocabulary = pretrained.config.dims.vocabulary
    return load_tokenizer(pretrained.folder, vocabulary, max_length, pretrained.pad_token_id)


def tokenizer_for(
    task: Task, pretrained: families.Pretrained, model: str, say: Say
) -> tuple[Tokenizer, Mapping[str, bytes]]:
    """The tokenizer of the pretrained `model` for the texts of a task, and its files in an artifact by their names.

    `say` is told where transformers replaces parts of the model's tokenizer.json.
    Raises InputError as `load_tokenizer`, and where the sequences of the task do not fit the model.
    """
    check_length(task.max_length, pretrained)
    found = tokenizer_of(pretrained, task.max_length)
    if found.replaced:
        say(
            f"the tokenizer of {model} has the {' and '.join(found.replaced)} of its class in transformers, as "
            "AutoTokenizer has, not those of its tokenizer.json"
        )
    tokenizer = Tokenizer(found.content, task.max_length)
    check_types(tokenizer, pretrained.config, 2 if task.read_together else 1)
    return tokenizer, found.files(pretrained.config)


def check_types(tokenizer: Tokenizer, config: EncoderConfig, texts: int) -> None:
    """Raises InputError where sequences of one text, or of two, have a token type that the model's table lacks."""
    highest = tokenizer.highest_type(texts)
    if FAMILIES[config.family].token_types and highest >= config.token_types:
        raise InputError(
            f"the tokenizer gives tokens the type {highest}; the model has {config.token_types} token types "
            "(type_vocab_size), from 0: leave token_type_ids out of model_input_names in tokenizer_config.json, or "
            "give a model with more of them"
        )


def artifact_files(manifest: Manifest, weights: Weights, tokenizer_files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files of an artifact, by their names, with which transformers and sentence-transformers load its folder."""
    from prunetime.models.hf import config_json  # only here: transformers is slow to import
    from prunetime.models.sentence_files import sentence_files

    config, task = manifest.config, manifest.task
    return {
        **tokenizer_files,
        "config.json": config_json(config, manifest.spec, task),
        **sentence_files(config, task, weights),
    }
