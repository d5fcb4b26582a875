"""The rank-consistency loss against its formula in float64, group by group."""

import numpy as np
import pytest
import torch

from prunetime.models.rank_consistency import TEMPERATURE, order_distance


def shares(scores):
    raised = np.exp((scores - scores.max()) / TEMPERATURE)
    return raised / raised.sum()


def reference(student, teacher, groups):
    """Temperature^2 x the mean of KL(teacher || student) over groups of several rows."""
    of_groups = []
    for group in np.unique(groups):
        rows = groups == group
        if rows.sum() > 1:
            p, q = shares(teacher[rows]), shares(student[rows])
            of_groups.append((p * np.log(p / q)).sum())
    return TEMPERATURE**2 * np.mean(of_groups)


def drawn(seed, rows=24, groups=9):
    rng = np.random.default_rng(seed)
    return 3 * rng.normal(size=rows), 3 * rng.normal(size=rows), rng.integers(0, groups, rows)


def distance(student, teacher, groups):
    """Of what rows are ordered by, as logits of one output."""
    logits = (torch.tensor(each).reshape(-1, 1) for each in (student, teacher))
    return order_distance(*logits, torch.tensor(groups))


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_formula(seed):
    student, teacher, groups = drawn(seed)
    assert distance(student, teacher, groups).item() == pytest.approx(reference(student, teacher, groups), rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_two_classes_are_ordered_by_the_log_odds_of_the_second(seed):
    rng = np.random.default_rng(seed)
    student, teacher, groups = rng.normal(size=(24, 2)), rng.normal(size=(24, 2)), rng.integers(0, 5, 24)
    odds = [np.log(np.exp(each[:, 1]) / np.exp(each[:, 0])) for each in (student, teacher)]
    found = order_distance(torch.tensor(student), torch.tensor(teacher), torch.tensor(groups)).item()
    assert found == pytest.approx(reference(*odds, groups), rel=1e-5)


def test_it_and_its_gradient_are_nothing_where_shares_agree_and_where_no_two_rows_are_of_a_group():
    student, teacher, groups = drawn(0)
    for given, target, of in ((teacher + 2.0 * groups, teacher, groups), (student, teacher, np.arange(24))):
        logits = torch.tensor(given[:, None], requires_grad=True)
        found = order_distance(logits, torch.tensor(target[:, None]), torch.tensor(of))
        found.backward()
        assert found.item() == pytest.approx(0.0, abs=1e-5)
        assert logits.grad.abs().max() < 1e-5
    assert distance(student, teacher, groups).item() > 0.1


def test_its_gradient_moves_rows_towards_their_share_and_leaves_groups_of_one_alone():
    teacher, groups = torch.tensor([[2.0], [0.0], [-1.0], [1.0]]), torch.tensor([0, 0, 0, 1])
    student = torch.zeros(4, 1, requires_grad=True)
    order_distance(student, teacher, groups).backward()
    expected = TEMPERATURE * np.append(np.full(3, 1 / 3) - shares(np.array([2.0, 0.0, -1.0])), 0.0)
    np.testing.assert_allclose(student.grad[:, 0].numpy(), expected, atol=1e-6)
