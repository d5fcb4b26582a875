"""Counts, F1, recall and precision are those of scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from prunetime.tasks.confusion import Confusion

NAMES = tuple(f"intent {number}" for number in range(40))


@pytest.fixture(scope="module")
def drawn():
    rng = np.random.default_rng(0)
    gold = rng.integers(0, 38, 900)  # two classes have no example
    scores = rng.dirichlet(np.ones(40), 900)
    scores[np.arange(900), np.where(rng.random(900) < 0.7, gold, (gold + 1) % 40)] += 1.0
    return scores, gold


def test_the_matrix_and_every_class_are_those_of_scikit_learn(drawn):
    scores, gold = drawn
    found = Confusion.of(NAMES, scores, gold)
    np.testing.assert_array_equal(found.counts, confusion_matrix(gold, scores.argmax(1), labels=range(40)))
    precision, recall, f1, support = precision_recall_fscore_support(
        gold, scores.argmax(1), labels=range(40), zero_division=0
    )
    classes = found.classes()
    assert len(classes) == len(np.unique(gold))
    assert [each.f1 for each in classes] == sorted(each.f1 for each in classes)
    for each in classes:
        at = NAMES.index(each.label)
        assert (each.precision, each.recall, each.f1) == pytest.approx((precision[at], recall[at], f1[at]))
        assert each.support == support[at]


def test_the_pairs_are_the_largest_cells_off_the_diagonal(drawn):
    found = Confusion.of(NAMES, *drawn)
    off = np.array(
        [count for label, row in enumerate(found.counts) for other, count in enumerate(row) if label != other]
    )
    pairs = found.pairs(10)
    assert [count for *_, count in pairs] == sorted(off.tolist(), reverse=True)[:10]
    assert all(found.counts[NAMES.index(label), NAMES.index(other)] == count for label, other, count in pairs)
    assert len(found.pairs(10_000)) == np.count_nonzero(off)


def test_two_classes_are_parted_at_one_half():
    found = Confusion.of(("bad", "good"), np.array([0.2, 0.5, 0.6, 0.9]), np.array([0, 1, 0, 1]))
    assert found.counts.tolist() == [[1, 1], [1, 1]]
    assert found.pairs(5) == [("bad", "good", 1), ("good", "bad", 1)]


def test_json_and_back(drawn):
    found = Confusion.of(NAMES, *drawn)
    again = Confusion.from_json(NAMES, found.to_json())
    np.testing.assert_array_equal(again.counts, found.counts)
    with pytest.raises(ValueError, match=r"\[0, 40, 1\] is no cell of 40 classes"):
        Confusion.from_json(NAMES, [[0, 40, 1]])
