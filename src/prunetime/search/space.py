"""The architectures a search chooses from, as tuples of integers."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from prunetime.arch import TILE, ArchSpec, Dims
from prunetime.errors import InputError
from prunetime.mask import Scores

Genome = tuple[int, ...]
"""(heads of layer 0, FFN tiles of layer 0, heads of layer 1, FFN tiles of layer 1, ...)."""


@dataclass(frozen=True)
class Genes:
    """What a mutator may know of the genes: `levels`, the highest value of each; what `kind` of thing it counts; its
    `place` in the model, from 0 (first layer) to 1; and for every value of it, [levels + 1] each, what it adds to the
    `cost` and which share of what matters it keeps (`mass`; 1 for all genes together).
    """

    levels: Genome
    kind: tuple[int, ...]
    place: tuple[float, ...]
    cost: tuple[NDArray[np.float64], ...]
    mass: tuple[NDArray[np.float64], ...]


TINY = 1e-300
"""In place of an importance of zero."""

USED = 0.97
"""A genome that uses at least this share of what it may cost is not grown any further."""


class Space:
    """Heads 0..H and FFN rows in tiles for every layer; all output rows kept.

    `levels` [2 x layers] holds the highest value of each gene. A full FFN width that is no multiple of the tile is
    the last level.
    """

    def __init__(self, dims: Dims) -> None:
        self.dims = dims
        self.levels: Genome = (dims.heads, math.ceil(dims.ffn / TILE)) * dims.layers

    def spec(self, genome: Genome) -> ArchSpec:
        """Raises InputError where a gene is outside its levels."""
        if len(genome) != len(self.levels) or not all(
            0 <= gene <= level for gene, level in zip(genome, self.levels, strict=True)
        ):
            raise InputError(f"genome {genome} is outside the space: genes go from 0 to {self.levels}")
        return ArchSpec.of(self.dims, genome[0::2], (min(tiles * TILE, self.dims.ffn) for tiles in genome[1::2]))

    def genome(self, spec: ArchSpec) -> Genome:
        """Raises InputError where the spec is not in this space."""
        genome = tuple(gene for layer in spec.layers for gene in (layer.heads, math.ceil(layer.ffn / TILE)))
        if len(spec.layers) != self.dims.layers or self.spec(genome) != spec:
            raise InputError(
                f"{spec} is not in the search space: it has output rows, blocks or tokens pruned, or partial tiles"
            )
        return genome

    def genes(self, cost: Callable[[Genome], float], scores: Scores) -> Genes:
        """`cost` is that of a genome; what a gene adds to it is taken beside full others.

        `scores` are importance. Once elastic training has had its way, the first heads and rows do most of what all of
        them did, and a part that seemed to matter little matters more: so `mass` is the root of the importance of all
        heads (rows) of a layer, times the fourth root of the share that is kept. On 549 recorded genomes of MiniLM-L6
        on Home Depot these powers order scores best (`bench/results/search_table.jsonl`).
        """
        full, layers = self.levels, range(self.dims.layers)

        def costs(gene: int) -> NDArray[np.float64]:
            values = range(full[gene] + 1)
            each = np.array([cost((*full[:gene], value, *full[gene + 1 :])) for value in values])
            return np.asarray(each - each[0], np.float64)

        def kept(values: NDArray[np.float64], each: int) -> NDArray[np.float64]:
            rising = np.concatenate([[0.0], np.cumsum(np.sort(values)[::-1])])
            return np.asarray(rising[np.minimum(np.arange(0, len(values) + each, each), len(values))], np.float64)

        rising = [part for layer in scores for part in (kept(layer["heads"], 1), kept(layer["ffn"], TILE))]
        mass = [part[-1] ** 0.5 * (part / max(part[-1], TINY)) ** 0.25 for part in rising]
        total = sum(part[-1] for part in mass)
        return Genes(
            full,
            (0, 1) * len(layers),
            tuple(i / max(1, len(layers) - 1) for i in layers for _ in range(2)),
            tuple(costs(gene) for gene in range(len(full))),
            tuple(part / max(total, TINY) for part in mass),
        )

    def random(self, rng: np.random.Generator) -> Genome:
        """Every gene uniform over its levels."""
        return tuple(int(gene) for gene in rng.integers(0, np.array(self.levels) + 1))

    def uniform(self) -> Iterator[Genome]:
        """All layers equal: every pair of levels."""
        heads, tiles = self.levels[:2]
        for pair in product(range(heads + 1), range(tiles + 1)):
            yield pair * self.dims.layers

    def depth(self, kept: int, limit: int) -> list[Genome]:
        """`kept` layers full and the others gone: every choice of layers, or `limit` fixed ones of more than that."""
        layers = range(self.dims.layers)
        if math.comb(len(layers), kept) <= limit:
            choices: Iterable[Collection[int]] = combinations(layers, kept)
        else:
            rng = np.random.default_rng(kept)
            choices = {tuple(np.sort(rng.permutation(len(layers))[:kept]).tolist()) for _ in range(limit)}
        full = self.levels[:2]
        return sorted(tuple(gene for i in layers for gene in (full if i in c else (0, 0))) for c in choices)


def fit_to(
    levels: Genome, cost: Callable[[Genome], float], genome: Genome, most: float, rng: np.random.Generator
) -> tuple[Genome, float] | None:
    """The genome, shrunk and grown at random genes until it costs nearly `most` and no more, and its cost.

    None where even the genome of zeros costs more. Each step lowers a gene, raises one or closes one for good, so it
    ends.
    """
    genes = list(genome)
    costs = cost(genome)
    while costs > most:
        above_zero = [i for i, gene in enumerate(genes) if gene]
        if not above_zero:
            return None
        index = int(rng.choice(above_zero))
        genes[index] -= int(rng.integers(1, genes[index] + 1))
        costs = cost(tuple(genes))
    growing = [i for i, level in enumerate(levels) if genes[i] < level]
    while growing and costs < USED * most:
        index = int(rng.choice(growing))
        before = genes[index]
        genes[index] += int(rng.integers(1, levels[index] - before + 1))
        while genes[index] > before and cost(tuple(genes)) > most:
            genes[index] = before + (genes[index] - before) // 2
        costs = cost(tuple(genes))
        if genes[index] in (before, levels[index]):
            growing.remove(index)
    return tuple(genes), costs
