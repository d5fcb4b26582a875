from itertools import pairwise

import numpy as np
import pytest
import torch
from cases import random_config, random_ragged, random_weights
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from masked import from_mask

from prunetime.core.arch import ArchSpec
from prunetime.core.mask import PARTS, rank
from prunetime.core.task import Task
from prunetime.errors import EngineError
from prunetime.inference.engine import Engine
from prunetime.models.batches import TrainingData
from prunetime.models.compact import compact, ordered, prefix_mask
from prunetime.models.encoder import from_weights
from prunetime.pruning.prefix_repair import PrefixRepair
from prunetime.search.evaluate import Elastic, ElasticScorer, ScoringRows, agreement, cacheable_prefixes
from prunetime.search.space import Space


@pytest.mark.parametrize(("outputs", "blocks"), [(1, None), (2, None), (3, None), (1, (16, 16)), (2, (32, 1))])
def test_it_scores_what_gated_torch_scores(outputs, blocks):
    rng = np.random.default_rng(0)
    config = random_config(rng, layers=3, outputs=outputs)
    dims, space = config.dims, Space(config.dims, tokens=True, blocks=blocks)
    weights = random_weights(config, ArchSpec.full(dims), rng)
    widths = dict(zip(PARTS, (dims.heads, dims.hidden, dims.ffn, dims.hidden), strict=True))
    importance = [{part: rng.random(width) for part, width in widths.items()} for _ in range(dims.layers)]
    tokens = random_ragged(config, rng, rng.integers(1, 20, 80))
    rows = ScoringRows(tokens, rng.normal(size=(80, outputs)).astype(np.float32))
    specs = [ArchSpec.full(dims), ArchSpec.floor(dims), *(space.spec(space.random(rng)) for _ in range(6))]

    whole = ordered(weights, importance, dims)
    model = from_weights(config, whole if blocks else weights).eval()
    ids, mask, types = (torch.from_numpy(array.astype(np.int64)) for array in tokens.padded(0))
    expected = []
    for spec in specs:
        with torch.no_grad():
            kept = prefix_mask(whole, spec, dims) if blocks else rank(importance, spec)
            logits = model(ids, mask, types, mask_variables=from_mask(kept)).logits.numpy()
        expected.append(agreement(logits, rows.expected))

    scores = list(ElasticScorer(Elastic(config, whole), rows)(specs))
    np.testing.assert_allclose(scores, expected, rtol=1e-4)
    assert len(set(np.round(scores, 6))) > 4


@examples(15)
@given(seed=st.integers(0, 2**31), most=st.sampled_from([0, 1, 2, 5, 1000]))
def test_what_a_candidate_shares_with_another_changes_no_bit_of_its_score(seed, most):
    rng = np.random.default_rng(seed)
    config = random_config(rng, layers=4)
    dims, space = config.dims, Space(config.dims, tokens=config.rows == "pooled")
    elastic = Elastic(config, random_weights(config, ArchSpec.full(dims), rng))
    tokens = random_ragged(config, rng, [3, 9, 1, 17])
    rows = ScoringRows(tokens, rng.normal(size=elastic.engine.logits(tokens).shape).astype(np.float32))
    genomes = [space.random(rng), space.levels]
    for _ in range(20):  # mutation of one gene: most layers are another candidate's
        genome = list(genomes[rng.integers(len(genomes))])
        gene = int(rng.integers(len(genome)))
        genome[gene] = int(rng.integers(space.levels[gene] + 1))
        genomes.append(tuple(genome))
    specs = [space.spec(genome) for genome in genomes]
    shared = ElasticScorer(elastic, rows, most * 4 * tokens.ids.size * dims.hidden)
    assert list(shared(specs)) == [next(ElasticScorer(elastic, rows, 0)([spec])) for spec in specs]
    assert list(shared(specs[:3])) == [next(ElasticScorer(elastic, rows, 0)([spec])) for spec in specs[:3]]


def test_sub_networks_that_are_repaired_agree_more_with_the_whole():
    """Scores are those of torch on the repaired weights, and layers are shared without changing a bit."""
    rng = np.random.default_rng(0)
    config = random_config(rng, layers=4, heads=4, head_dim=16, ffn=128, rows="pooled", outputs=2)
    dims, weights = config.dims, random_weights(config, ArchSpec.full(config.dims), rng)
    task = Task("classification", ("bad", "good"), ("text",), 32)
    train = TrainingData(random_ragged(config, rng, rng.integers(2, 20, 80)), rng.integers(0, 2, 80), task, 0)
    repair = PrefixRepair.of(from_weights(config, weights), train)
    tokens = random_ragged(config, rng, rng.integers(2, 20, 80))
    rows = ScoringRows(tokens, Engine(config, weights).logits(tokens))
    specs = [
        ArchSpec.of(dims, [3, heads, 2, 2], [96, 64, 64, neurons]) for heads in (2, 3, 0) for neurons in (64, 96, 0)
    ]
    elastic = Elastic(config, weights, repair=repair)
    scores = list(ElasticScorer(elastic, rows)(specs))
    inputs = [torch.from_numpy(array.astype(np.int64)) for array in tokens.padded(0)]
    for spec, score in zip(specs, scores, strict=True):
        part = repair.applied(compact(weights, prefix_mask(weights, spec, dims), dims))
        with torch.no_grad():
            logits = from_weights(config, part, spec=spec).eval()(*inputs).logits.numpy()
        assert score == pytest.approx(agreement(logits, rows.expected), rel=1e-4)
    assert scores == [next(ElasticScorer(elastic, rows, 0)([spec])) for spec in specs]
    plain = list(ElasticScorer(Elastic(config, weights), rows)(specs))
    assert np.mean(scores) > np.mean(plain) + 0.1


def test_layers_are_shared_up_to_the_last_attention_and_the_first_dropped_token():
    dims = random_config(np.random.default_rng(0), layers=4).dims
    whole = ArchSpec.full(dims)
    assert [len(prefix) for prefix in cacheable_prefixes(whole)] == [1, 2, 3]
    assert [len(prefix) for prefix in cacheable_prefixes(whole.with_layer(3, heads=0))] == [1, 2]
    assert [len(prefix) for prefix in cacheable_prefixes(whole.with_layer(1, tokens=0.5))] == [1]
    assert cacheable_prefixes(whole.with_layer(0, tokens=0.5)) == cacheable_prefixes(ArchSpec.floor(dims)) == []


def test_a_candidate_that_shares_layers_runs_the_others_only(monkeypatch):
    rng = np.random.default_rng(0)
    config = random_config(rng, layers=8, heads=4, ffn=128, outputs=1, rows="pooled")
    whole = ArchSpec.full(config.dims)
    tokens = random_ragged(config, rng, [4, 4])
    rows = ScoringRows(tokens, rng.normal(size=(2, 1)).astype(np.float32))
    elastic = Elastic(config, random_weights(config, whole, rng))
    scorer = ElasticScorer(elastic, rows)
    begun_at, logits_between = [], Engine.logits_between

    def watched(engine, batch, start, leave):
        begun_at.append(start[0] if start else 0)
        return logits_between(engine, batch, start, leave)

    monkeypatch.setattr(Engine, "logits_between", watched)
    for heads in (1, 2, 3, 4, 1):
        changed = whole.with_layer(0, heads=heads, ffn=32 * heads)
        for spec in (changed, changed.with_layer(7, ffn=32)):
            list(scorer([spec]))
    assert begun_at == [0, 7] * 4 + [7, 7]


def test_a_pass_that_failed_leaves_no_state():
    rng = np.random.default_rng(0)
    config = random_config(rng, layers=3, rows="pooled", outputs=1)
    elastic = Elastic(config, random_weights(config, ArchSpec.full(config.dims), rng))
    tokens = random_ragged(config, rng, [4, 4])
    rows = ScoringRows(tokens, rng.normal(size=(2, 1)).astype(np.float32))
    expected = list(ElasticScorer(elastic, rows)([ArchSpec.full(config.dims)]))
    scorer, offsets = ElasticScorer(elastic, rows), tokens.offsets.copy()
    tokens.offsets[1] = 99
    with pytest.raises(EngineError):
        list(scorer([ArchSpec.full(config.dims)]))
    tokens.offsets[:] = offsets
    assert list(scorer([ArchSpec.full(config.dims)])) == expected


def test_agreement_of_one_logit_is_its_correlation_and_of_two_that_of_the_log_odds():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 50, 1)).astype(np.float32)
    assert agreement(a, b) == pytest.approx(np.corrcoef(a[:, 0], b[:, 0])[0, 1])
    a, b = rng.normal(size=(2, 50, 2)).astype(np.float32)
    odds = a[:, 1] - a[:, 0], b[:, 1] - b[:, 0]
    assert agreement(a, b) == pytest.approx(np.corrcoef(*odds)[0, 1])


def test_agreement_of_several_labels_sees_what_all_logits_of_a_row_have_in_common():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 50, 3)).astype(np.float32)
    centred = [(x - x.mean(axis=0)).ravel() for x in (a, b)]
    assert agreement(a, b, choice="yes-no") == pytest.approx(np.corrcoef(*centred)[0, 1])
    shift = rng.normal(0, 3, (50, 1)).astype(np.float32)  # texts that have many labels, and texts that have few
    assert agreement(a + shift, a) == pytest.approx(1.0)
    assert agreement(a + shift, a, choice="yes-no") < 0.6
    config = random_config(rng, outputs=3)
    elastic = Elastic(config, random_weights(config, ArchSpec.full(config.dims), rng))
    tokens = random_ragged(config, rng, [4, 9, 7, 5])
    logits = elastic.engine.logits(tokens)
    rows = ScoringRows(tokens, logits + shift[:4], "yes-no")
    (found,) = ElasticScorer(elastic, rows)([ArchSpec.full(config.dims)])
    assert found == pytest.approx(agreement(logits, rows.expected, choice="yes-no"))
    assert found < 0.99


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


@given(seed=st.integers(0, 2**31), scale=st.floats(0.1, 10.0))
def test_agreement_of_rows_per_token_sees_what_a_softmax_over_the_tokens_of_a_sequence_does(seed, scale):
    rng = np.random.default_rng(seed)
    offsets = np.array([0, 4, 5, 14], np.int32)
    logits, expected = rng.normal(size=(2, 14, 2)).astype(np.float32)
    shift = np.repeat(rng.normal(0, 9, (3, 2)), np.diff(offsets), axis=0).astype(np.float32)
    found = agreement(logits, expected, offsets)
    assert agreement(np.float32(scale) * logits + shift, expected, offsets) == pytest.approx(found, abs=1e-4)
    assert agreement(logits, logits + shift, offsets) == pytest.approx(1.0, abs=1e-5)
    assert agreement(logits, -logits, offsets) == pytest.approx(-1.0)
    a, b = (np.concatenate([x[i:j] - x[i:j].mean(0) for i, j in pairwise(offsets)]) for x in (logits, expected))
    assert found == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1], abs=1e-5)


def test_a_scorer_of_rows_per_token_compares_within_sequences():
    rng = np.random.default_rng(3)
    config = random_config(rng, layers=2, outputs=2, rows="tokens")
    whole = ArchSpec.full(config.dims)
    elastic = Elastic(config, random_weights(config, whole, rng))
    tokens = random_ragged(config, rng, [7, 3, 12])
    shift = np.repeat([[50, 0], [0, 50], [-50, 50]], tokens.lengths, axis=0).astype(np.float32)
    rows = ScoringRows(tokens, elastic.engine.logits(tokens) + shift, choice="tokens")
    assert list(ElasticScorer(elastic, rows)([whole])) == [pytest.approx(1.0, abs=1e-4)]


def test_who_says_the_same_of_every_row_agrees_with_nobody():
    constant = np.tile(np.array([[0.1, 0.7]], np.float32), (5, 1))
    assert agreement(constant, np.arange(10, dtype=np.float32).reshape(5, 2)) == 0.0
    assert agreement(constant + 1e-8, constant) == 0.0
