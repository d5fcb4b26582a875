"""Finds and downloads the files of a Hugging Face hub dataset that hold a split."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from prunetime.errors import InputError
from prunetime.tasks.class_names import INFOS, ClassNames, class_names_of_infos

SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Words in a file's path that say which split it holds, as the hub's own conventions have them."""

DATA_SUFFIXES = (".tsv", ".csv", ".jsonl", ".tsv.gz", ".csv.gz", ".jsonl.gz", ".parquet")


def dataset_files(source: str, split: str) -> tuple[list[tuple[str, Path]], ClassNames]:
    """(name, local path) of the files of `split` of the dataset `owner/name[:config]`, downloaded where not cached, and
    the names of classes that the card or `dataset_infos.json` of the dataset has.

    The configs in the dataset's card decide; without any, a config is a folder and a split is a word in the path
    (files that say no split are train). Raises InputError if dataset, config or split are not there, or the hub
    does not answer.
    """
    try:
        from huggingface_hub import HfApi, errors, hf_hub_download
    except ImportError as error:
        raise InputError(f"{source}: hub datasets need huggingface_hub; pip install 'prunetime[prune]'") from error
    http_error = errors.HTTPError  # type: ignore[attr-defined]  # of the HTTP library that this client builds on
    dataset, _, config = source.partition(":")
    try:
        info = HfApi().dataset_info(dataset)
        files = sorted(sibling.rfilename for sibling in info.siblings or ())
        configs = (info.card_data.get("configs") if info.card_data else None) or []
        chosen = choose_files(source, files, configs, config, split)

        def local(file: str) -> Path:  # the commit is named so that all files come from one state of the dataset
            return Path(hf_hub_download(dataset, file, repo_type="dataset", revision=info.sha))

        infos = info.card_data.get("dataset_info") if info.card_data else None
        if not infos and INFOS in files:
            infos = json.loads(local(INFOS).read_text("utf-8"))
        return [(f"{dataset}/{file}", local(file)) for file in chosen], class_names_of_infos(infos, config)
    except errors.RepositoryNotFoundError as error:
        raise InputError(
            f"{source}: neither a file nor a dataset that the hub shows you; check the name, or set HF_TOKEN if it is "
            "private"
        ) from error
    except json.JSONDecodeError as error:
        raise InputError(f"{source}: its {INFOS} is not JSON: {error}") from error
    except (http_error, errors.HFValidationError, OSError) as error:
        raise InputError(f"{source}: no such file, and the hub could not be asked: {error}") from error


def choose_files(
    source: str, files: Sequence[str], configs: Sequence[Mapping[str, Any]], config: str, split: str
) -> list[str]:
    """The files among `files` that hold `split` of `config` ('' for the default one)."""
    data = [file for file in files if file.lower().endswith(DATA_SUFFIXES)]
    if not data:
        raise InputError(f"{source} has no data file that can be read ({', '.join(DATA_SUFFIXES)})")
    splits = _splits_of_card(source, data, configs, config) if configs else _splits_of_paths(source, data, config)
    if not splits.get(split):
        there_are = ", ".join(name for name, chosen in splits.items() if chosen)
        raise InputError(f"{source} has no split {split!r}; it has {there_are or 'none'}")
    return splits[split]


def _splits_of_card(
    source: str, files: Sequence[str], configs: Sequence[Mapping[str, Any]], config: str
) -> dict[str, list[str]]:
    by_name = {str(entry.get("config_name", "default")): entry for entry in configs}
    default = next((name for name, entry in by_name.items() if entry.get("default")), "default")
    name = config or (next(iter(by_name)) if len(by_name) == 1 else default)
    if name not in by_name:
        raise InputError(f"{source}: choose a config, as in {source.partition(':')[0]}:NAME; {', '.join(by_name)}")
    entry = by_name[name]
    data_files = entry.get("data_files")
    if data_files is None:
        folder = str(entry.get("data_dir", "")).strip("/")
        return _by_word([file for file in files if file.startswith(f"{folder}/" if folder else "")])
    if isinstance(data_files, str) or all(isinstance(item, str) for item in data_files):
        data_files = [{"split": "train", "path": data_files}]
    splits = {}
    for item in data_files:
        patterns = [item["path"]] if isinstance(item["path"], str) else item["path"]
        split = str(item["split"])
        name = next((name for name, known in SPLIT_WORDS.items() if split in known), split)
        splits[name] = [file for file in files if any(fnmatch(file, pattern) for pattern in patterns)]
    return splits


def _splits_of_paths(source: str, files: Sequence[str], config: str) -> dict[str, list[str]]:
    if config:
        folders = sorted({part for file in files for part in file.split("/")[:-1]})
        files = [file for file in files if config in file.split("/")[:-1]]
        if not files:
            raise InputError(f"{source} has no config {config!r}; its folders are {', '.join(folders) or 'none'}")
    return _by_word(files)


def _by_word(files: Sequence[str]) -> dict[str, list[str]]:
    splits: dict[str, list[str]] = {}
    for file in files:
        splits.setdefault(_split_named_in(file) or "train", []).append(file)
    return splits


def _split_named_in(path: str) -> str | None:
    """The file's own name counts before the folders it is in."""
    for part in reversed(path.lower().split("/")):
        words = re.split(r"[^a-z]+", part)
        for split, known in SPLIT_WORDS.items():
            if not set(words).isdisjoint(known):
                return split
    return None
