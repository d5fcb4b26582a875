import numpy as np
import pytest
import torch
from cases import random_config, random_ragged, random_spec, random_weights

from prunetime.arch import ArchSpec
from prunetime.errors import InputError
from prunetime.mask import BlockMask, LayerMask, Mask
from prunetime.models.encoder import SequenceClassifier, from_weights, weights_of


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def batch(config, rng, *lengths):
    return tuple(torch.from_numpy(array) for array in random_ragged(config, rng, lengths).padded(0))


def test_weights_round_trip_under_the_engines_names(rng):
    config = random_config(rng, layers=3)
    weights = random_weights(config, random_spec(config, rng), rng)
    again = weights_of(from_weights(config, weights))
    assert again.keys() == weights.keys()
    for name, array in weights.items():
        assert again[name].dtype == array.dtype
        np.testing.assert_array_equal(again[name], array)


def test_the_spec_is_read_off_the_weights(rng):
    config = random_config(rng, layers=2, heads=4, head_dim=16, ffn=96)
    spec = ArchSpec.of(config.dims, heads=[3, 0], ffn=[32, 96]).with_layer(1, ffn_rows=32)
    assert from_weights(config, random_weights(config, spec, rng)).spec == spec


def test_fresh_weights_and_dropout_follow_the_seed(rng):
    config = random_config(rng)
    inputs = batch(config, rng, 5, 9)

    def logits(seed):
        torch.manual_seed(seed)
        return SequenceClassifier(config)(*inputs).logits

    torch.testing.assert_close(logits(1), logits(1), rtol=0, atol=0)
    assert (logits(1) - logits(2)).abs().max() > 0


def test_padding_and_other_rows_never_reach_a_row(rng):
    config = random_config(rng, layers=3)
    model = from_weights(config, random_weights(config, ArchSpec.full(config.dims), rng)).eval()
    ragged = random_ragged(config, rng, [5, 30])
    ids, mask, types = (torch.from_numpy(array) for array in ragged.padded(0))
    alone = model(*(tensor[:1, :5] for tensor in (ids, mask, types)))
    padded = model(ids.masked_fill(mask == 0, 7), mask, types)
    torch.testing.assert_close(padded.logits[:1], alone.logits)
    for small, large in zip(alone.hidden_states, padded.hidden_states, strict=True):
        torch.testing.assert_close(large[:1, :5], small)


def test_token_types_are_zero_by_default(rng):
    config = random_config(rng)
    model = SequenceClassifier(config).eval()
    ids, mask, types = batch(config, rng, 6)
    torch.testing.assert_close(model(ids, mask).logits, model(ids, mask, torch.zeros_like(types)).logits)


def test_every_parameter_is_trained(rng):
    config = random_config(rng, layers=2, outputs=2)
    spec = ArchSpec.full(config.dims).with_layer(0, heads=1, ffn=32)
    model = from_weights(config, random_weights(config, spec, rng)).eval()
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
    full = Mask.full(config.dims).layers[0]
    blocks = {"value": BlockMask(16, 16, np.ones((config.dims.hidden // 16,) * 2, np.bool_))}
    mask = Mask((LayerMask(full.heads, full.attention_rows, full.ffn, full.ffn_rows, blocks),))
    with pytest.raises(InputError, match="layer 0 prunes blocks of value"):
        SequenceClassifier(config, mask.spec())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("layers.0.query.bias"), r"tensor layers\.0\.query\.bias \(64,\) is missing"),
        (lambda w: w.update({"layers.7.key.bias": w["head.dense.bias"]}), r"layers\.7\.key\.bias belongs to no part"),
        (lambda w: w.update({"head.dense.bias": w["head.dense.bias"][1:]}), r"is \(63,\), must be \(64,\)"),
        (lambda w: w["layers.0.ffn_rows"].__setitem__(3, 64), "ascending indices from 0 to 63"),
        (lambda w: w["layers.0.ffn_rows"].__setitem__(slice(None), 5), "ascending indices from 0 to 63"),
    ],
)
def test_weights_that_do_not_fit(rng, change, message):
    config = random_config(rng, layers=1, heads=4, head_dim=16)
    weights = random_weights(config, ArchSpec.full(config.dims).with_layer(0, ffn_rows=32), rng)
    change(weights)
    with pytest.raises(InputError, match=message):
        from_weights(config, weights)
