"""The files of a pretrained model: found in a folder or fetched from the hub, and read without executing anything."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, is_offline_mode, snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from prunetime.errors import InputError, first_line

SAFETENSORS = "model.safetensors"
PICKLED = "pytorch_model.bin"

SMALL_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_*_config.json",
    "[0-9]*_*/*.json",
    "[0-9]*_*/*.txt",
    "[0-9]*_*/*.safetensors",
    "[0-9]*_*/pytorch_model*.bin",
)


def folder_of(model: str) -> Path:
    """The folder of `model`: itself, or the snapshot of a hub id (its safetensors, or else its pickled weights).

    Raises InputError where it is neither a folder nor a model that the hub (or, offline, its cache) has.
    """
    path = Path(model).expanduser()
    if model and path.is_dir():
        return path
    if path.is_file():
        raise InputError(f"{model} is a file; give the folder that has config.json, or a hub id")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", model) or model.startswith("."):
        raise InputError(f"{model!r} is not a folder (and no hub id, such as google-bert/bert-base-uncased)")
    folder = _snapshot(model, [*SMALL_FILES, SAFETENSORS, "model-*-of-*.safetensors", f"{SAFETENSORS}.index.json"])
    if not any(folder.glob("model*.safetensors")):
        folder = _snapshot(model, [*SMALL_FILES, PICKLED, "pytorch_model-*-of-*.bin", f"{PICKLED}.index.json"])
    return folder


def _snapshot(model: str, patterns: list[str]) -> Path:
    try:
        return Path(snapshot_download(model, allow_patterns=patterns))
    except Exception as error:  # the HTTP library below, and so what it raises, changes with huggingface_hub's version
        where = "HF_HUB_OFFLINE is set and the cache" if is_offline_mode() else f"the hub at {constants.ENDPOINT}"
        raise InputError(
            f"{model} is not a folder here, and {where} does not give a model of that id: {first_line(error)}"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; raises InputError where there is no such file or no object in it."""
    if not path.is_file():
        raise InputError(f"{path.parent} is not a model folder: it has no {path.name}")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(data, dict):
        raise InputError(f"{path} holds {type(data).__name__}, expected an object")
    return data


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of the model in `folder`: safetensors if it has them, else pickled, in one file or in shards.

    Raises InputError where there are no weights, a shard is missing, or a file is damaged.
    """
    for name, read in ((SAFETENSORS, _read_safetensors), (PICKLED, _read_pickled)):
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return _read_files([folder / name], read)
        if index.is_file():
            return _read_files(_shards(index), read)
    graphs = sorted(path.relative_to(folder) for path in folder.rglob("*.onnx"))
    if graphs:
        raise InputError(
            f"{folder} has only {graphs[0]}: a graph cannot be trained on, and so not pruned; give the folder with "
            f"{SAFETENSORS} that it was exported from"
        )
    raise InputError(f"{folder} has no weights: neither {SAFETENSORS} nor {PICKLED}, whole or in shards")


def _shards(index: Path) -> list[Path]:
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise InputError(f"{index} has no weight_map from tensor names to file names")
    outside = [name for name in names.values() if Path(name).name != name]
    if outside:
        raise InputError(f"{index} names {outside[0]!r}, which is not a file of its folder")
    return [index.parent / name for name in sorted(set(names.values()))]


def _read_files(paths: Iterable[Path], read: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for path in paths:
        if not path.is_file():
            raise InputError(f"{path.parent} lacks {path.name}, which its index names")
        tensors |= read(path)
    return tensors


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} is not a whole safetensors file: {error}") from error


def _read_pickled(path: Path) -> dict[str, Tensor]:
    """Unpickles tensors only: anything else in the file is refused, not executed."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise InputError(f"{path} is not a whole file of pickled tensors: {first_line(error)}") from error
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise InputError(f"{path} holds something else than named tensors")
    return state
