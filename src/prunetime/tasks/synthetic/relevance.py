"""`synthetic:ad-relevance`: made search queries and product ads, with the label whether the ad answers the query.

A query asks for a kind of product (or a part for one) and may name a brand, a colour, a material and a size. An ad is
relevant when kind and part agree and everything that the query names agrees; words do not have to: `gray couch` is
answered by a `Charcoal ... Settee`. Irrelevant ads are near misses: one named attribute differs, the ad is for a part
of the thing (or for the thing when the query wants the part), or it is another kind of the same category with all that
the query names.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from prunetime.tasks.synthetic.random_choices import RandomChoices, misspelled
from prunetime.tasks.synthetic.vocabulary import COLORS, ENDINGS, KINDS, QUALITIES, UNITS, ProductKind, table_name
from prunetime.tasks.table import Table

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


Attributes = Mapping[str, Any]
"""The attributes that a product has or a query names, in the order of `NAMED`; a color is a row of `COLORS`."""


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


def ad_relevance(rows: int, seed: int) -> Table:
    """`rows` pairs with the columns query, title, product_uid and label (0 or 1); the group is the query.

    Same `rows` and `seed`, same table everywhere. A longer table starts with the shorter one's rows.
    """
    name = table_name("ad-relevance", rows, seed)
    choices = RandomChoices(seed)
    catalogue = ProductCatalogue(choices)
    found: list[tuple[str, ...]] = []
    asked: set[str] = set()
    while len(found) < rows:
        wanted, word = _wanted(choices)
        query = _query_text(wanted, word, choices)
        if query in asked:
            continue
        asked.add(query)
        shown: set[int] = set()
        for _ in range(choices.between(*ADS_PER_QUERY)):
            product, relevant = _ad(wanted, word, catalogue, choices)
            if product.uid not in shown:
                shown.add(product.uid)
                label = relevant != choices.chance(LABEL_NOISE)
                found.append((query, product.title, str(product.uid), str(int(label))))
    return Table.of_rows(name, ("query", "title", "product_uid", "label"), found[:rows])


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
                agrees = wanted.attributes.items() <= product.attributes.items()
                if agrees and product.name != avoid and prefer in (None, product.name):
                    return product
        names = [name for name in wanted.kind.names if name != avoid]
        return self._make(wanted, prefer or choices.one_of(names))

    def _make(self, wanted: Wanted, name: str) -> Product:
        values, named = wanted.kind.values, wanted.attributes
        attributes = {key: named[key] if key in named else self._choices.one_of(values[key]) for key in NAMED}
        title = _title(replace(wanted, attributes=attributes), name, self._choices)
        if title not in self._by_title:
            self._by_title[title] = Product(100001 + len(self._by_title), name, attributes, title)
            self._products[wanted.kind, wanted.part].append(self._by_title[title])
        return self._by_title[title]


def _wanted(choices: RandomChoices) -> tuple[Wanted, str]:
    """Draws the product that a query asks for, and its name in the query."""
    kind = choices.one_of(KINDS)
    part = choices.one_of(kind.parts) if choices.chance(0.3) else None
    attributes = {key: choices.one_of(kind.values[key]) for key, often in NAMED.items() if choices.chance(often)}
    return Wanted(kind, part, attributes), choices.one_of(kind.names)


def _ad(wanted: Wanted, name: str, catalogue: ProductCatalogue, choices: RandomChoices) -> tuple[Product, bool]:
    if choices.chance(RELEVANT):
        other_word = choices.chance(0.6)
        return catalogue.product(wanted, name if other_word else None, None if other_word else name), True
    near = _near_miss(wanted, choices)
    same_word = near.kind == wanted.kind and choices.chance(0.75)
    return catalogue.product(near, None, name if same_word else None), False


def _near_miss(wanted: Wanted, choices: RandomChoices) -> Wanted:
    kind, part, attributes = wanted.kind, wanted.part, wanted.attributes
    draw = choices.below(100)
    if attributes and draw < 55:
        changed = choices.one_of(list(attributes))
        other = choices.other_than(attributes[changed], kind.values[changed])
        return Wanted(kind, part, {**attributes, changed: other})
    if draw < 75:
        return Wanted(kind, choices.one_of(kind.parts) if part is None else None, attributes)
    siblings = [other for other in KINDS if draw >= 95 or other.category == kind.category]
    sibling = choices.other_than(kind, siblings)
    fitting = {key: value for key, value in attributes.items() if value in sibling.values[key]}
    return Wanted(sibling, choices.one_of(sibling.parts) if part else None, fitting)


def _title(product: Wanted, name: str, choices: RandomChoices) -> str:
    attributes = product.attributes
    written_size = choices.one_of(UNITS[product.kind.unit][0]).format(attributes["size"].title())
    thing = _thing(name, product.part, choices)
    words = [
        attributes["brand"],
        *([choices.one_of(QUALITIES)] if choices.chance(0.4) else []),
        choices.one_of(COLORS[attributes["color"]]).title(),
        attributes["material"].title(),
        thing.title().replace(" For ", " for ").replace(" Of ", " of "),
    ]
    words.insert(1 if choices.chance(0.6) else len(words), written_size)
    if choices.chance(0.25):
        words.append(choices.one_of(ENDINGS))
    return " ".join(words)


def _thing(name: str, part: str | None, choices: RandomChoices) -> str:
    return choices.one_of((f"{name} {part}", f"{part} for {name}")) if part else name


def _query_text(wanted: Wanted, name: str, choices: RandomChoices) -> str:
    attributes = wanted.attributes
    before = [attributes["brand"].lower()] if "brand" in attributes else []
    if "color" in attributes:
        before.append(choices.one_of(COLORS[attributes["color"]]))
    if "material" in attributes:
        before.append(attributes["material"])
    after: list[str] = []
    if size := attributes.get("size"):
        written = choices.one_of(UNITS[wanted.kind.unit][1]).format(size)
        size = size if choices.chance(0.15) else written
        (before if choices.chance(0.6) else after).append(size)
    thing = _thing(name, wanted.part, choices)
    text = " ".join([*choices.shuffled(before), thing, *after])
    return misspelled(text, choices) if choices.chance(MISSPELLED) else text
