import numpy as np
import pytest
import torch
from scipy.special import expit, rel_entr, softmax

from prunetime.errors import InputError
from prunetime.models.distill import Distillation, distilled_loss, hidden_distance, logits_distance
from prunetime.models.encoder import Output

RNG = np.random.default_rng(0)
TASK_LOSS = torch.tensor(0.25)


def normal(*shape):
    return torch.from_numpy(RNG.standard_normal(shape).astype(np.float32))


def output(outputs=3):
    return Output(normal(4, outputs), tuple(normal(4, 6, 8) for _ in range(3)))


TOKENS = torch.tensor([[1] * 6, [1] * 4 + [0] * 2, [1] * 3 + [0] * 3, [1] + [0] * 5])


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_classes_are_compared_by_the_divergence_of_softened_probabilities(temperature):
    student, teacher = normal(5, 3), normal(5, 3)
    p, q = (softmax(x.numpy().astype(np.float64) / temperature, axis=1) for x in (teacher, student))
    expected = temperature**2 * rel_entr(p, q).sum(1).mean()
    assert logits_distance(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_several_labels_are_compared_by_the_divergence_of_each(temperature):
    student, teacher = normal(5, 3), normal(5, 3)
    p, q = (expit(x.numpy().astype(np.float64) / temperature) for x in (teacher, student))
    expected = temperature**2 * (rel_entr(p, q) + rel_entr(1 - p, 1 - q)).mean()
    found = logits_distance(student, teacher, temperature, choice="yes-no")
    assert found.item() == pytest.approx(expected, rel=1e-5)
    assert logits_distance(student + 1, student, temperature, choice="yes-no").item() > 0.01  # no softmax is shifted
    assert logits_distance(student + 1, student, temperature).item() == pytest.approx(0.0, abs=1e-6)
    far = torch.tensor([[300.0, -300.0]])
    assert torch.isfinite(logits_distance(far, -far, temperature, choice="yes-no"))


def test_a_single_logit_is_compared_by_its_squared_error():
    student, teacher = normal(5, 1), normal(5, 1)
    expected = ((student - teacher).numpy() ** 2).mean()
    assert logits_distance(student, teacher, 2.0).item() == pytest.approx(expected, rel=1e-6)


def test_hidden_states_are_compared_relative_to_the_teacher_and_without_padding():
    student, teacher = output().hidden_states, output().hidden_states
    present = TOKENS.bool().numpy()
    expected = np.mean(
        [
            ((s - t).numpy()[present] ** 2).sum() / (t.numpy()[present] ** 2).sum()
            for s, t in zip(student, teacher, strict=True)
        ]
    )
    assert hidden_distance(student, teacher, TOKENS).item() == pytest.approx(expected, rel=1e-5)
    scaled = hidden_distance(tuple(100 * s for s in student), tuple(100 * t for t in teacher), TOKENS)
    assert scaled.item() == pytest.approx(expected, rel=1e-5)


def test_a_student_with_fewer_tokens_is_compared_where_it_has_them():
    teacher = output().hidden_states
    kept = (torch.tensor([[0, 2, 3, 5], [0, 1, -1, -1], [0, 1, 2, -1], [0, -1, -1, -1]]), None)
    positions = [[0, 2, 3, 5], [0, 1], [0, 1, 2], [0]]
    student = (normal(4, 6, 8), normal(4, 4, 8), normal(4, 4, 8))
    difference, size = [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]
    for state in range(3):
        for row, count in enumerate(TOKENS.sum(1)):
            for at, token in enumerate(range(count) if state == 0 else positions[row]):
                expected = teacher[state][row, token].double()
                difference[state] += float((student[state][row, at].double() - expected).square().sum())
                size[state] += float(expected.square().sum())
    found = hidden_distance(student, teacher, TOKENS, kept)
    assert found.item() == pytest.approx(np.mean(np.divide(difference, size)), rel=1e-5)


def test_tokens_dropped_twice_are_followed():
    kept = (torch.tensor([[0, 2, 3, 5]]), torch.tensor([[0, 3]]))
    teacher = tuple(normal(1, 6, 8) for _ in range(3))
    student = (teacher[0], teacher[1][:, [0, 2, 3, 5]], teacher[2][:, [0, 5]])
    assert hidden_distance(student, teacher, TOKENS[:1], kept).item() == 0.0


def test_a_student_that_equals_its_teacher_has_the_task_loss_only():
    same = output()
    assert distilled_loss(TASK_LOSS, same, same, TOKENS, Distillation()).item() == pytest.approx(0.25, abs=1e-6)


def test_terms_are_weighed():
    student, teacher = output(), output()
    weights = Distillation(task=2.0, logits=3.0, hidden=5.0, temperature=4.0)
    expected = (
        2.0 * 0.25
        + 3.0 * logits_distance(student.logits, teacher.logits, 4.0).item()
        + 5.0 * hidden_distance(student.hidden_states, teacher.hidden_states, TOKENS).item()
    )
    assert distilled_loss(TASK_LOSS, student, teacher, TOKENS, weights).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("change", [{"logits": -1.0}, {"temperature": 0.0}])
def test_negative_weights_are_refused(change):
    with pytest.raises(InputError):
        Distillation(**change)
