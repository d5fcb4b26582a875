import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunetime.core.arch import BLOCK_SHAPES, ArchSpec, Dims
from prunetime.errors import InputError
from prunetime.search.space import Space


def dims(layers: int = 3, heads: int = 4, ffn: int = 128) -> Dims:
    return Dims(layers=layers, hidden=64, heads=heads, head_dim=16, ffn=ffn, vocabulary=50, positions=32)


sizes = st.builds(dims, st.integers(1, 5), st.integers(1, 6), st.integers(1, 200))
spaces = st.builds(Space, sizes, st.booleans(), st.sampled_from([None, *BLOCK_SHAPES]))


@given(spaces, st.integers(0, 2**32 - 1))
def test_every_genome_is_a_spec_that_fits_and_comes_back(space, seed):
    genome = space.random(np.random.default_rng(seed))
    spec = space.spec(genome)
    spec.check(space.dims)
    assert space.spec(space.genome(spec)) == spec
    back = space.genome(spec)
    assert space.parts(back)[0] == space.parts(genome)[0]
    assert back == genome or space.blocks or any(not layer.has_attention for layer in spec.layers)
    assert len(space.names) == len(set(space.names)) == len(genome)


@given(spaces)
def test_the_highest_levels_are_the_full_encoder_and_zeros_the_floor(space):
    assert space.spec(space.levels) == ArchSpec.full(space.dims)
    assert space.spec((0,) * len(space.levels)) == ArchSpec.floor(space.dims)


def test_tokens_are_kept_in_eighths_by_every_layer_but_the_last():
    space = Space(dims(), tokens=True)
    assert space.levels == (4, 4, 4, 4, 4, 4, 7, 7)
    assert [layer.tokens for layer in space.spec((4, 4, 4, 4, 4, 4, 0, 5)).layers] == [1 / 8, 6 / 8, 1.0]
    without_attention = space.spec((0, 4, 4, 4, 4, 4, 0, 5))
    assert [layer.tokens for layer in without_attention.layers] == [1.0, 6 / 8, 1.0]
    assert space.genome(without_attention) == (0, 4, 4, 4, 4, 4, 7, 5)


def test_blocks_are_kept_in_eighths_by_every_sublayer_that_is_there():
    space = Space(dims(layers=2), tokens=True, blocks=(32, 16))
    assert space.levels == (4, 4, 4, 4, 7, 7, 7, 7, 7)
    spec = space.spec((4, 4, 0, 2, 7, 7, 0, 3, 3))
    assert spec.layers[0].describe_blocks(space.dims) == "ffn_input 2 of 16 32x16, ffn_output 2 of 16 32x16"
    assert [(block.matrix, block.kept) for block in spec.layers[1].blocks] == [
        (name, 4) for name in ("ffn_input", "ffn_output")
    ]
    assert space.genome(spec) == (4, 4, 0, 2, 7, 7, 0, 7, 3)


def test_a_width_that_is_no_multiple_of_the_tile_is_the_last_level():
    space = Space(dims(layers=1, ffn=100))
    assert [space.spec((1, tiles)).layers[0].ffn for tiles in range(5)] == [0, 32, 64, 96, 100]


def test_random_genomes_reach_both_ends_of_every_gene():
    space = Space(dims())
    rng = np.random.default_rng(0)
    genomes = np.array([space.random(rng) for _ in range(300)])
    assert (genomes.min(0) == 0).all()
    assert (genomes.max(0) == space.levels).all()


def test_uniform_genomes_are_every_pair_of_levels_once():
    space = Space(dims(heads=2, ffn=64))
    genomes = list(space.uniform())
    assert len(set(genomes)) == len(genomes) == 3 * 3
    assert all(len(set(pairwise(genome[0::2]))) == 1 for genome in genomes)


def test_uniform_and_depth_genomes_keep_all_tokens_and_blocks():
    space = Space(dims(), tokens=True, blocks=(16, 16))
    genomes = [*space.uniform(), *space.depth(2, limit=10)]
    assert len(genomes) == 5 * 5 + 3
    layers = [layer for genome in genomes for layer in space.spec(genome).layers]
    assert all(layer.tokens == 1.0 and not layer.blocks for layer in layers)


@pytest.mark.parametrize("kept", range(5))
def test_depth_genomes_are_every_choice_of_layers(kept):
    space = Space(dims(layers=4))
    genomes = space.depth(kept, limit=10)
    assert len(set(genomes)) == len(genomes) == math.comb(4, kept)
    for genome in genomes:
        layers = [genome[i : i + 2] for i in range(0, len(genome), 2)]
        assert layers.count(space.levels[:2]) == kept
        assert layers.count((0, 0)) == 4 - kept


def test_too_many_depth_choices_become_the_same_few_every_time():
    space = Space(dims(layers=24))
    genomes = space.depth(12, limit=20)
    assert 10 < len(genomes) <= 20
    assert genomes == Space(dims(layers=24)).depth(12, limit=20)
    assert all(sum(head > 0 for head in genome[0::2]) == 12 for genome in genomes)


@pytest.mark.parametrize("genome", [(5, 0, 0, 0, 0, 0), (0, 5, 0, 0, 0, 0), (-1, 0, 0, 0, 0, 0), (0, 0)])
def test_a_genome_outside_the_levels_is_refused(genome):
    with pytest.raises(InputError, match="outside the space"):
        Space(dims()).spec(genome)


@pytest.mark.parametrize("change", [{"attention_rows": 32}, {"ffn_rows": 32}, {"tokens": 0.5}])
def test_a_spec_with_more_pruned_than_heads_and_ffn_rows_is_refused(change):
    spec = ArchSpec.full(dims()).with_layer(1, **change)
    with pytest.raises(InputError, match="not in the search space"):
        Space(dims()).genome(spec)
