import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax

from prunetime.errors import InputError
from prunetime.models.encoder import Output
from prunetime.training.distill import Distillation, distilled_loss, hidden_distance, logits_distance

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
