"""The best classes by name are those that numpy's sort of the scores has first."""

import numpy as np
import pytest

from prunetime.core.task import Task
from prunetime.errors import InputError
from prunetime.inference.classes import best_classes

NAMES = tuple(f"intent {number}" for number in range(77))
MANY = Task("classification", NAMES, ("text",), 16)


def test_the_best_classes_come_first_with_their_probabilities():
    scores = np.random.default_rng(0).dirichlet(np.ones(77), 5).astype(np.float32)
    for row, found in zip(scores, best_classes(MANY, scores, 5), strict=True):
        assert [each.score for each in found] == sorted(row.tolist(), reverse=True)[:5]
        assert [row[NAMES.index(each.label)] for each in found] == [each.score for each in found]


def test_of_two_classes_the_score_is_of_the_second():
    two = Task("classification", ("bad", "good"), ("text",), 16)
    assert best_classes(two, np.array([0.75, 0.25], np.float32), 2) == [
        [("good", 0.75), ("bad", 0.25)],
        [("bad", 0.75), ("good", 0.25)],
    ]


def test_equal_classes_are_in_the_order_of_the_task():
    found = best_classes(MANY, np.full((1, 77), 1 / 77, np.float32), 3)
    assert [each.label for each in found[0]] == list(NAMES[:3])


@pytest.mark.parametrize("task", [Task("relevance", (), ("a", "b"), 16), Task("similarity", (), ("a", "b"), 16)])
def test_a_task_without_classes_is_refused(task: Task):
    with pytest.raises(InputError, match=f"a model of {task.kind} has no classes"):
        best_classes(task, np.zeros(1, np.float32), 1)


def test_more_classes_than_there_are_is_refused():
    with pytest.raises(InputError, match="the 78 best classes: this model has 77"):
        best_classes(MANY, np.zeros((1, 77), np.float32), 78)
