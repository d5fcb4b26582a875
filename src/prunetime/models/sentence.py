"""Folders of sentence-transformers: an encoder, and how its rows become the embedding of a text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prunetime.config import EncoderConfig, Pooling
from prunetime.errors import InputError
from prunetime.models.checkpoint import read_json

MODULES = "modules.json"
POOLING = "1_Pooling"

MODES: Mapping[str, Pooling] = {"mean": "mean", "cls": "first"}
"""What a pooling module calls those that there are here."""

BEFORE_6 = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
"""What it had a setting of its own for, until sentence-transformers 6."""

CHANGES_NOTHING = ("Normalize",)
"""Modules that a cosine does not see."""


def transformer_folder(folder: Path) -> Path:
    """Where the encoder's files are."""
    found = next((each["path"] for each in _modules(folder) if each["type"].endswith(".Transformer")), "")
    return folder / found


def pooling_of(folder: Path) -> Pooling | None:
    """How rows are pooled; None where the folder is none of sentence-transformers.

    Raises InputError for another way than the mean or the first token, and for modules after it that change more than
    the length.
    """
    pooling: Pooling | None = None
    for module in _modules(folder):
        kind = module["type"].rpartition(".")[2]
        if kind == "Pooling":
            settings = read_json(folder / module["path"] / "config.json")
            named = settings.get("pooling_mode")
            switched = [name for name, on in settings.items() if name.startswith("pooling_mode_") and on is True]
            modes = [str(named)] if named else [BEFORE_6.get(name, name) for name in switched]
            if len(modes) != 1 or modes[0] not in MODES:
                raise InputError(
                    f"{folder}: pooling by {' and '.join(modes) or 'nothing'} is not supported; {' or '.join(MODES)} is"
                )
            pooling = MODES[modes[0]]
        elif kind not in ("Transformer", *CHANGES_NOTHING):
            raise InputError(f"{folder}: a module {kind} after the encoder is not supported; pooling alone is")
    return pooling


def sentence_files(config: EncoderConfig, max_length: int) -> dict[str, bytes]:
    """What makes the folder of an encoder without head one of sentence-transformers, as all versions read it."""
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate((("", "Transformer"), (POOLING, "Pooling")))
    ]
    pooling = {name: MODES[mode] == config.pooling for name, mode in BEFORE_6.items()}
    files: dict[str, Any] = {
        MODULES: modules,
        f"{POOLING}/config.json": {"word_embedding_dimension": config.dims.hidden} | pooling,
        "sentence_bert_config.json": {"max_seq_length": max_length, "do_lower_case": False},
    }
    return {name: json.dumps(content, indent=1).encode() for name, content in files.items()}


def _modules(folder: Path) -> list[dict[str, str]]:
    path = folder / MODULES
    if not path.is_file():
        return []
    try:
        return [{name: str(module[name]) for name in ("path", "type")} for module in json.loads(path.read_text())]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not the list of modules that sentence-transformers writes: {error!r}") from error
