from dataclasses import replace

import numpy as np
import pytest
import torch
from cases import random_config, random_mask, random_ragged, random_weights
from masked import from_mask
from torch.nn import functional

from prunetime.core.arch import ArchSpec
from prunetime.core.mask import PARTS, Mask
from prunetime.errors import InputError
from prunetime.models import mask_variables
from prunetime.models.encoder import SequenceClassifier, from_weights


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.fixture
def config(rng):
    return random_config(rng, layers=2, heads=4, head_dim=16, outputs=3)


@pytest.fixture
def model(config, rng):
    return from_weights(config, random_weights(config, ArchSpec.full(config.dims), rng)).eval().double()


@pytest.fixture
def batch(config, rng):
    return tuple(torch.from_numpy(array) for array in random_ragged(config, rng, [4, 11, 7]).padded(0))


def doubles(layers):
    return [
        mask_variables.MaskVariables(
            **{name: getattr(layer, name).detach().double().requires_grad_() for name in PARTS}
        )
        for layer in layers
    ]


def tensors(layers):
    return [getattr(layer, name) for layer in layers for name in PARTS]


def test_ones_change_nothing(config, model, batch):
    plain = model(*batch)
    for rows in (None, 3):
        gated = model(*batch, mask_variables.ones(config.dims, rows, requires_grad=False))
        for expected, got in zip(plain.hidden_states, gated.hidden_states, strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_gradients_of_per_sample_gates_are_those_of_each_sample_alone(config, model, batch):
    labels = torch.tensor([0, 2, 1])
    shared = doubles(mask_variables.ones(config.dims, 3))
    functional.cross_entropy(model(*batch, shared).logits, labels, reduction="sum").backward()
    for sample in range(3):
        own = doubles(mask_variables.ones(config.dims))
        one = [tensor[sample : sample + 1] for tensor in batch]
        functional.cross_entropy(model(*one, own).logits, labels[sample : sample + 1]).backward()
        for together, alone in zip(tensors(shared), tensors(own), strict=True):
            assert alone.grad.abs().sum() > 0
            torch.testing.assert_close(together.grad[sample], alone.grad, rtol=1e-9, atol=1e-12)


def test_gradients_of_gates_match_finite_differences(config, model, batch, rng):
    layers = doubles(mask_variables.ones(config.dims))
    model(*batch, layers).logits.square().sum().backward()
    step = 1e-5
    for tensor in tensors(layers):
        index = int(rng.integers(len(tensor)))
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                tensor[index] += sign * step
                values.append(float(model(*batch, layers).logits.square().sum()))
                tensor[index] -= sign * step
        assert float(tensor.grad[index]) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize(("part", "sublayer"), [(name, name.split("_")[0]) for name in PARTS])
def test_a_sublayer_without_heads_or_rows_passes_its_input_on(config, model, batch, part, sublayer):
    other = {"heads": "ffn", "attention": "ffn", "ffn": "heads"}[sublayer]
    layers = mask_variables.ones(config.dims, requires_grad=False)
    for name in (part, other):
        getattr(layers[1], name).zero_()
    states = model(*batch, layers).hidden_states
    torch.testing.assert_close(states[2], states[1], rtol=0, atol=0)
    for name in (part, other):
        getattr(layers[1], name)[0] = 1.0
    states = model(*batch, layers).hidden_states
    assert (states[2] - states[1]).abs().max() > 0.1


def test_per_sample_gates_decide_per_sample_what_is_gone(config, model, batch, rng):
    chosen = [random_mask(config, rng) for _ in range(2)] + [Mask.full(config.dims)]
    stacked = [
        mask_variables.MaskVariables(**{name: torch.stack([getattr(layer, name) for layer in rows]) for name in PARTS})
        for rows in zip(*(from_mask(mask) for mask in chosen), strict=True)
    ]
    together = model(*batch, stacked).logits
    for sample, mask in enumerate(chosen):
        alone = model(*(tensor[sample : sample + 1] for tensor in batch), from_mask(mask)).logits
        torch.testing.assert_close(together[sample : sample + 1], alone)


def test_gates_of_a_gone_sublayer_have_zero_gradient(config, model, batch):
    layers = mask_variables.ones(config.dims)
    with torch.no_grad():
        layers[0].heads.zero_()
    model(*batch, layers).logits.sum().backward()
    assert layers[0].heads.grad.abs().sum() == 0
    assert layers[0].ffn.grad.abs().sum() > 0


def test_gates_are_for_unpruned_encoders(config):
    spec = ArchSpec.full(config.dims).with_layer(0, heads=1)
    ids = torch.zeros(1, 3, dtype=torch.long)
    with pytest.raises(InputError, match="mask variables apply to an unpruned encoder"):
        SequenceClassifier(config, spec)(ids, torch.ones_like(ids), mask_variables=mask_variables.ones(config.dims))


def test_gradients_of_block_gates_match_finite_differences(config, model, batch, rng):
    mask = random_mask(config, rng)
    while not all(layer.has_attention for layer in mask.spec().layers):
        mask = random_mask(config, rng)
    layers = from_mask(mask)
    rows, columns = mask.spec().layers[1].matrix_shapes(config.dims)["attention_output"]
    values = torch.rand(-(-rows // 16), -(-columns // 16), dtype=torch.float64).requires_grad_()
    layers[1] = replace(layers[1], blocks={"attention_output": mask_variables.BlockMaskVariables(values, 16, 16)})
    model(*batch, layers).logits.square().sum().backward()
    assert (values.grad != 0).all()
    step, index = 1e-5, tuple(rng.integers(size) for size in values.shape)
    found = []
    for sign in (1, -1):
        with torch.no_grad():
            values[index] += sign * step
            found.append(float(model(*batch, layers).logits.square().sum()))
            values[index] -= sign * step
    assert float(values.grad[index]) == pytest.approx((found[0] - found[1]) / (2 * step), rel=1e-5, abs=1e-7)


def test_block_gates_beside_gates_of_each_sample_are_refused(config):
    (layer, _) = mask_variables.ones(config.dims, 3)
    with pytest.raises(
        InputError, match="blocks cannot be masked beside heads or rows that have a mask variable for each sample"
    ):
        replace(layer, blocks={"key": mask_variables.BlockMaskVariables(torch.ones(2, 2), 32, 32)})
