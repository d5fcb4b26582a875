"""The whole forward pass against float64."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from cases import random_config, random_ragged, random_spec, random_weights
from examples import examples
from forward_cases import ISAS, PRECISIONS, Case, cases, expected, isas, kept_by_sequence
from hypothesis import given
from hypothesis import strategies as st
from reference import reference, reference_logits
from rounding import assert_within

from prunetime import _engine
from prunetime.core.arch import ArchSpec
from prunetime.core.config import HeadLayer
from prunetime.core.precision import MatrixPlan, PrecisionPlan
from prunetime.inference.engine import Engine
from prunetime.inference.ragged import Ragged


def check_every_isa(case: Case):
    results = {}
    for isa in ISAS:
        engine = case.engine(isa=isa)
        kept = kept_by_sequence(case, engine)
        attention = "fp32" if case.config.rotary else _engine.narrow_attention(isa)
        key = (attention, *(tuple(tokens) for layer in kept for tokens in layer))
        if key not in results:
            results[key] = expected(case, kept, attention=attention)
        assert_within(engine.logits(case.ragged), *results[key])


@examples(60)
@given(case=cases())
def test_forward_equals_float64(case):
    check_every_isa(case)


def test_a_head_whose_layer_norms_see_no_product_equals_float64():
    """All that the dense layer gives is below 0: what follows are the LayerNorms of constants."""
    rng = np.random.default_rng(0)
    head = (HeadLayer("dense", 145, "relu"), HeadLayer("norm", 145), HeadLayer("norm", 145))
    config = replace(random_config(rng, layers=1), head=head, outputs=145)
    spec = random_spec(config, rng)
    weights = random_weights(config, spec, rng)
    weights["head.layers.0.bias"] -= np.float32(1e3)
    check_every_isa(Case(config, spec, weights, random_ragged(config, rng, [5, 30])))


LENGTHS = ([1], [512], [511, 1, 33], [2] * 300, [100] * 11)
GATED = (*itertools.product(["fp32"], LENGTHS), ("bf16", LENGTHS[1]), ("bf16", LENGTHS[4]), ("int8", LENGTHS[2]))
"""Every batch in fp32, long or many sequences in the others; their other batches are slow, and like these."""


@pytest.mark.parametrize(
    ("precision", "lengths"),
    [
        pytest.param(*case, marks=() if case in GATED else pytest.mark.full)
        for case in itertools.product(PRECISIONS, LENGTHS)
    ],
)
def test_forward_of_long_and_many_sequences(precision, lengths):
    rng = np.random.default_rng(0)
    config = random_config(rng, layers=2, positions=512, vocabulary=50)
    spec = random_spec(config, rng, blocks=True, tokens=True)
    ragged = random_ragged(config, rng, lengths)
    check_every_isa(Case(config, spec, random_weights(config, spec, rng), ragged, PrecisionPlan(MatrixPlan(precision))))


@pytest.mark.parametrize("wrong", ["ffn_output", "attention_output", "query", "head.dense"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_forgotten_weight_columns_are_outside_the_bound(wrong, precision):
    rng = np.random.default_rng(0)
    config = random_config(rng, layers=2)
    spec = ArchSpec.full(config.dims)
    weights = random_weights(config, spec, rng)
    case = Case(config, spec, weights, random_ragged(config, rng, [5, 30]), PrecisionPlan(MatrixPlan(precision)))
    name = next(name for name in weights if name.endswith(f"{wrong}.weight"))
    faulty = {**weights, name: weights[name].copy()}
    faulty[name][:, -{"fp32": 1, "bf16": 8, "int8": 24}[precision] :] = 0
    engine = replace(case, weights=faulty).engine()
    right = expected(case, attention=_engine.narrow_attention(engine.isa))
    with pytest.raises(AssertionError, match="times the bound"):
        assert_within(engine.logits(case.ragged), *right)


@isas
@examples(60)
@given(case=cases(head_rows=st.just("pooled")))
def test_the_most_attended_tokens_are_kept(isa, case):
    case = replace(case, plan=PrecisionPlan())
    kept = kept_by_sequence(case, case.engine(isa=isa))
    right = reference(case.config, case.weights, case.ragged, case.spec, kept)
    last = max((i for i, layer in enumerate(case.spec.layers) if layer.has_attention), default=-1)
    for layer in range(last):
        for row in range(len(case.ragged)):
            assert_most_attended(right.received[layer][row], kept[layer][row], case, layer)


def assert_most_attended(score, kept, case, layer):
    """`kept` are as many as the spec says, the first token among them, and nothing left out was attended to more."""
    assert len(kept) == case.spec.layers[layer].tokens_kept(len(score))
    assert kept[0] == 0
    left_out = np.setdiff1d(np.arange(len(score)), kept)
    if len(left_out):
        assert score[left_out].max() <= score[kept].min() + 1e-5 * len(score)


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
