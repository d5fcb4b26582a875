"""The whole forward pass against float64, and that its bits depend on nothing but the sequence."""

import math

import numpy as np
import pytest
from cases import random_config, random_ragged, random_spec, random_weights, reference_logits
from hypothesis import given, settings
from hypothesis import strategies as st
from rounding import U, assert_within

from prunetime._engine import testing
from prunetime.arch import ArchSpec, LayerSpec
from prunetime.config import EncoderConfig
from prunetime.runtime.engine import Engine, supported_isas
from prunetime.runtime.ragged import Ragged

ISAS = [*supported_isas(), *testing.emulated_isas()]
isas = pytest.mark.parametrize("isa", ISAS)
seeds = st.integers(0, 2**32 - 1)

ODD = {"hidden": 48, "heads": 3, "head_dim": 24, "ffn": 40, "positions": 70}
"""Sizes that are no multiple of anything; heads x head_dim is not hidden."""


@st.composite
def cases(draw, longest=64):
    """(config, weights, ragged) of a random uneven encoder: no heads, no FFN, pruned output rows, any sizes."""
    rng = np.random.default_rng(draw(seeds))
    config = random_config(rng, **(ODD if draw(st.booleans()) else {}))
    if draw(st.booleans()):
        spec = random_spec(config, rng)
    else:
        dims = config.dims
        counts = st.tuples(*(st.integers(0, top) for top in (dims.heads, dims.hidden, dims.ffn, dims.hidden)))
        spec = ArchSpec(tuple(LayerSpec(*draw(counts)) for _ in range(dims.layers)))
    lengths = draw(st.lists(st.integers(1, longest), min_size=1, max_size=9))
    return config, random_weights(config, spec, rng), random_ragged(config, rng, lengths)


def error_bound(config: EncoderConfig, weights, ragged: Ragged) -> float:
    """How far a correct float32 forward pass may be.

    Rounding in a matrix product of inner size k is the same as having moved each weight by a relative gamma(k) at most
    (backward error), and, the roundings being of either sign, by about u sqrt(k) (Higham and Mary, A new approach to
    probabilistic rounding error analysis, 2019). So: measure in float64 how much logits move when every weight moves
    at random by a relative 1e-6, scale that to u sqrt(k) of the widest product, and allow three times it, for the
    functions between the products (softmax, GELU within 2e-6, LayerNorm) and for unlucky signs.
    """
    rng = np.random.default_rng(0)
    exact = reference_logits(config, weights, ragged)
    step = 1e-6

    def moved():
        noisy = {
            name: array if array.dtype == np.int32 else array * (1 + step * rng.standard_normal(array.shape))
            for name, array in weights.items()
        }
        return np.abs(reference_logits(config, noisy, ragged) - exact).max()

    widest = max(array.shape[1] for array in weights.values() if array.ndim == 2)
    return 3 * math.sqrt(widest) * U * max(moved() for _ in range(4)) / step


def check_every_isa(config, weights, ragged):
    exact = reference_logits(config, weights, ragged)
    bound = np.full(exact.shape, error_bound(config, weights, ragged))
    for isa in ISAS:
        assert_within(Engine(config, weights, isa=isa).logits(ragged), exact, bound)


@settings(deadline=None, max_examples=60)
@given(case=cases())
def test_forward_equals_float64(case):
    check_every_isa(*case)


@pytest.mark.parametrize("lengths", [[1], [512], [511, 1, 33], [2] * 300, [100] * 11])
def test_forward_of_long_and_many_sequences(lengths):
    rng = np.random.default_rng(0)
    config = random_config(rng, layers=2, positions=512, vocabulary=50)
    weights = random_weights(config, random_spec(config, rng), rng)
    check_every_isa(config, weights, random_ragged(config, rng, lengths))


@pytest.mark.parametrize("wrong", ["ffn_output", "attention_output", "query", "head.dense"])
def test_one_forgotten_weight_column_is_outside_the_bound(wrong):
    rng = np.random.default_rng(0)
    config = random_config(rng, layers=2)
    weights = random_weights(config, ArchSpec.full(config.dims), rng)
    ragged = random_ragged(config, rng, [5, 30])
    exact = reference_logits(config, weights, ragged)
    name = next(name for name in weights if name.endswith(f"{wrong}.weight"))
    faulty = {**weights, name: weights[name].copy()}
    faulty[name][:, -1] = 0
    bound = np.full(exact.shape, error_bound(config, weights, ragged))
    with pytest.raises(AssertionError, match="times the bound"):
        assert_within(Engine(config, faulty).logits(ragged), exact, bound)


@isas
@settings(deadline=None, max_examples=25)
@given(case=cases(), data=st.data())
def test_bits_do_not_depend_on_batch_order_or_threads(isa, case, data):
    config, weights, ragged = case
    engine = Engine(config, weights, isa=isa)
    together = engine.logits(ragged)
    for row in range(len(ragged)):
        assert np.array_equal(engine.logits(ragged.select([row]))[0], together[row])
    order = data.draw(st.permutations(range(len(ragged))))
    assert np.array_equal(engine.logits(ragged.select(order)), together[order])
    for threads in (2, 3, 4):
        assert np.array_equal(Engine(config, weights, threads, isa).logits(ragged), together)


@isas
def test_bits_do_not_depend_on_chunks(isa):
    """Thousands of tokens: several chunks for each thread, and a sequence longer than a chunk is not special."""
    rng = np.random.default_rng(1)
    config = random_config(rng, layers=2, positions=512, vocabulary=50, **{"heads": 2, "head_dim": 16})
    weights = random_weights(config, ArchSpec.full(config.dims), rng)
    ragged = random_ragged(config, rng, [*rng.integers(1, 90, 60), 512, 300, 1, 1])
    engine = Engine(config, weights, isa=isa)
    alone = np.concatenate([engine.logits(ragged.select([row])) for row in range(len(ragged))])
    for threads in (1, 2, 3, 4):
        assert np.array_equal(Engine(config, weights, threads, isa).logits(ragged), alone)


@isas
def test_an_encoder_with_every_layer_gone_runs(isa):
    rng = np.random.default_rng(2)
    config = random_config(rng)
    weights = random_weights(config, ArchSpec.floor(config.dims), rng)
    ragged = random_ragged(config, rng, [3, 7])
    np.testing.assert_allclose(
        Engine(config, weights, isa=isa).logits(ragged), reference_logits(config, weights, ragged), atol=2e-6
    )


def test_no_sequences_give_no_logits():
    rng = np.random.default_rng(3)
    config = random_config(rng)
    for threads in (1, 2):
        engine = Engine(config, random_weights(config, ArchSpec.full(config.dims), rng), threads)
        assert engine.logits(Ragged.of([])).shape == (0, config.outputs)
