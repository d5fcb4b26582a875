from dataclasses import replace

import numpy as np
import pytest
import torch
from cases import random_config, random_ragged, random_spec, random_weights
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import reference, reference_logits

from prunetime.core.arch import ArchSpec, KeptBlocks
from prunetime.errors import InputError
from prunetime.models.encoder import SequenceClassifier, from_weights, weights_of


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def batch(config, rng, *lengths):
    return tuple(torch.from_numpy(array) for array in random_ragged(config, rng, lengths).padded(0))


def test_weights_round_trip_under_the_engines_names(rng):
    config = random_config(rng, layers=3)
    weights = random_weights(config, random_spec(config, rng, blocks=True), rng)
    assert any(name.endswith(".block_index") for name in weights)
    again = weights_of(from_weights(config, weights))
    assert again.keys() == weights.keys()
    for name, array in weights.items():
        assert again[name].dtype == array.dtype
        np.testing.assert_array_equal(again[name], array)


def test_the_spec_is_read_off_the_weights(rng):
    config = random_config(rng, layers=2, heads=4, head_dim=16, ffn=96)
    spec = ArchSpec.of(config.dims, heads=[3, 0], ffn=[32, 96]).with_layer(1, ffn_rows=32)
    blocks = (KeptBlocks("attention_output", 32, 1, 50), KeptBlocks("ffn_input", 16, 16, 0))
    spec = spec.with_layer(0, blocks=blocks)
    assert from_weights(config, random_weights(config, spec, rng)).spec == spec


def test_fresh_weights_and_dropout_follow_the_seed(rng):
    config = random_config(rng)
    inputs = batch(config, rng, 5, 9)

    def logits(seed):
        torch.manual_seed(seed)
        return SequenceClassifier(config)(*inputs).logits

    torch.testing.assert_close(logits(1), logits(1), rtol=0, atol=0)
    assert (logits(1) - logits(2)).abs().max() > 0


@pytest.mark.parametrize("share", [1.0, 0.6])
def test_padding_and_other_rows_never_reach_a_row(rng, share):
    config = random_config(rng, layers=3)
    spec = ArchSpec.full(config.dims).with_layer(1, tokens=share)
    model = from_weights(config, random_weights(config, spec, rng), spec=spec).eval()
    ragged = random_ragged(config, rng, [5, 30])
    ids, mask, types = (torch.from_numpy(array) for array in ragged.padded(0))
    alone = model(*(tensor[:1, :5] for tensor in (ids, mask, types)))
    padded = model(ids.masked_fill(mask == 0, 7), mask, types)
    torch.testing.assert_close(padded.logits[:1], alone.logits)
    for small, large in zip(alone.hidden_states, padded.hidden_states, strict=True):
        torch.testing.assert_close(large[:1, : small.shape[1]], small)
    assert [state.shape[1] for state in padded.hidden_states] == [30, 30, *[spec.layers[1].tokens_kept(30)] * 2]


def test_token_types_are_zero_by_default(rng):
    config = random_config(rng)
    model = SequenceClassifier(config).eval()
    ids, mask, types = batch(config, rng, 6)
    torch.testing.assert_close(model(ids, mask).logits, model(ids, mask, torch.zeros_like(types)).logits)


def test_every_parameter_is_trained(rng):
    config = random_config(rng, layers=2, outputs=2)
    blocks = (KeptBlocks("query", 16, 16, 1), KeptBlocks("ffn_output", 32, 1, 20))
    spec = ArchSpec.full(config.dims).with_layer(0, heads=1, ffn=32, blocks=blocks, tokens=0.5)
    model = from_weights(config, random_weights(config, spec, rng), spec=spec).eval()
    model(*batch(config, rng, 8, 12)).logits.square().sum().backward()
    for name, parameter in model.named_parameters():
        if not name.endswith(".key.bias"):  # softmax is blind to what it adds to every score
            assert parameter.grad.abs().max() > 1e-8, name


def test_a_sequence_longer_than_the_positions(rng):
    config = random_config(rng, positions=16)
    with pytest.raises(InputError, match="a sequence of 17 tokens; the model has positions for at most 16"):
        SequenceClassifier(config)(*batch(config, rng, 17))


def test_a_spec_that_does_not_fit(rng):
    config = random_config(rng, layers=1, heads=2)
    with pytest.raises(InputError, match="heads is 3"):
        SequenceClassifier(config, ArchSpec.full(config.dims).with_layer(0, heads=3))
    with pytest.raises(InputError, match="layer 0 drops tokens, but the head reads the rows of all tokens"):
        SequenceClassifier(replace(config, rows="tokens"), ArchSpec.full(config.dims).with_layer(0, tokens=0.5))


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), separator=st.booleans())
def test_the_tokens_kept_are_the_references_and_can_be_forced(seed, separator):
    rng = np.random.default_rng(seed)
    config = random_config(rng, layers=3, vocabulary=20, separator=3 if separator else None)
    spec = random_spec(config, rng, blocks=True, tokens=True)
    weights = random_weights(config, spec, rng)
    ragged = random_ragged(config, rng, rng.integers(1, 24, 4))
    ids, mask, types = (torch.from_numpy(array) for array in ragged.padded(3))
    expected = reference(config, weights, ragged, spec)
    model = from_weights(config, weights, spec=spec).eval()
    with torch.no_grad():
        chosen = model.double()(ids, mask, types)
        forced = model.float()(ids, mask, types, kept=chosen.kept)
    np.testing.assert_allclose(chosen.logits, expected.logits, rtol=0, atol=1e-10)
    np.testing.assert_allclose(forced.logits, expected.logits, rtol=0, atol=1e-5)
    for layer, kept, rows in zip(spec.layers, chosen.kept, expected.kept, strict=True):
        assert (kept is None) == (layer.tokens == 1.0)
        if kept is not None:
            assert [row[row >= 0].tolist() for row in kept] == [row.tolist() for row in rows]


def test_any_tokens_can_be_forced(rng):
    config = random_config(rng, layers=2)
    weights = random_weights(config, ArchSpec.full(config.dims), rng)
    ragged = random_ragged(config, rng, [6, 4])
    ids, mask, types = (torch.from_numpy(array) for array in ragged.padded(0))
    kept = [[[0, 1, 3, 5], [0, 2]], [[0, 3], [0, 1]]]
    model = from_weights(config, weights).eval()
    output = model(
        ids, mask, types, kept=[torch.tensor([[0, 1, 3, 5], [0, 2, -1, -1]]), torch.tensor([[0, 3], [0, 1]])]
    )
    expected = reference_logits(config, weights, ragged, kept=kept)
    np.testing.assert_allclose(output.logits.detach(), expected, rtol=0, atol=1e-5)
    assert np.abs(expected - reference_logits(config, weights, ragged)).max() > 1e-3


def test_rows_per_token(rng):
    config = random_config(rng, layers=2, rows="tokens")
    spec = random_spec(config, rng, blocks=True)
    weights = random_weights(config, spec, rng)
    assert not any(name.startswith("head.dense") for name in weights)
    ragged = random_ragged(config, rng, [5, 1, 9])
    ids, mask, types = (torch.from_numpy(array) for array in ragged.padded(0))
    logits = from_weights(config, weights).eval()(ids, mask, types).logits.detach()
    assert logits.shape == (3, 9, config.outputs)
    expected = reference_logits(config, weights, ragged)
    assert expected.shape == (15, config.outputs)
    np.testing.assert_allclose(logits[mask.bool()], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("layers.0.query.bias"), r"tensor layers\.0\.query\.bias \(64,\) is missing"),
        (lambda w: w.update({"layers.7.key.bias": w["head.dense.bias"]}), r"layers\.7\.key\.bias belongs to no part"),
        (lambda w: w.update({"head.dense.bias": w["head.dense.bias"][1:]}), r"is \(63,\), must be \(64,\)"),
        (lambda w: w["layers.0.ffn_rows"].__setitem__(3, 64), "ascending indices from 0 to 63"),
        (lambda w: w["layers.0.ffn_rows"].__setitem__(slice(None), 5), "ascending indices from 0 to 63"),
        (lambda w: w["layers.0.key.block_index"].__setitem__(1, 4), r"layers\.0\.key\.block_index must hold ascending"),
        (lambda w: w.pop("layers.0.key.block_index"), r"layers\.0\.key\.block_index \(2,\) is missing"),
    ],
)
def test_weights_that_do_not_fit(rng, change, message):
    config = random_config(rng, layers=1, heads=4, head_dim=16)
    spec = ArchSpec.full(config.dims).with_layer(0, ffn_rows=32, blocks=(KeptBlocks("key", 32, 32, 2),))
    weights = random_weights(config, spec, rng)
    change(weights)
    with pytest.raises(InputError, match=message):
        from_weights(config, weights)
