import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import random_config
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from masked import data
from torch import nn

from prunetime.core.arch import ArchSpec, Dims, LayerSpec
from prunetime.core.mask import Mask
from prunetime.errors import InputError
from prunetime.models.compact import compact, in_blocks
from prunetime.models.distill import Distillation
from prunetime.models.encoder import SequenceClassifier, from_weights, linears_of, weights_of
from prunetime.pruning.importance import rank_transform
from prunetime.pruning.masks import MaskStep, mask_of
from prunetime.pruning.pruners import learning_rate, masks_on
from prunetime.pruning.regularise import LEAST, STRENGTH, WeightsKept, regularisation, share_of
from prunetime.training.settings import TrainingSettings
from prunetime.training.trainer import fit

SIZES = {"layers": 2, "hidden": 64, "heads": 4, "head_dim": 16, "ffn": 256, "vocabulary": 60, "positions": 16}
CONFIG = random_config(np.random.default_rng(0), **SIZES, outputs=2)
DIMS = CONFIG.dims
COST = WeightsKept(DIMS)
BLOCK_SHAPE = (16, 16)
Stop = Callable[[int, int], None]
MINILM = Dims(6, 384, 12, 32, 1536, 100, 64)


def dense() -> SequenceClassifier:
    torch.manual_seed(1)
    return SequenceClassifier(CONFIG)


def rows_step(share: float = 0.5, **changes: object) -> MaskStep:
    return MaskStep(DIMS, ArchSpec.full(DIMS), COST, share * COST.dense, **changes)


def blocks_step(base: ArchSpec, share: float = 0.3, **changes: object) -> MaskStep:
    return MaskStep(DIMS, base, COST, share * COST.dense, BLOCK_SHAPE, **changes)


def linears(dims: Dims) -> list[dict[str, nn.Linear]]:
    shapes = LayerSpec.full(dims).matrix_shapes(dims)
    return [
        {name: nn.Linear(inputs, outputs) for name, (outputs, inputs) in shapes.items()} for _ in range(dims.layers)
    ]


def logits(model: SequenceClassifier) -> torch.Tensor:
    batch = data(20).batch(range(20))
    batch.pop("labels")
    with torch.no_grad():
        return model.eval()(**batch).logits


SETTINGS = TrainingSettings(6.0, batch_size=8, learning_rate=1e-3, checkpoint_steps=10)


def learned(model: SequenceClassifier, step: MaskStep, folder: Path, stop: Stop | None = None, **changes: object):
    settings = dataclasses.replace(SETTINGS, **changes)
    return fit(model, data(), settings, folder, dense(), stop, mask_step=step).learned


def test_what_is_learned_computes_the_same_pruned_as_masked_in_both_steps(tmp_path: Path) -> None:
    model, step = dense(), rows_step(learning_rate=0.3)
    mask = mask_of(step, learned(model, step, tmp_path / "rows").kept, Mask.full(DIMS))
    weights = compact(weights_of(model), mask, DIMS)
    torch.testing.assert_close(logits(from_weights(CONFIG, weights)), logits(model), atol=1e-5, rtol=0)
    assert COST(mask.spec()) <= 0.5 * COST.dense

    model = from_weights(CONFIG, weights)
    step = blocks_step(mask.spec(), learning_rate=0.3)
    teacher = from_weights(CONFIG, weights)
    whole = mask_of(step, fit(model, data(), SETTINGS, tmp_path / "blocks", teacher, mask_step=step).learned.kept, mask)
    stored = in_blocks(weights_of(model), whole)
    torch.testing.assert_close(logits(from_weights(CONFIG, stored)), logits(model), atol=1e-5, rtol=0)
    assert whole.spec().layers[0].heads == mask.spec().layers[0].heads
    assert all(layer.blocks for layer in whole.spec().layers)
    assert 0.294 * COST.dense <= COST(whole.spec()) <= 0.3 * COST.dense


def test_training_walks_to_the_target_by_itself() -> None:
    """Before masks freeze: by the gradient of the regularisation, against a loss that wants to keep everything."""
    masks = masks_on(blocks_step(ArchSpec.full(DIMS), 0.3), linears_of(dense().layers))
    optimizer = torch.optim.AdamW(masks.parameters(), 0.05, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 400)
    for _ in range(400):
        masks.refresh()
        optimizer.zero_grad()
        wish = torch.stack([now.mean() for layer in masks._now for now in layer.values()]).sum()
        (masks.penalty() - 0.02 * wish).backward()
        optimizer.step()
        schedule.step()
    masks.refresh()
    assert 0.3 * 0.98 <= masks.share <= 0.3 * 1.02


@given(st.integers(0, 2**16), st.sampled_from([0.2, 0.35, 0.5, 0.8]), st.sampled_from([None, (32, 32), (16, 16)]))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_masks_freeze_at_the_target(seed: int, share: float, block_shape: tuple[int, int] | None) -> None:
    rng, cost = np.random.default_rng(seed), WeightsKept(MINILM)
    step = MaskStep(MINILM, ArchSpec.full(MINILM), cost, share * cost.dense, block_shape)
    masks = masks_on(step, linears(MINILM))
    for learned_ones in (masks.thresholds, masks.scores):
        learned_ones.data.copy_(torch.from_numpy(rng.normal(size=len(learned_ones))))
    masks.freeze()
    assert share * 0.98 <= masks.share <= share
    assert masks.spec() == mask_of(step, masks.learned().kept, Mask.full(MINILM)).spec()
    masks.spec().check(MINILM)
    assert masks.penalty().item() == 0.0


def test_a_target_that_masks_cannot_reach_is_refused() -> None:
    masks = masks_on(rows_step(0.01), linears_of(dense().layers))
    with pytest.raises(InputError, match=r"keep at least .*% .*, the target is 1.0%: give a larger budget"):
        masks.freeze()


def test_frozen_masks_stay_while_weights_are_trained(tmp_path: Path) -> None:
    """A training that ends as masks freeze has the masks of one that goes on for as long again."""
    short, long = (rows_step(learning=share, learning_rate=0.3) for share in (1.0, 0.5))
    first = learned(dense(), short, tmp_path / "short", epochs=3.0, warmup=0.0).kept
    model = dense()
    kept = learned(model, long, tmp_path / "long", warmup=0.0).kept
    assert [set(layer) for layer in first] == [set(layer) for layer in kept]
    gone = ~kept[0]["ffn"]
    assert gone.any()
    assert not model.layers[0].ffn_input.weight[torch.from_numpy(gone)].any()
    assert model.layers[0].ffn_input.weight[torch.from_numpy(kept[0]["ffn"])].all()


def test_a_killed_training_ends_in_the_same_masks_and_weights(tmp_path: Path) -> None:
    def stop(done: int, _: int) -> None:
        if done == stop_at:
            raise KeyboardInterrupt

    step = rows_step(learning_rate=0.3)
    whole, want = dense(), None
    want = learned(whole, step, tmp_path / "whole")
    for stop_at in (15, 37):  # before masks freeze, at step 20, and after
        with pytest.raises(KeyboardInterrupt):
            learned(dense(), step, tmp_path / str(stop_at), stop)
        model = dense()
        found = learned(model, step, tmp_path / str(stop_at))
        assert np.array_equal(want.ratios, found.ratios)
        for a, b in zip(want.kept, found.kept, strict=True):
            assert all(np.array_equal(a[name], b[name]) for name in a)
        assert all(
            torch.equal(a, b) for a, b in zip(whole.state_dict().values(), model.state_dict().values(), strict=True)
        )


def test_the_regularisation_is_as_written_and_its_weight_adapts() -> None:
    for share, weight in ((0.9, STRENGTH * 0.6**2 / 0.7**2), (0.32, LEAST)):
        assert regularisation(torch.tensor(share), 0.3).item() == pytest.approx(weight * (share - 0.3) ** 2, rel=1e-4)
    assert regularisation(torch.tensor(0.2), 0.3).item() == 0.0


def test_a_share_changes_with_keep_ratios_as_its_slopes_say() -> None:
    ratios = torch.tensor([0.2, 0.7], requires_grad=True)
    share = share_of(ratios, 0.4, [3.0, -1.0])
    share.square().backward()
    assert share.item() == pytest.approx(0.4)
    assert ratios.grad.tolist() == pytest.approx([2.4, -0.8])


def test_slopes_are_those_of_the_weights() -> None:
    """Of one keep ratio, the weights of all that it is of: d(share)/d(ratio) = weights that depend on it / ratio."""
    masks = masks_on(rows_step(), linears_of(dense().layers))
    counts = [2, 32, 128, 64, 4, 64, 256, 64]
    heads, rows, ffn, ffn_rows = masks._slopes(counts)[:4]
    inner, hidden = 2 * 16, 64
    expected = [
        (3 * inner * hidden + 32 * inner) / (2 / 4),
        32 * inner / (32 / 64),
        (128 * hidden + 64 * 128) / (128 / 256),
        64 * 128 / (64 / 64),
    ]
    assert [heads, rows, ffn, ffn_rows] == pytest.approx([each / COST.dense for each in expected])


def test_parts_that_matter_most_at_first_are_kept_where_training_says_nothing() -> None:
    scores = [{"heads": np.array([0.1, 0.4, 0.2, 0.3]), "ffn": np.arange(256.0)} for _ in range(2)]
    masks = masks_on(rows_step(0.6, scores=rank_transform(scores)), linears_of(dense().layers))
    masks.freeze()
    kept = masks.learned().kept[0]
    assert not kept["ffn"].all()
    assert np.array_equal(kept["ffn"], np.sort(kept["ffn"]))
    assert kept["heads"][1]


def test_distilling_attention_moves_only_the_heads_that_are_kept(tmp_path: Path) -> None:
    step = rows_step(learning_rate=0.3)
    assert learned(dense(), step, tmp_path, distillation=Distillation(attention=1.0)) is not None


def test_few_steps_have_a_higher_rate() -> None:
    assert learning_rate(100_000) == 1e-2 < learning_rate(500) < learning_rate(100)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning": 0.0}, "learning is 0"),
        ({"base": ArchSpec.of(DIMS, [2, 2], [64, 64])}, "unpruned encoder"),
    ],
)
def test_steps_that_make_no_sense_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        dataclasses.replace(rows_step(), **change)
