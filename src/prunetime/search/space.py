"""The architectures a search chooses from, as tuples of integers."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, product

import numpy as np

from prunetime.core.arch import ATTENTION_MATRICES, FFN_MATRICES, TILE, ArchSpec, BlockShape, Dims, LayerSpec
from prunetime.core.arrays import Float64Array
from prunetime.core.mask import Scores
from prunetime.errors import InputError

Genome = tuple[int, ...]
"""(heads of layer 0, FFN tiles of layer 0, heads of layer 1, FFN tiles of layer 1, ...); in a space with dropped tokens
the level of kept tokens of every layer but the last; and in one with blocks the levels of kept blocks of attention and
FFN of every layer, as the widths."""

TOKEN_LEVELS = 7
"""A layer keeps (1 + level) eighths of the tokens that come in."""

BLOCK_LEVELS = 7
"""A sub-layer keeps (1 + level) eighths of the blocks of its matrices; at the highest level they are dense."""

SUBLAYERS = (ATTENTION_MATRICES, FFN_MATRICES)
"""Their matrices, in the order of a layer's genes."""


@dataclass(frozen=True)
class Genes:
    """The features of the genes that a mutator may read.

    Attributes:
        levels: the highest value of each gene.
        kind: a number for what the gene counts (heads, FFN tiles, tokens, blocks).
        place: of its layer in the model, from 0 (first layer) to 1.
        cost: for every value of the gene [levels + 1], what it adds to the cost.
        mass: for every value of the gene [levels + 1], the share of all importance that it keeps.
    """

    levels: Genome
    kind: tuple[int, ...]
    place: tuple[float, ...]
    cost: tuple[Float64Array, ...]
    mass: tuple[Float64Array, ...]


TINY = 1e-300
"""In place of an importance of zero."""

USED = 0.97
"""A genome that uses at least this share of what it may cost is not grown any further."""


@dataclass(frozen=True)
class Space:
    """The search space of an encoder: for every layer heads 0..H and FFN rows in tiles, and all output rows.

    With `tokens`, every layer but the last also has the share of tokens that it keeps; with `blocks` (rows and columns
    of one), every sub-layer has the share of blocks that it keeps.

    A full FFN width that is no multiple of the tile is the last level. The head reads what the last layer leaves, so
    that dropping tokens there saves nothing.
    """

    dims: Dims
    tokens: bool = False
    blocks: BlockShape | None = None

    @cached_property
    def levels(self) -> Genome:
        """The highest value of each gene."""
        widths = (self.dims.heads, math.ceil(self.dims.ffn / TILE)) * self.dims.layers
        tokens = (TOKEN_LEVELS,) * (self.dims.layers - 1) * self.tokens
        return widths + tokens + (BLOCK_LEVELS,) * 2 * self.dims.layers * (self.blocks is not None)

    def parts(self, genome: Genome) -> tuple[Genome, Genome, Genome]:
        """The genes of widths, of tokens and of blocks."""
        widths = 2 * self.dims.layers
        tokens = widths + (self.dims.layers - 1) * self.tokens
        return genome[:widths], genome[widths:tokens], genome[tokens:]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the genes, such as `layer 0 heads`."""
        layers, (_, of_tokens, of_blocks) = range(self.dims.layers), self.parts(self.levels)
        widths = [f"layer {layer} {part}" for layer in layers for part in ("heads", "FFN")]
        tokens = [f"layer {layer} tokens" for layer in layers]
        blocks = [f"layer {layer} {part} blocks" for layer in layers for part in ("attention", "FFN")]
        return (*widths, *tokens[: len(of_tokens)], *blocks[: len(of_blocks)])

    def spec(self, genome: Genome) -> ArchSpec:
        """Returns the structure of a genome.

        A layer without attention to choose by keeps all tokens, and a sub-layer that is gone has no blocks.

        Raises InputError where a gene is outside its levels.
        """
        if len(genome) != len(self.levels) or not all(
            0 <= gene <= level for gene, level in zip(genome, self.levels, strict=True)
        ):
            raise InputError(f"genome {genome} is outside the space: genes go from 0 to {self.levels}")
        of_widths, of_tokens, of_blocks = self.parts(genome)
        spec = ArchSpec.of(self.dims, of_widths[0::2], (min(t * TILE, self.dims.ffn) for t in of_widths[1::2]))
        for index, level in enumerate(of_tokens):
            if spec.layers[index].has_attention:
                spec = spec.with_layer(index, tokens=(1 + level) / (1 + TOKEN_LEVELS))
        for gene, level in enumerate(of_blocks):
            layer = self._with_blocks(spec.layers[gene // 2], gene % 2, level)
            spec = spec.with_layer(gene // 2, blocks=layer.blocks)
        return spec

    def _with_blocks(self, layer: LayerSpec, sublayer: int, level: int) -> LayerSpec:
        if self.blocks is None or level == BLOCK_LEVELS:
            return layer
        return layer.in_blocks(self.dims, self.blocks, lambda _: (1 + level) / (1 + BLOCK_LEVELS), SUBLAYERS[sublayer])

    def _block_level(self, layer: LayerSpec, sublayer: int) -> int:
        """Returns the highest level with the blocks of `layer`; the highest of all where no level has them."""
        wanted = [block for block in layer.blocks if block.matrix in SUBLAYERS[sublayer]]
        levels = range(BLOCK_LEVELS, -1, -1)
        bare = replace(layer, blocks=())
        found = (level for level in levels if list(self._with_blocks(bare, sublayer, level).blocks) == wanted)
        return next(found, BLOCK_LEVELS)

    def genome(self, spec: ArchSpec) -> Genome:
        """Returns the genome of `spec`; raises InputError where the spec is not in this space."""
        widths = _widths(spec)
        kept = [round(layer.tokens * (1 + TOKEN_LEVELS)) - 1 for layer in spec.layers[:-1]]
        genome = (*widths, *kept) if self.tokens else widths
        if self.blocks:
            genome += tuple(self._block_level(layer, sublayer) for layer in spec.layers for sublayer in range(2))
        if len(spec.layers) != self.dims.layers or self.spec(genome) != spec:
            raise InputError(
                f"{spec} is not in the search space: it has output rows, blocks or tokens pruned, or partial tiles"
            )
        return genome

    def widened(self, spec: ArchSpec) -> Genome:
        """The genome of the heads and FFN rows of `spec`, with everything else kept."""
        widths = _widths(spec)
        return widths + self.levels[len(widths) :]

    def genes(self, cost: Callable[[Genome], float], scores: Scores) -> Genes:
        """Returns the features of the genes; a gene's cost is what it adds to the `cost` of an otherwise full genome.

        `scores` are importance. Once elastic training has had its way, the first heads and rows do most of what all of
        them did, and a part that seemed to matter little matters more: so `mass` is the root of the importance of all
        heads (rows) of a layer, times the fourth root of the share that is kept. On 549 recorded genomes of MiniLM-L6
        on Home Depot these powers order scores best (`bench/results/search_table.jsonl`). Of tokens and blocks the same
        power is kept; all tokens of a layer matter as much as an average part does, all blocks as what they are of.
        """
        full, layers = self.levels, range(self.dims.layers)

        def costs(gene: int) -> Float64Array:
            values = range(full[gene] + 1)
            each = np.array([cost((*full[:gene], value, *full[gene + 1 :])) for value in values])
            return np.asarray(each - each[0], np.float64)

        def kept(values: Float64Array, each: int) -> Float64Array:
            rising = np.concatenate([[0.0], np.cumsum(np.sort(values)[::-1])])
            return np.asarray(rising[np.minimum(np.arange(0, len(values) + each, each), len(values))], np.float64)

        rising = [part for layer in scores for part in (kept(layer["heads"], 1), kept(layer["ffn"], TILE))]
        mass = [part[-1] ** 0.5 * (part / max(part[-1], TINY)) ** 0.25 for part in rising]
        _, of_tokens, of_blocks = self.parts(full)
        of_eighths = (np.arange(1, 9) / 8) ** 0.25
        whole = [part[-1] for part in mass]
        mass += [np.mean(whole) * of_eighths] * len(of_tokens)
        mass += [part * of_eighths for part in whole[: len(of_blocks)]]
        total = sum(part[-1] for part in mass)
        place = [i / max(1, len(layers) - 1) for i in layers]
        of_sublayers = [at for at in place for _ in SUBLAYERS]
        return Genes(
            full,
            (0, 1) * len(layers) + (2,) * len(of_tokens) + (3, 4) * (len(of_blocks) // 2),
            (*of_sublayers, *place[: len(of_tokens)], *of_sublayers[: len(of_blocks)]),
            tuple(costs(gene) for gene in range(len(full))),
            tuple(part / max(total, TINY) for part in mass),
        )

    def random(self, rng: np.random.Generator) -> Genome:
        """Draws every gene uniformly from its levels."""
        return tuple(int(gene) for gene in rng.integers(0, np.array(self.levels) + 1))

    def uniform(self) -> Iterator[Genome]:
        """Yields the genomes with equal layers, and all tokens and blocks: one for every pair of levels."""
        heads, tiles = self.levels[:2]
        for pair in product(range(heads + 1), range(tiles + 1)):
            yield pair * self.dims.layers + self.levels[2 * self.dims.layers :]

    def depth(self, kept: int, limit: int) -> list[Genome]:
        """Returns the genomes with `kept` layers full and the others gone: all of them, or a fixed `limit` of more."""
        layers = range(self.dims.layers)
        if math.comb(len(layers), kept) <= limit:
            choices: Iterable[Collection[int]] = combinations(layers, kept)
        else:
            rng = np.random.default_rng(kept)
            choices = {tuple(np.sort(rng.permutation(len(layers))[:kept]).tolist()) for _ in range(limit)}
        full, rest = self.levels[:2], self.levels[2 * len(layers) :]
        return sorted((*(gene for i in layers for gene in (full if i in c else (0, 0))), *rest) for c in choices)


def _widths(spec: ArchSpec) -> Genome:
    return tuple(gene for layer in spec.layers for gene in (layer.heads, math.ceil(layer.ffn / TILE)))


def fit_to(
    levels: Genome, cost: Callable[[Genome], float], genome: Genome, most: float, rng: np.random.Generator
) -> tuple[Genome, float] | None:
    """Shrinks and grows a genome at random genes until it costs nearly `most` and no more; returns it and its cost.

    Returns None where even the genome of zeros costs more. Each step lowers, raises or closes a gene, so it ends.
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
