"""The architectures a search chooses from, as tuples of integers."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from prunetime.arch import TILE, ArchSpec, Dims
from prunetime.errors import InputError
from prunetime.mask import Scores

Genome = tuple[int, ...]
"""(heads of layer 0, FFN tiles of layer 0, heads of layer 1, FFN tiles of layer 1, ...) and, in a space with dropped
tokens, the level of kept tokens of every layer but the last."""

TOKEN_LEVELS = 7
"""A layer keeps (1 + level) eighths of the tokens that come in."""


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


@dataclass(frozen=True)
class Space:
    """Heads 0..H and FFN rows in tiles for every layer, and with `tokens` the share of tokens that every layer but the
    last keeps; all output rows kept.

    A full FFN width that is no multiple of the tile is the last level. The head reads what the last layer leaves, so
    that dropping tokens there saves nothing.
    """

    dims: Dims
    tokens: bool = False

    @cached_property
    def levels(self) -> Genome:
        """The highest value of each gene."""
        widths = (self.dims.heads, math.ceil(self.dims.ffn / TILE)) * self.dims.layers
        return widths + (TOKEN_LEVELS,) * (self.dims.layers - 1) * self.tokens

    def spec(self, genome: Genome) -> ArchSpec:
        """Where a layer has no attention to choose by, all tokens stay, whatever the gene says.

        Raises InputError where a gene is outside its levels.
        """
        if len(genome) != len(self.levels) or not all(
            0 <= gene <= level for gene, level in zip(genome, self.levels, strict=True)
        ):
            raise InputError(f"genome {genome} is outside the space: genes go from 0 to {self.levels}")
        of_widths, of_tokens = genome[: 2 * self.dims.layers], genome[2 * self.dims.layers :]
        spec = ArchSpec.of(self.dims, of_widths[0::2], (min(t * TILE, self.dims.ffn) for t in of_widths[1::2]))
        for index, level in enumerate(of_tokens):
            if spec.layers[index].has_attention:
                spec = spec.with_layer(index, tokens=(1 + level) / (1 + TOKEN_LEVELS))
        return spec

    def genome(self, spec: ArchSpec) -> Genome:
        """Raises InputError where the spec is not in this space."""
        widths = tuple(gene for layer in spec.layers for gene in (layer.heads, math.ceil(layer.ffn / TILE)))
        kept = [round(layer.tokens * (1 + TOKEN_LEVELS)) - 1 for layer in spec.layers[:-1]]
        genome = (*widths, *kept) if self.tokens else widths
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
        on Home Depot these powers order scores best (`bench/results/search_table.jsonl`). Of tokens the same power is
        kept; all tokens of a layer matter as much as an average part does.
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
        shares = np.arange(1, 2 + TOKEN_LEVELS) / (1 + TOKEN_LEVELS)
        of_tokens = full[2 * len(layers) :]
        mass += [np.mean([part[-1] for part in mass]) * shares**0.25] * len(of_tokens)
        total = sum(part[-1] for part in mass)
        place = [i / max(1, len(layers) - 1) for i in layers]
        return Genes(
            full,
            (0, 1) * len(layers) + (2,) * len(of_tokens),
            (*(at for at in place for _ in range(2)), *place[: len(of_tokens)]),
            tuple(costs(gene) for gene in range(len(full))),
            tuple(part / max(total, TINY) for part in mass),
        )

    def random(self, rng: np.random.Generator) -> Genome:
        """Every gene uniform over its levels."""
        return tuple(int(gene) for gene in rng.integers(0, np.array(self.levels) + 1))

    def uniform(self) -> Iterator[Genome]:
        """All layers equal and all tokens kept: every pair of levels."""
        heads, tiles = self.levels[:2]
        for pair in product(range(heads + 1), range(tiles + 1)):
            yield pair * self.dims.layers + self.levels[2 * self.dims.layers :]

    def depth(self, kept: int, limit: int) -> list[Genome]:
        """`kept` layers full and the others gone: every choice of layers, or `limit` fixed ones of more than that."""
        layers = range(self.dims.layers)
        if math.comb(len(layers), kept) <= limit:
            choices: Iterable[Collection[int]] = combinations(layers, kept)
        else:
            rng = np.random.default_rng(kept)
            choices = {tuple(np.sort(rng.permutation(len(layers))[:kept]).tolist()) for _ in range(limit)}
        full, tokens = self.levels[:2], self.levels[2 * len(layers) :]
        return sorted((*(gene for i in layers for gene in (full if i in c else (0, 0))), *tokens) for c in choices)


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
