"""Every pruner that learns masks, through the one training loop."""

from pathlib import Path

import numpy as np
import pytest
import torch
from cases import random_config
from masked import data
from torch.nn import functional

from prunetime.core.arch import ArchSpec
from prunetime.core.mask import Mask
from prunetime.errors import InputError
from prunetime.models.compact import compact, in_blocks
from prunetime.models.distill import Distillation
from prunetime.models.encoder import SequenceClassifier, from_weights, linears_of, weights_of
from prunetime.pruning.masks import MaskStep, mask_of
from prunetime.pruning.methods import Pruner
from prunetime.pruning.pruners import PRUNERS, learning_rate, masks_on
from prunetime.pruning.regularise import WeightsKept
from prunetime.training.settings import TrainingSettings
from prunetime.training.trainer import fit

SIZES = {"layers": 3, "hidden": 64, "heads": 4, "head_dim": 16, "ffn": 256, "vocabulary": 60, "positions": 16}
CONFIG = random_config(np.random.default_rng(0), **SIZES, outputs=2)
DIMS = CONFIG.dims
COST = WeightsKept(DIMS)
TARGET = 0.5
SETTINGS = TrainingSettings(
    6.0, batch_size=8, learning_rate=1e-3, checkpoint_steps=10, distillation=Distillation(attention=1.0)
)
WAYS: list[tuple[Pruner, tuple[int, int] | None]] = [
    ("top-k", None),
    ("top-k", (16, 16)),
    ("group-lasso", (16, 16)),
    ("polarisation", None),
    ("polarisation", (16, 16)),
    ("identity-priors", None),
]


def dense() -> SequenceClassifier:
    torch.manual_seed(1)
    return SequenceClassifier(CONFIG)


def step_of(
    pruner: Pruner, block_shape: tuple[int, int] | None = None, share: float = TARGET, **changes: object
) -> MaskStep:
    return MaskStep(DIMS, ArchSpec.full(DIMS), COST, share * COST.dense, block_shape, pruner=pruner, **changes)


def logits(model: SequenceClassifier, **masked: object) -> torch.Tensor:
    batch = data(20).batch(range(20))
    batch.pop("labels")
    with torch.no_grad():
        return model.eval()(**batch, **masked).logits


@pytest.mark.parametrize(("pruner", "block_shape"), WAYS)
def test_what_is_learned_computes_the_same_pruned_as_masked_and_is_at_the_target(
    pruner: Pruner, block_shape: tuple[int, int] | None, tmp_path: Path
) -> None:
    model, step = dense(), step_of(pruner, block_shape, learning_rate=0.1)
    learned = fit(model, data(), SETTINGS, tmp_path, dense(), mask_step=step).learned
    mask = mask_of(step, learned.kept, Mask.full(DIMS))
    within = 1.0 / (2 * DIMS.layers) if pruner == "identity-priors" else 0.02  # whole sub-layers are not so fine
    assert TARGET - within * 2 <= COST(mask.spec()) / COST.dense <= TARGET
    weights = weights_of(model)
    pruned = in_blocks(weights, mask) if block_shape else compact(weights, mask, DIMS)
    fixed = masks_on(step, linears_of(dense().layers))
    fixed.fixed.copy_(torch.from_numpy(np.concatenate([k.ravel() for layer in learned.kept for k in layer.values()])))
    fixed.settled.fill_(True)
    fixed.refresh()
    masked = logits(model, mask_variables=fixed.mask_variables())
    torch.testing.assert_close(logits(from_weights(CONFIG, pruned)), masked, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("pruner", "block_shape"), WAYS)
def test_a_killed_training_ends_in_the_same_masks_and_weights(
    pruner: Pruner, block_shape: tuple[int, int] | None, tmp_path: Path
) -> None:
    def stop(done: int, _: int) -> None:
        if done == 15:  # before masks freeze, at step 20
            raise KeyboardInterrupt

    step = step_of(pruner, block_shape, learning_rate=0.1)
    whole, model = dense(), dense()
    want = fit(whole, data(), SETTINGS, tmp_path / "whole", dense(), mask_step=step).learned
    with pytest.raises(KeyboardInterrupt):
        fit(dense(), data(), SETTINGS, tmp_path / "killed", dense(), stop, mask_step=step)
    found = fit(model, data(), SETTINGS, tmp_path / "killed", dense(), mask_step=step).learned
    assert np.array_equal(want.ratios, found.ratios)
    for a, b in zip(want.kept, found.kept, strict=True):
        assert all(np.array_equal(a[name], b[name]) for name in a)
    for a, b in zip(whole.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("pruner", "block_shape"), WAYS)
def test_settling_keeps_what_comes_first_in_the_pruners_order(
    pruner: Pruner, block_shape: tuple[int, int] | None
) -> None:
    masks = masks_on(step_of(pruner, block_shape), linears_of(dense().layers))
    with torch.no_grad():
        for learned in masks.parameters():
            learned.copy_(torch.rand_like(learned))
        if pruner == "identity-priors":
            masks.norms.copy_(torch.rand_like(masks.norms))
    masks.freeze()
    for kept, scores in zip(masks.views(masks.fixed), masks.saliencies(), strict=True):
        if 0 < kept.sum() < kept.numel():
            assert scores[kept > 0].min() >= scores[kept == 0].max()
    assert masks.penalty().item() == 0.0


def test_ratios_are_recorded_from_the_first_step_to_the_last(tmp_path: Path) -> None:
    learned = fit(dense(), data(), SETTINGS, tmp_path, mask_step=step_of("top-k", learning_rate=0.3)).learned
    assert learned.ratios.shape == (48, 4 * DIMS.layers)  # a moment for each of 48 steps
    assert learned.ratios[0].min() >= 0.9
    kept = [mask.mean() for layer in learned.kept for mask in layer.values()]
    np.testing.assert_allclose(learned.ratios[-1], kept, rtol=1e-6)


def test_the_lasso_penalises_small_blocks_most() -> None:
    """Li et al., arXiv 2009.08065: |W_b| / (|W_b|^2 + smoothing), the latter as it was."""
    model = dense()
    weight = model.layers[0].ffn_input.weight
    weight.data[:16, :16] *= 0.1
    masks = masks_on(step_of("group-lasso", (16, 16)), linears_of(model.layers))
    masks.sparsity_loss().backward()
    original = model.layers[0].ffn_input.parametrizations.weight.original
    pulls = original.grad.reshape(16, 16, 4, 16).square().sum((1, 3)).sqrt()
    assert pulls.argmax() == 0
    along = functional.cosine_similarity(original.grad[:16, :16].flatten(), original[:16, :16].flatten(), 0)
    assert along.item() == pytest.approx(1.0, abs=1e-4)


def test_gates_are_driven_apart_as_smoothing_falls() -> None:
    masks = masks_on(step_of("polarisation", learning=1.0), linears_of(dense().layers))
    with torch.no_grad():
        masks.numbers.copy_(torch.linspace(0, 1, len(masks.numbers)))
    between = []
    for done in (50, 75, 99):
        masks.end_step(done, 100)
        variables = torch.cat([mask.flatten() for mask in masks.masks()])
        between.append(((variables > 0.05) & (variables < 0.95)).float().mean().item())
    assert between[0] > 0.5 > between[1] > between[2]
    assert between[2] < 0.15


def test_sub_layers_that_add_least_become_the_identity(tmp_path: Path) -> None:
    model = dense()
    with torch.no_grad():
        for part in model.layers[1].ffn_output.parameters():
            part *= 1e-3
    step = step_of("identity-priors", share=0.9, learning=0.5)
    learned = fit(model, data(), SETTINGS, tmp_path, mask_step=step).learned
    assert not learned.kept[1]["ffn"].any()
    assert not learned.kept[1]["ffn_rows"].any()
    assert learned.kept[1]["heads"].all()


def test_spectral_norms_do_not_grow() -> None:
    model = dense()
    before = torch.linalg.matrix_norm(model.layers[0].query.weight, 2).item()
    masks_on(step_of("identity-priors"), linears_of(model.layers))
    query = model.layers[0].query
    query.parametrizations.weight.original.data.mul_(3.0)
    query.train()
    assert torch.linalg.matrix_norm(query.weight, 2).item() == pytest.approx(before, rel=1e-3)


def test_few_steps_have_a_higher_rate() -> None:
    for pruner in PRUNERS:
        assert learning_rate(100_000, pruner) == 1e-2 < learning_rate(50, pruner)
    assert learning_rate(50) > learning_rate(50, "polarisation")


@pytest.mark.parametrize(
    ("pruner", "block_shape", "message"),
    [("group-lasso", None, "of blocks"), ("identity-priors", (16, 16), "whole sub-layers")],
)
def test_steps_that_make_no_sense_are_refused(
    pruner: Pruner, block_shape: tuple[int, int] | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        step_of(pruner, block_shape)
