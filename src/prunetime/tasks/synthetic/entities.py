"""`synthetic:product-entities`: made titles of products, and which of their words name what.

    {"tokens": ["Oakridge", "red", "love", "seat"], "tags": ["B-BRAND", "B-COLOR", "B-NAME", "I-NAME"]}

What a word is depends on its neighbours, too: a part that a title offers ("for sofa") is named after what it is for.
"""

from __future__ import annotations

import json

import numpy as np

from prunetime.tasks.synthetic.vocabulary import BRANDS, COLORS, KINDS, QUALITIES, table_name
from prunetime.tasks.table import Table

COLUMNS = ("tokens", "tags")


def product_entities(rows: int, seed: int) -> Table:
    """`rows` titles with a label for every word: B- and I- of BRAND, COLOR, MATERIAL, NAME (of the product) and TARGET
    (what a part is for), or O. Raises InputError for fewer than one."""
    name = table_name("product-entities", rows, seed)
    rng = np.random.default_rng([seed, 2])
    found = [_title(rng) for _ in range(rows)]
    encoded = [[json.dumps([pair[i] for pair in title]) for i in (0, 1)] for title in found]
    return Table.of_rows(name, COLUMNS, encoded)


def _title(rng: np.random.Generator) -> list[tuple[str, str]]:
    kind = KINDS[rng.integers(len(KINDS))]
    name = str(rng.choice(kind.names))
    parts: list[tuple[str, str]] = [(str(rng.choice(BRANDS)), "BRAND")]
    if rng.random() < 0.4:
        parts.append((str(rng.choice(QUALITIES)), ""))
    parts.append((str(rng.choice(COLORS[rng.integers(len(COLORS))])), "COLOR"))
    if rng.random() < 0.7:
        parts.append((str(rng.choice(kind.materials)), "MATERIAL"))
    if rng.random() < 0.3:
        parts += [(str(rng.choice(kind.parts)), "NAME"), ("for", ""), (name, "TARGET")]
    else:
        parts.append((name, "NAME"))
    if rng.random() < 0.3:
        order = rng.permutation(len(parts) - 1)
        parts = [*(parts[i] for i in order), parts[-1]] if ("for", "") not in parts else parts
    return [
        (word, f"{'I' if number else 'B'}-{label}" if label else "O")
        for text, label in parts
        for number, word in enumerate(text.split())
    ]
