import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunetime.core.arch import ArchSpec, Dims
from prunetime.errors import InputError
from prunetime.search.elastic import Sandwich
from prunetime.search.space import TOKEN_LEVELS, Space

DIMS = Dims(layers=4, hidden=64, heads=8, head_dim=8, ffn=512, vocabulary=50, positions=32)
SPACE = Space(DIMS)
DROPPING = Space(DIMS, tokens=True)
IN_BLOCKS = Space(DIMS, blocks=(32, 16))
LENGTH = 24
DENSE = ArchSpec.full(DIMS).flops(DIMS, LENGTH)


def share(spec: ArchSpec) -> float:
    return spec.flops(DIMS, LENGTH) / DENSE


@given(st.sampled_from([SPACE, DROPPING, IN_BLOCKS]), st.floats(0.05, 1.0), st.integers(0, 2**32 - 1))
def test_the_smallest_comes_first_and_the_others_lie_between_it_and_dense(space, smallest, seed):
    first, *others = Sandwich(space, smallest, LENGTH).draw(np.random.default_rng(seed))
    assert len(others) == 2
    assert len(set(first.layers)) == 1
    assert abs(share(first) - smallest) < 0.07
    for spec in others:
        spec.check(DIMS)
        # An eighth of the tokens or blocks is a larger step than a head or a tile.
        assert smallest - (0.07 if space == SPACE else 0.2) < share(spec) <= 1.0


def test_sizes_are_spread_and_layers_uneven():
    rng = np.random.default_rng(0)
    drawn = [spec for _ in range(100) for spec in Sandwich(SPACE, 0.1, LENGTH).draw(rng)[1:]]
    shares = np.array([share(spec) for spec in drawn])
    assert np.quantile(shares, 0.25) < 0.25
    assert np.quantile(shares, 0.75) > 0.45
    assert np.mean([len(set(spec.layers)) > 1 for spec in drawn]) > 0.9
    assert any(not layer.has_attention for spec in drawn for layer in spec.layers)


def test_half_of_those_of_a_space_with_dropped_tokens_keep_all_of_them():
    rng = np.random.default_rng(0)
    drawn = [spec for _ in range(100) for spec in Sandwich(DROPPING, 0.1, LENGTH).draw(rng)[1:]]
    whole = np.mean([all(layer.tokens == 1.0 for layer in spec.layers) for spec in drawn])
    assert 0.4 < whole < 0.7
    assert all(spec.layers[-1].tokens == 1.0 for spec in drawn)
    assert len({layer.tokens for spec in drawn for layer in spec.layers}) == 1 + TOKEN_LEVELS


def test_half_of_those_of_a_space_with_blocks_keep_all_of_them():
    rng = np.random.default_rng(0)
    drawn = [spec for _ in range(100) for spec in Sandwich(IN_BLOCKS, 0.1, LENGTH).draw(rng)[1:]]
    assert 0.4 < np.mean([not any(layer.blocks for layer in spec.layers) for spec in drawn]) < 0.7


def test_it_is_a_function_of_the_generator_and_says_what_it_is():
    sandwich = Sandwich(SPACE, 0.2, LENGTH, random=3)
    assert sandwich.draw(np.random.default_rng(1)) == sandwich.draw(np.random.default_rng(1))
    assert len(sandwich.draw(np.random.default_rng(1))) == 4
    changes = {"space": DROPPING, "smallest": 0.3, "length": 25, "random": 1}
    assert all(repr(dataclasses.replace(sandwich, **{k: v})) != repr(sandwich) for k, v in changes.items())


@pytest.mark.parametrize("change", [{"smallest": 0.0}, {"smallest": 1.5}, {"random": -1}, {"length": 0}])
def test_a_sandwich_of_nothing_is_refused(change):
    with pytest.raises(InputError):
        dataclasses.replace(Sandwich(SPACE, 0.5, LENGTH), **change)
