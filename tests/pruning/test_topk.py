import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prunetime.pruning.masks import highest
from prunetime.pruning.topk import kept_of, top_k

SCORES = st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=40)


@given(st.floats(0, 1), st.integers(1, 300), st.sampled_from([1, 8, 32]))
def test_what_is_kept_is_the_ratio_rounded_up_to_whole_tiles(ratio: float, parts: int, tile: int) -> None:
    kept = kept_of(ratio, parts, tile)
    assert ratio * parts <= kept + 1e-9
    assert kept <= parts
    assert kept == parts or (kept % tile == 0 and kept - tile < ratio * parts)


@given(SCORES, st.data())
def test_the_highest_scores_are_kept_and_of_equal_ones_the_first(scores: list[float], data: st.DataObject) -> None:
    kept = data.draw(st.integers(0, len(scores)))
    mask = highest(torch.tensor(scores), kept)
    expected = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:kept]
    assert mask.nonzero().flatten().tolist() == sorted(expected)


def test_the_gradient_is_straight_through_to_scores_and_its_sum_over_what_is_kept_to_the_threshold() -> None:
    """MLPruning, arXiv 2105.14636: dL/dS = dL/dM, dL/dthreshold = sum of dL/dM x M."""
    scores = torch.tensor([[0.3, 0.1, 0.9], [0.2, 0.8, 0.0]], requires_grad=True)
    threshold = torch.tensor(0.0, requires_grad=True)
    upstream = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])
    (top_k(scores, threshold, 3) * upstream).sum().backward()
    assert torch.equal(scores.grad, upstream)
    assert threshold.grad.item() == 1.0 + 4.0 + 16.0


@pytest.mark.parametrize("wanted", [4, 16])
def test_the_threshold_moves_as_changing_k_lowers_the_loss(wanted: int) -> None:
    """The loss is least where `wanted` of 20 parts are kept, whichever they are."""
    scores, threshold = torch.arange(20.0), torch.tensor(0.0, requires_grad=True)
    optimizer = torch.optim.SGD([threshold], 1e-3)
    for _ in range(400):
        optimizer.zero_grad()
        (top_k(scores, threshold, kept_of(threshold.sigmoid().item(), 20)).sum() - wanted).square().backward()
        optimizer.step()
    assert abs(kept_of(threshold.sigmoid().item(), 20) - wanted) <= 1
