"""The words that generated tasks are made of (words.json): kinds of products, their attributes, and sentences."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from prunetime.errors import InputError


@dataclass(frozen=True, eq=False)
class ProductKind:
    """A kind of product: `names` mean the same, `parts` are accessories of it, `sizes` are counted in `unit`."""

    category: str
    names: list[str]
    parts: list[str]
    materials: list[str]
    unit: str
    sizes: list[str]

    @property
    def values(self) -> dict[str, Sequence[Any]]:
        """The values of every attribute that a product of this kind may have; a color is a row of `COLORS`."""
        return {"brand": BRANDS, "color": range(len(COLORS)), "material": self.materials, "size": self.sizes}


_WORDS: Any = json.loads(files(__package__).joinpath("words.json").read_text("utf-8"))

KINDS = [ProductKind(**kind) for kind in _WORDS["kinds"]]
BRANDS: list[str] = _WORDS["brands"]
QUALITIES: list[str] = _WORDS["qualities"]
ENDINGS: list[str] = _WORDS["endings"]

COLORS: list[list[str]] = _WORDS["colors"]
"""Words of one row mean the same colour."""

UNITS: dict[str, tuple[list[str], list[str]]] = _WORDS["units"]
"""How a size is written in a title and in a query."""

SENTENCES: dict[str, list[str]] = _WORDS["sentences"]
"""How a context says that the attribute of a thing has a value."""

QUESTIONS_ON: dict[str, list[str]] = _WORDS["questions"]


def table_name(task: str, rows: int, seed: int) -> str:
    """The name of a generated table; raises InputError where it would have no row."""
    if rows < 1:
        raise InputError(f"synthetic:{task} with rows={rows}: give at least 1")
    return f"synthetic:{task}?rows={rows}&seed={seed}"
