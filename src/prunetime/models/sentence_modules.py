"""The settings of one module of sentence-transformers: each field is taken, refused by its name, or changes no number.

The tables are for reading and writing alike.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from prunetime.core.config import Activation, HeadLayer, Pooling
from prunetime.core.task import ScoreActivation
from prunetime.errors import InputError
from prunetime.models.checkpoint import read_json

MODULES = "modules.json"
MODEL_SETTINGS = "config_sentence_transformers.json"

SENTENCE_TRANSFORMER, CROSS_ENCODER = "SentenceTransformer", "CrossEncoder"
"""`model_type` in config_sentence_transformers.json."""

_TABLES = json.loads((files(__package__) / "sentence_modules.json").read_text(encoding="utf-8"))

TRANSFORMER_SETTINGS: Sequence[str] = _TABLES["transformer_settings"]
"""The names that the settings of the Transformer module may be under; the first one is written today."""

POOLINGS: Mapping[str, Pooling] = _TABLES["poolings"]
"""Our ways of pooling, by the values of `pooling_mode`."""

POOLING_FLAGS: Mapping[str, str] = _TABLES["pooling_flags"]
"""The settings that said so until version 6, and that every version reads."""

DENSE_ACTIVATIONS: Mapping[Activation, str] = _TABLES["dense_activations"]
"""The activations that follow a Dense module."""

SCORE_ACTIVATIONS: Mapping[ScoreActivation, str] = _TABLES["score_activations"]
"""The activations that a CrossEncoder applies to its logits."""

LAYER_NORM_EPS = 1e-5
"""The eps of the LayerNorm module, torch's."""

ModuleSettings = Mapping[str, Any]
Function = TypeVar("Function", bound=str)

EMBEDDING, SCORES = "sentence_embedding", "scores"
"""The name of what modules after pooling read and write."""

OUTPUTS = {
    "feature-extraction": ("last_hidden_state", "token_embeddings"),
    "sequence-classification": ("logits", SCORES),
}
"""By `transformer_task`: the output of transformers' model that is read, and what it is called for the next module."""

READ_ELSEWHERE = ("max_seq_length", "do_lower_case")
CHANGES_NO_NUMBER = ("unpad_inputs",)


def optional(path: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one where there is no such file."""
    return read_json(path) if path.is_file() else {}


def transformer_settings(folder: Path) -> tuple[dict[str, Any], Path]:
    """The settings of the Transformer module, and their file: the first of several names that it may have."""
    for name in TRANSFORMER_SETTINGS:
        if settings := optional(folder / name):
            return settings, folder / name
    return {}, folder / TRANSFORMER_SETTINGS[0]


def transformer_task(settings: ModuleSettings, where: Path) -> str:
    """The output of the Transformer module, a key of `OUTPUTS`; raises InputError for an unsupported setting."""
    task = settings.get("transformer_task", "feature-extraction")
    if task not in OUTPUTS:
        raise InputError(f"{where}: transformer_task {task!r} is not supported; {' and '.join(OUTPUTS)} are")
    method_output, module_output = OUTPUTS[task]
    modalities = {"text": {"method": "forward", "method_output_name": method_output}}
    expected: dict[str, Any] = {"modality_config": modalities, "module_output_name": module_output}
    for name, value in settings.items():
        if name in ("transformer_task", *READ_ELSEWHERE, *CHANGES_NO_NUMBER) or not value:
            continue
        if name in ("model_args", "model_kwargs") and value == {"add_pooling_layer": False}:
            continue  # of a layer that neither library runs
        if value != expected.get(name):
            raise InputError(
                f"{where}: {name} {value!r} is not supported; {expected.get(name, 'nothing')!r} is"
                " (leave it out for that)"
            )
    return str(task)


def longest(settings: ModuleSettings, where: Path) -> tuple[int, str] | None:
    """The most tokens of a text, with the field and file that says so: the Transformer module's or its tokenizer's."""
    name = "max_seq_length"
    return _tokens(settings.get(name), f"{name} in {where.name}", where.parent) or longest_of_tokenizer(where.parent)


def longest_of_tokenizer(folder: Path) -> tuple[int, str] | None:
    """The most tokens of a text that the tokenizer of a model folder leaves, with the field and file that says so."""
    name, file = "model_max_length", folder / "tokenizer_config.json"
    return _tokens(optional(file).get(name), f"{name} in {file.name}", folder)


def _tokens(value: object, name: str, folder: Path) -> tuple[int, str] | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or value < 1:
        raise InputError(f"{folder}: {name} is {value!r}; it must be a number of tokens")
    return int(value), name


def pooling(settings: ModuleSettings, where: Path) -> tuple[Pooling, bool]:
    """The way of pooling, and whether a prompt's tokens are pooled."""
    known = ("embedding_dimension", "word_embedding_dimension", "pooling_mode", "include_prompt", *POOLING_FLAGS)
    _refuse_unknown(settings, known, where)
    named = settings.get("pooling_mode")
    flags = [flag for flag in POOLING_FLAGS if settings.get(flag)]
    flagged = [POOLING_FLAGS[flag] for flag in flags] or ["mean"]
    modes = flagged if named is None else [named] if isinstance(named, str) else list(named)
    if len(modes) != 1 or modes[0] not in POOLINGS:
        said = f"pooling_mode {named!r}" if named is not None else " with ".join(flags)
        raise InputError(f"{where}: {said} is not supported; one of {', '.join(POOLINGS)} is")
    return POOLINGS[modes[0]], bool(settings.get("include_prompt", True))


def dense(settings: ModuleSettings, where: Path) -> HeadLayer:
    if settings.get("use_residual"):
        raise InputError(f"{where}: use_residual {settings['use_residual']!r} is not supported; only false is")
    named = settings.get("activation_function", DENSE_ACTIVATIONS["tanh"])
    activation = _of_torch_class(named, DENSE_ACTIVATIONS, "activation_function", where)
    return HeadLayer("dense", _width(settings, "out_features", where), activation)


def norm(settings: ModuleSettings, where: Path) -> HeadLayer:
    _refuse_unknown(settings, ("dimension",), where)
    return HeadLayer("norm", _width(settings, "dimension", where), eps=LAYER_NORM_EPS)


def output(settings: ModuleSettings, where: Path, *, may_be_scores: bool) -> str:
    """The output of a module after pooling; raises InputError where it reads or writes other things than embeddings."""
    read = settings.get("module_input_name") or EMBEDDING
    written = settings.get("module_output_name") or read
    allowed = (EMBEDDING, SCORES) if may_be_scores else (EMBEDDING,)
    for name, value, fitting in (("module_input_name", read, (EMBEDDING,)), ("module_output_name", written, allowed)):
        if value not in fitting:
            raise InputError(f"{where}: {name} {value!r} is not supported there; {' or '.join(fitting)} is")
    return str(written)


def encoder_activation(settings: ModuleSettings, where: Path) -> ScoreActivation | None:
    """The activation of a CrossEncoder by its encoder's config.json, where versions 5.3 and earlier wrote it."""
    of_4 = settings.get("sentence_transformers")
    if isinstance(of_4, Mapping) and "activation_fn" in of_4:
        return score_activation(of_4["activation_fn"], "activation_fn", where)
    of_3 = "sbert_ce_default_activation_function"
    return score_activation(settings.get(of_3), of_3, where)


def score_activation(named: object, name: str, where: Path) -> ScoreActivation | None:
    """The activation that the class of torch `named` under `name` is; None for None."""
    return None if named is None else _of_torch_class(named, SCORE_ACTIVATIONS, name, where)


def _of_torch_class(named: object, classes: Mapping[Function, str], name: str, where: Path) -> Function:
    """Returns our name of the class of torch that is `named`, in full or as `torch.nn` has it."""
    for ours, path in classes.items():
        if named in (path, f"torch.nn.{path.rpartition('.')[2]}"):
            return ours
    supported = ", ".join(classes.values())
    raise InputError(f"{where}: {name} {named!r} is not supported; use one of {supported}")


def _refuse_unknown(settings: ModuleSettings, known: tuple[str, ...], where: Path) -> None:
    if unknown := [name for name in settings if name not in known]:
        raise InputError(f"{where}: {', '.join(unknown)} is not supported; {', '.join(known)} are")


def _width(settings: ModuleSettings, name: str, where: Path) -> int:
    width = settings.get(name)
    if type(width) is not int or width < 1:
        raise InputError(f"{where}: {name} is {width!r}; it must be a whole number of at least 1")
    return width
