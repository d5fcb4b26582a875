"""Names of the classes whose numbers a dataset of the hub has in its columns (`ClassLabel` of the `datasets` library).

They are in the Arrow schema of a Parquet file that `datasets` wrote, in the card of a dataset (README.md, in its YAML
header), or in the `dataset_infos.json` that came before cards.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prunetime.errors import InputError

CARD = "README.md"
INFOS = "dataset_infos.json"

ClassNames = Mapping[str, tuple[str, ...]]
"""By column: the names of its classes, in the order of their numbers."""


def class_names_of_schema(metadata: Mapping[bytes, bytes] | None) -> ClassNames:
    """Reads class names from the metadata of an Arrow schema; none where `datasets` did not write it."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return class_names_of_features(features)


def class_names_of_features(features: Any) -> ClassNames:
    """Reads class names from `features`: by column, as the library writes JSON, or a list, as it writes cards.

    Raises InputError for a name that is no text, such as a `no` without quotes in YAML.
    """
    if isinstance(features, Mapping):
        described = list(features.items())
    elif isinstance(features, list):
        described = [(each.get("name"), each) for each in features if isinstance(each, Mapping)]
    else:
        described = []
    found = {str(column): _names(feature) for column, feature in described}
    for column, names in found.items():
        if wrong := [name for name in names if not isinstance(name, str)]:
            raise InputError(f"column {column!r}: {wrong[0]!r} is no name of a class; write each as a text, in quotes")
    return {column: names for column, names in found.items() if names}


def _names(feature: Any) -> tuple[Any, ...]:
    """The names of the ClassLabel that a column is, or has lists of; () for what is something else."""
    if isinstance(feature, list):
        return _names(feature[0]) if len(feature) == 1 else ()
    if not isinstance(feature, Mapping):
        return ()
    label = feature.get("class_label", feature if feature.get("_type") == "ClassLabel" else None)
    if isinstance(label, Mapping):
        names = label.get("names")
        if isinstance(names, Mapping):
            numbered = {str(number): name for number, name in names.items()}
            names = [numbered.get(str(number)) for number in range(len(numbered))]
        return tuple(names) if isinstance(names, list) else ()
    kinds = ("dtype", "sequence", "list", "feature")
    return next((names for kind in kinds if kind in feature and (names := _names(feature[kind]))), ())


def class_names_of_infos(infos: Any, config: str = "") -> ClassNames:
    """Reads class names for a `config` of a dataset from a card's `dataset_info` or a `dataset_infos.json`.

    Without a config (or where it has no entry) those on which all entries agree that have the column.
    """
    if isinstance(infos, Mapping):
        single = "features" in infos
        entries = {str(infos.get("config_name", "")): infos} if single else {str(k): v for k, v in infos.items()}
    elif isinstance(infos, list):
        entries = {str(each.get("config_name", "")): each for each in infos if isinstance(each, Mapping)}
    else:
        return {}
    chosen = [entries[config]] if config in entries else list(entries.values())
    found: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for features in (entry.get("features") for entry in chosen if isinstance(entry, Mapping)):
        for column, names in class_names_of_features(features).items():
            found[column].add(names)
    return {column: next(iter(names)) for column, names in found.items() if len(names) == 1}


def class_names_beside(path: Path) -> tuple[ClassNames, Path | None]:
    """Finds class names in a card or `dataset_infos.json` in the folder of the data file `path`, or in the one above it
    where that one is called `data`; and the file that has them.

    Raises InputError where such a file is damaged.
    """
    folder = path.resolve().parent
    for place in (folder, *([folder.parent] if folder.name == "data" else [])):
        for file, read in ((place / CARD, _of_card), (place / INFOS, _of_infos_file)):
            try:
                names = read(file) if file.is_file() else {}
            except (OSError, ValueError) as error:
                raise InputError(f"{file} cannot be read: {error}; mend it or move it away") from error
            if names:
                return names, file
    return {}, None


def _of_infos_file(path: Path) -> ClassNames:
    return class_names_of_infos(json.loads(path.read_text("utf-8")))


def _of_card(path: Path) -> ClassNames:
    header = re.match(r"---\s*\n(.*?)\n---\s*$", path.read_text("utf-8", "replace"), re.DOTALL | re.MULTILINE)
    if not header or "class_label" not in header[1]:
        return {}
    try:
        import yaml
    except ImportError as error:
        raise InputError("the names of classes in it need PyYAML: pip install 'prunetime[prune]'") from error
    try:
        content = yaml.safe_load(header[1])
    except yaml.YAMLError as error:
        raise InputError(f"its header is not YAML ({error})") from error
    return class_names_of_infos(content.get("dataset_info")) if isinstance(content, dict) else {}
