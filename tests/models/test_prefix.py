import numpy as np
import pytest
import torch
from cases import family_fields, random_config, random_ragged, random_weights
from masked import from_mask

from prunetime.core.arch import ArchSpec
from prunetime.core.mask import PARTS, rank
from prunetime.errors import InputError
from prunetime.models.compact import compact, ordered, prefix_mask
from prunetime.models.encoder import from_weights, weights_of
from prunetime.models.prefix import run_prefix
from prunetime.search.space import Space

families = pytest.mark.parametrize("family", ["bert", "mpnet"])


def made(seed: int = 0, family: str = "bert"):
    rng = np.random.default_rng(seed)
    config = random_config(rng, layers=3, heads=4, ffn=96, outputs=1, **family_fields(family))
    weights = random_weights(config, ArchSpec.full(config.dims), rng)
    tokens = random_ragged(config, rng, rng.integers(1, 20, 12))
    inputs = tuple(torch.from_numpy(array.astype(np.int64)) for array in tokens.padded(0))
    return rng, config, weights, inputs


@families
@pytest.mark.parametrize("blocks", [None, (32, 16), (32, 1)])
@pytest.mark.parametrize("seed", range(4))
def test_a_prefix_is_the_gated_and_the_compact_encoder_and_trains_the_weights_it_has(seed, blocks, family):
    rng, config, weights, inputs = made(seed, family)
    space = Space(config.dims, blocks=blocks)
    spec = space.spec(space.random(rng))
    mask = prefix_mask(weights, spec, config.dims)
    assert mask.spec() == spec
    model = from_weights(config, weights, dropout=0.0)
    found = run_prefix(model, spec, inputs)
    expected = model(*inputs, mask_variables=from_mask(mask))
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(found.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)

    alone = from_weights(config, compact(weights, mask, config.dims), dropout=0.0, spec=spec)
    found.logits.sum().backward()
    alone(*inputs).logits.sum().backward()
    gradients = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    zeros = {name: np.zeros_like(array) for name, array in weights_of(model).items()}
    kept = compact({**zeros, **gradients}, mask, config.dims)
    for name, parameter in alone.named_parameters():
        np.testing.assert_allclose(kept[name], parameter.grad.numpy(), rtol=1e-3, atol=1e-5, err_msg=name)
    sizes = {name.replace(".blocks", ".weight"): p.numel() for name, p in alone.named_parameters()}
    reached = {name: int((array != 0).sum()) for name, array in gradients.items()}
    assert all(count <= sizes[name] for name, count in reached.items() if count)


@families
@pytest.mark.parametrize("seed", range(3))
def test_ordered_it_computes_the_same_and_what_rank_keeps_comes_first(seed, family):
    rng, config, weights, inputs = made(seed, family)
    dims = config.dims
    widths = dict(zip(PARTS, (dims.heads, dims.hidden, dims.ffn, dims.hidden), strict=True))
    scores = [{part: rng.integers(0, 9, width) * 1.0 for part, width in widths.items()} for _ in range(dims.layers)]
    whole = from_weights(config, ordered(weights, scores, dims)).eval()
    plain = from_weights(config, weights).eval()
    spec = Space(dims).spec(Space(dims).random(rng))
    with torch.no_grad():
        torch.testing.assert_close(whole(*inputs).logits, plain(*inputs).logits, rtol=1e-4, atol=1e-5)
        expected = plain(*inputs, mask_variables=from_mask(rank(scores, spec))).logits
        torch.testing.assert_close(run_prefix(whole, spec, inputs).logits, expected, rtol=1e-4, atol=1e-5)


def test_the_blocks_kept_are_those_of_the_largest_norm_of_what_heads_and_rows_leave():
    _, config, weights, _ = made()
    space = Space(config.dims, blocks=(32, 16))
    mask = prefix_mask(weights, space.spec((2, 2) * 3 + (1,) * 6), config.dims)
    for index, layer in enumerate(mask.layers):
        for matrix, inner in (("ffn_output", 64), ("attention_output", 2 * config.dims.head_dim)):
            weight, kept = weights[f"layers.{index}.{matrix}.weight"][:, :inner], layer.blocks[matrix].kept
            norms = np.array([
                [np.linalg.norm(weight[i : i + 32, j : j + 16]) for j in range(0, inner, 16)]
                for i in range(0, config.dims.hidden, 32)
            ])  # fmt: skip
            assert kept.sum() == round(kept.size / 4) > 0
            assert norms[kept].min() > norms[~kept].max()


def test_tokens_are_dropped_in_a_prefix_as_in_the_compact_encoder():
    _, config, weights, inputs = made()
    spec = ArchSpec.of(config.dims, [4, 2, 3], [96, 32, 64]).with_layer(0, tokens=0.5)
    model = from_weights(config, weights).eval()
    alone = from_weights(
        config, compact(weights, prefix_mask(weights, spec, config.dims), config.dims), spec=spec
    ).eval()
    with torch.no_grad():
        torch.testing.assert_close(run_prefix(model, spec, inputs).logits, alone(*inputs).logits, rtol=1e-4, atol=1e-5)


def test_dropout_is_that_of_the_whole_encoder():
    _, config, weights, inputs = made()
    model = from_weights(config, weights, dropout=0.5)
    full = ArchSpec.full(config.dims)
    assert not torch.equal(run_prefix(model, full, inputs).logits, run_prefix(model, full, inputs).logits)
    model.eval()
    torch.testing.assert_close(run_prefix(model, full, inputs).logits, model(*inputs).logits)


def test_what_is_no_prefix_is_refused():
    rng, config, weights, inputs = made()
    full = ArchSpec.full(config.dims)
    half = ArchSpec.of(config.dims, [2] * 3, [32] * 3)
    compacted = from_weights(config, random_weights(config, half, rng))
    with pytest.raises(InputError, match="compact"):
        run_prefix(compacted, half, inputs)
    model = from_weights(config, weights)
    with pytest.raises(InputError, match="prunes output rows"):
        run_prefix(model, full.with_layer(0, ffn_rows=0), inputs)
    with pytest.raises(InputError, match="already"):
        ordered(weights_of(compacted), [], config.dims)
