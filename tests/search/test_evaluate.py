import numpy as np
import pytest
import torch
from cases import random_config, random_ragged, random_weights
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from prunetime.arch import ArchSpec
from prunetime.mask import PARTS, rank
from prunetime.models.compact import ordered
from prunetime.models.encoder import from_weights
from prunetime.models.gates import from_mask
from prunetime.runtime.engine import Engine
from prunetime.search.evaluate import ElasticScorer, ScoringRows, agreement
from prunetime.search.space import Space


@pytest.mark.parametrize("outputs", [1, 2, 3])
def test_it_scores_what_gated_torch_scores(outputs):
    rng = np.random.default_rng(0)
    config = random_config(rng, layers=3, outputs=outputs)
    dims, space = config.dims, Space(config.dims, tokens=True)
    weights = random_weights(config, ArchSpec.full(dims), rng)
    widths = dict(zip(PARTS, (dims.heads, dims.hidden, dims.ffn, dims.hidden), strict=True))
    importance = [{part: rng.random(width) for part, width in widths.items()} for _ in range(dims.layers)]
    tokens = random_ragged(config, rng, rng.integers(1, 20, 80))
    rows = ScoringRows(tokens, rng.normal(size=(80, outputs)).astype(np.float32))
    specs = [ArchSpec.full(dims), ArchSpec.floor(dims), *(space.spec(space.random(rng)) for _ in range(6))]

    whole = ordered(weights, importance, dims)
    model = from_weights(config, weights).eval()
    ids, mask, types = (torch.from_numpy(array.astype(np.int64)) for array in tokens.padded(0))
    expected = []
    for spec in specs:
        with torch.no_grad():
            logits = model(ids, mask, types, gates=from_mask(rank(importance, spec))).logits.numpy()
        expected.append(agreement(logits, rows.expected))

    scores = list(ElasticScorer(Engine(config, whole), rows)(specs))
    np.testing.assert_allclose(scores, expected, rtol=1e-4)
    assert len(set(np.round(scores, 6))) > 4


def test_agreement_of_one_logit_is_its_correlation_and_of_two_that_of_the_log_odds():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 50, 1)).astype(np.float32)
    assert agreement(a, b) == pytest.approx(np.corrcoef(a[:, 0], b[:, 0])[0, 1])
    a, b = rng.normal(size=(2, 50, 2)).astype(np.float32)
    odds = a[:, 1] - a[:, 0], b[:, 1] - b[:, 0]
    assert agreement(a, b) == pytest.approx(np.corrcoef(*odds)[0, 1])


@given(
    logits=arrays(np.float32, (7, 3), elements=st.floats(-8, 8, width=32)),
    shift=arrays(np.float32, (7, 1), elements=st.floats(-8, 8, width=32)),
    scale=st.floats(0.1, 10.0),
)
def test_agreement_sees_neither_what_a_softmax_does_not_nor_scale_nor_offset(logits, shift, scale):
    expected = np.random.default_rng(2).normal(size=(7, 3)).astype(np.float32)
    found = agreement(logits, expected)
    assert -1.0 - 1e-9 <= found <= 1.0 + 1e-9
    if np.ptp(logits, axis=0).max() > 0.1:
        assert agreement(logits, logits) == pytest.approx(1.0, abs=1e-6) or found == 0.0
        moved = (np.float32(scale) * (logits + shift) + np.array([1, -2, 3], np.float32)).astype(np.float32)
        assert agreement(moved, expected) == pytest.approx(found, abs=1e-3)


def test_who_says_the_same_of_every_row_agrees_with_nobody():
    constant = np.tile(np.array([[0.1, 0.7]], np.float32), (5, 1))
    assert agreement(constant, np.arange(10, dtype=np.float32).reshape(5, 2)) == 0.0
    assert agreement(constant + 1e-8, constant) == 0.0
