"""`synthetic:ad-relevance`: made search queries and product ads, with the label whether the ad answers the query.

A query asks for a kind of product (or a part for one) and may name a brand, a colour, a material and a size. An ad is
relevant when kind and part agree and everything that the query names agrees; words do not have to: `gray couch` is
answered by a `Charcoal ... Settee`. Irrelevant ads are near misses: one named attribute differs, the ad is for a part
of the thing (or for the thing when the query wants the part), or it is another kind of the same category with all that
the query names.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from random import Random
from typing import TypeVar

from prunetime.errors import InputError
from prunetime.tasks.synthetic.vocabulary import BRANDS, COLORS, ENDINGS, KINDS, QUALITIES, UNITS, ProductKind
from prunetime.tasks.table import Table

T = TypeVar("T")

RELEVANT = 0.46
"""Share of relevant ads before noise."""

LABEL_NOISE = 0.03

ADS_PER_QUERY = (8, 15)

MISSPELLED = 0.15
"""Share of queries with one misspelled word."""

NAMED = {"brand": 0.2, "color": 0.4, "material": 0.35, "size": 0.35}
"""How often a query names an attribute."""

FROM_CATALOGUE = 0.85
"""How often an ad is looked for among the products there are before a new one is made."""


@dataclass(frozen=True)
class Attributes:
    """The attributes that a product has or a query names; None is not named. `color` is a row of `COLORS`."""

    brand: str | None = None
    color: int | None = None
    material: str | None = None
    size: str | None = None

    def agree_with(self, named: Attributes) -> bool:
        return all(getattr(named, f.name) in (None, getattr(self, f.name)) for f in fields(self))

    def named(self) -> list[str]:
        return [f.name for f in fields(self) if getattr(self, f.name) is not None]


@dataclass(frozen=True)
class Wanted:
    """A kind, or its `part`, with the attributes that are named."""

    kind: ProductKind
    part: str | None
    attributes: Attributes


@dataclass(frozen=True)
class Product:
    uid: int
    name: str
    attributes: Attributes
    title: str


class RandomChoices:
    """Random choices made from `Random.random()` alone: the one method Python promises never to change."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed).random

    def chance(self, probability: float) -> bool:
        return self._random() < probability

    def below(self, count: int) -> int:
        return int(self._random() * count)

    def one_of(self, items: Sequence[T]) -> T:
        return items[self.below(len(items))]

    def other_than(self, item: T, items: Sequence[T]) -> T:
        return self.one_of([other for other in items if other != item])

    def shuffled(self, items: Sequence[T]) -> list[T]:
        left = list(items)
        return [left.pop(self.below(len(left))) for _ in items]


def ad_relevance(rows: int, seed: int) -> Table:
    """`rows` pairs with the columns query, title, product_uid and label (0 or 1); the group is the query.

    Same `rows` and `seed`, same table everywhere. A longer table starts with the shorter one's rows.
    """
    if rows < 1:
        raise InputError(f"synthetic:ad-relevance with rows={rows}: give at least 1")
    choices = RandomChoices(seed)
    catalogue = ProductCatalogue(choices)
    columns: dict[str, list[str]] = {name: [] for name in ("query", "title", "product_uid", "label")}
    asked: set[str] = set()
    while len(columns["label"]) < rows:
        wanted, name = _wanted(choices)
        query = _query_text(wanted, name, choices)
        if query in asked:
            continue
        asked.add(query)
        shown: set[int] = set()
        low, high = ADS_PER_QUERY
        for _ in range(low + choices.below(high - low + 1)):
            product, relevant = _ad(wanted, name, catalogue, choices)
            if product.uid in shown:
                continue
            shown.add(product.uid)
            label = relevant != choices.chance(LABEL_NOISE)
            row = (query, product.title, str(product.uid), str(int(label)))
            for values, value in zip(columns.values(), row, strict=True):
                values.append(value)
    return Table(f"synthetic:ad-relevance?rows={rows}&seed={seed}", {n: c[:rows] for n, c in columns.items()})


class ProductCatalogue:
    """The products made so far; a title is made once, so that no two products look the same."""

    def __init__(self, choices: RandomChoices) -> None:
        self._choices = choices
        self._products: dict[tuple[ProductKind, str | None], list[Product]] = defaultdict(list)
        self._by_title: dict[str, Product] = {}

    def product(self, wanted: Wanted, avoid: str | None, prefer: str | None) -> Product:
        """A product that agrees with `wanted`, not called `avoid` where there is a choice, called `prefer` if given."""
        choices = self._choices
        there_are = self._products[wanted.kind, wanted.part]
        if there_are and choices.chance(FROM_CATALOGUE):
            for _ in range(8):
                product = choices.one_of(there_are)
                if (
                    product.attributes.agree_with(wanted.attributes)
                    and product.name != avoid
                    and prefer in (None, product.name)
                ):
                    return product
        names = [name for name in wanted.kind.names if name != avoid]
        return self._make(wanted, prefer or choices.one_of(names))

    def _make(self, wanted: Wanted, name: str) -> Product:
        choices, kind, named = self._choices, wanted.kind, wanted.attributes
        attributes = Attributes(
            named.brand or choices.one_of(BRANDS),
            choices.below(len(COLORS)) if named.color is None else named.color,
            named.material or choices.one_of(kind.materials),
            named.size or choices.one_of(kind.sizes),
        )
        title = _title(kind, name, wanted.part, attributes, choices)
        product = Product(100001 + len(self._by_title), name, attributes, title)
        if title in self._by_title:
            return self._by_title[title]
        self._by_title[title] = product
        self._products[kind, wanted.part].append(product)
        return product


def _wanted(choices: RandomChoices) -> tuple[Wanted, str]:
    """Draws the product that a query asks for, and its name in the query."""
    kind = choices.one_of(KINDS)
    part = choices.one_of(kind.parts) if choices.chance(0.3) else None
    attributes = Attributes(
        choices.one_of(BRANDS) if choices.chance(NAMED["brand"]) else None,
        choices.below(len(COLORS)) if choices.chance(NAMED["color"]) else None,
        choices.one_of(kind.materials) if choices.chance(NAMED["material"]) else None,
        choices.one_of(kind.sizes) if choices.chance(NAMED["size"]) else None,
    )
    return Wanted(kind, part, attributes), choices.one_of(kind.names)


def _ad(wanted: Wanted, name: str, catalogue: ProductCatalogue, choices: RandomChoices) -> tuple[Product, bool]:
    """A product for the query and whether it answers it."""
    if choices.chance(RELEVANT):
        other_word = choices.chance(0.6)
        return catalogue.product(wanted, name if other_word else None, None if other_word else name), True
    near = _near_miss(wanted, choices)
    same_word = near.kind == wanted.kind and choices.chance(0.75)
    return catalogue.product(near, None, name if same_word else None), False


def _near_miss(wanted: Wanted, choices: RandomChoices) -> Wanted:
    kind, part, attributes = wanted.kind, wanted.part, wanted.attributes
    draw = choices.below(100)
    if attributes.named() and draw < 55:
        return Wanted(kind, part, _one_differs(attributes, kind, choices))
    if draw < 75:
        return Wanted(kind, choices.one_of(kind.parts) if part is None else None, attributes)
    siblings = [other for other in KINDS if draw >= 95 or other.category == kind.category]
    sibling = choices.other_than(kind, siblings)
    fitting = Attributes(
        attributes.brand,
        attributes.color,
        attributes.material if attributes.material in sibling.materials else None,
        attributes.size if attributes.size in sibling.sizes else None,
    )
    return Wanted(sibling, choices.one_of(sibling.parts) if part else None, fitting)


def _one_differs(attributes: Attributes, kind: ProductKind, choices: RandomChoices) -> Attributes:
    values = {f.name: getattr(attributes, f.name) for f in fields(attributes)}
    changed = choices.one_of(attributes.named())
    all_values: dict[str, Sequence[object]] = {
        "brand": BRANDS,
        "color": range(len(COLORS)),
        "material": kind.materials,
        "size": kind.sizes,
    }
    values[changed] = choices.other_than(values[changed], all_values[changed])
    return Attributes(**values)


def _title(kind: ProductKind, name: str, part: str | None, attributes: Attributes, choices: RandomChoices) -> str:
    brand, color, material, size = (getattr(attributes, f.name) for f in fields(attributes))
    written_size = choices.one_of(UNITS[kind.unit][0]).format(size.title())
    thing = name if part is None else choices.one_of((f"{name} {part}", f"{part} for {name}"))
    words = [
        brand,
        *([choices.one_of(QUALITIES)] if choices.chance(0.4) else []),
        choices.one_of(COLORS[color]).title(),
        material.title(),
        thing.title().replace(" For ", " for ").replace(" Of ", " of "),
    ]
    words.insert(1 if choices.chance(0.6) else len(words), written_size)
    if choices.chance(0.25):
        words.append(choices.one_of(ENDINGS))
    return " ".join(words)


def _query_text(wanted: Wanted, name: str, choices: RandomChoices) -> str:
    attributes = wanted.attributes
    before = [attributes.brand.lower()] if attributes.brand else []
    if attributes.color is not None:
        before.append(choices.one_of(COLORS[attributes.color]))
    if attributes.material:
        before.append(attributes.material)
    after: list[str] = []
    if attributes.size:
        size = choices.one_of(UNITS[wanted.kind.unit][1]).format(attributes.size)
        if choices.chance(0.15):
            size = attributes.size
        (before if choices.chance(0.6) else after).append(size)
    thing = name
    if wanted.part:
        thing = choices.one_of((f"{name} {wanted.part}", f"{wanted.part} for {name}"))
    text = " ".join([*choices.shuffled(before), thing, *after])
    return _misspelled(text, choices) if choices.chance(MISSPELLED) else text


def _misspelled(text: str, choices: RandomChoices) -> str:
    words = text.split()
    long_words = [i for i, word in enumerate(words) if len(word) >= 5]
    if not long_words:
        return text
    at = choices.one_of(long_words)
    word = words[at]
    i = 1 + choices.below(len(word) - 2)
    words[at] = choices.one_of(
        (word[:i] + word[i + 1 :], word[:i] + word[i + 1] + word[i] + word[i + 2 :], word[:i] + word[i] + word[i:])
    )
    return " ".join(words)
