import numpy as np
import pytest
import torch
from cases import random_config, random_ragged, random_weights

from prunetime.core.arch import ArchSpec
from prunetime.core.mask import PARTS
from prunetime.core.task import Task
from prunetime.errors import InputError
from prunetime.models.batches import TrainingData
from prunetime.models.encoder import from_weights, weights_of
from prunetime.models.losses import task_losses
from prunetime.models.mask_variables import ones
from prunetime.models.threads import training_on
from prunetime.pruning.importance import load_scores, measure_importance, rank_transform, save_scores


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny products on several threads of a busy machine take seconds."""
    with training_on(1):
        yield


TASKS = {
    "classification": Task("classification", ("a", "b", "c"), ("text",), 32),
    "relevance": Task("relevance", (), ("text",), 32),
    "regression": Task("regression", (), ("text",), 32),
}


def made(kind: str = "classification", rows: int = 40):
    rng = np.random.default_rng(0)
    task = TASKS[kind]
    config = random_config(rng, layers=2, heads=2, head_dim=16, ffn=64, outputs=task.outputs)
    model = from_weights(config, random_weights(config, ArchSpec.full(config.dims), rng))
    labels = rng.integers(0, 3, rows) if kind == "classification" else rng.random(rows)
    data = TrainingData(random_ragged(config, rng, rng.integers(2, 20, rows)), labels, task, 0)
    return model, data


def flat(scores):
    return np.concatenate([layer[name] for layer in scores for name in PARTS])


def test_magnitudes_are_the_squares_of_all_weights_that_leave_with_a_part():
    model, data = made()
    weights = {name: array.astype(float) for name, array in weights_of(model).items()}
    scores = measure_importance(model, data, "magnitude")[1]
    matrix = {
        name: weights[f"layers.1.{name}.weight"] for name in model.layers[1].spec.matrix_shapes(model.config.dims)
    }
    head = [*(matrix[name][16:32] for name in ("query", "key", "value")), matrix["attention_output"][:, 16:32]]
    assert scores["heads"][1] == pytest.approx(sum(np.square(part).sum() for part in head))
    assert scores["attention_rows"][5] == pytest.approx(np.square(matrix["attention_output"][5]).sum())
    both = matrix["ffn_input"][7], matrix["ffn_output"][:, 7]
    assert scores["ffn"][7] == pytest.approx(sum(np.square(part).sum() for part in both))
    assert scores["ffn_rows"][3] == pytest.approx(np.square(matrix["ffn_output"][3]).sum())


def test_before_anything_has_moved_nothing_matters():
    model, data = made()
    assert not flat(measure_importance(model, data, "movement")).any()
    assert not flat(rank_transform(measure_importance(model, data, "movement"))).any()


@pytest.mark.parametrize(("criterion", "of_gradient"), [("fisher", np.square), ("taylor", np.abs)])
@pytest.mark.parametrize("kind", TASKS)
def test_it_is_the_mean_of_each_samples_gradient_squared_or_without_sign(kind, criterion, of_gradient):
    model, data = made(kind)
    model.eval()
    total = 0.0
    for row in range(len(data)):
        variables = ones(model.config.dims)
        batch = data.batch([row])
        labels = batch.pop("labels")
        task_losses(model(**batch, mask_variables=variables).logits, labels, data.task).sum().backward()
        gradient = torch.cat([getattr(g, name).grad for g in variables for name in PARTS])
        total = total + of_gradient(gradient.double().numpy())
    found = flat(measure_importance(model, data, criterion))
    np.testing.assert_allclose(found, total / len(data), rtol=1e-3, atol=1e-9)


def test_the_gradient_of_a_gate_is_the_slope_of_the_loss():
    model, data = made(rows=1)
    model.double().eval()
    batch = data.batch([0])
    labels = batch.pop("labels")

    def loss(change: float) -> float:
        variables = [
            type(g)(**{name: getattr(g, name).detach().double() for name in PARTS}) for g in ones(model.config.dims)
        ]
        variables[0].heads[1] += change
        return task_losses(model(**batch, mask_variables=variables).logits, labels, data.task).item()

    slope = (loss(1e-5) - loss(-1e-5)) / 2e-5
    assert measure_importance(model.float(), data)[0]["heads"][1] == pytest.approx(slope**2, rel=1e-3)


def test_it_depends_on_the_seed_only_and_leaves_the_model_as_it_was():
    model, data = made()
    model.train()
    first = flat(measure_importance(model, data, rows=20))
    torch.manual_seed(99)
    seen = []
    np.testing.assert_array_equal(
        flat(measure_importance(model, data, rows=20, on_progress=lambda *done: seen.append(done))), first
    )
    assert (flat(measure_importance(model, data, rows=20, seed=1)) != first).any()
    assert seen == [(20, 20)]
    assert model.training
    assert all(p.grad is None for p in model.parameters())


def test_a_head_that_does_nothing_scores_nothing():
    model, data = made()
    with torch.no_grad():
        model.layers[1].attention_output.weight[:, 16:] = 0.0
    heads = measure_importance(model, data)[1]["heads"]
    assert heads[1] == 0.0 < heads[0]


def test_scores_come_back_from_their_file(tmp_path):
    model, data = made()
    scores = measure_importance(model, data, rows=10)
    save_scores(scores, tmp_path / "scores.safetensors")
    back = load_scores(tmp_path / "scores.safetensors", model.config.dims)
    np.testing.assert_array_equal(flat(back), flat(scores))
    assert [list(layer) for layer in back] == [list(PARTS)] * 2


def test_a_damaged_missing_or_foreign_file_is_refused(tmp_path):
    model, data = made()
    path = tmp_path / "scores.safetensors"
    with pytest.raises(InputError, match="cannot read"):
        load_scores(path, model.config.dims)
    save_scores(measure_importance(model, data, rows=10), path)
    other = random_config(np.random.default_rng(0), layers=3).dims
    with pytest.raises(InputError, match="another encoder"):
        load_scores(path, other)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InputError, match="cannot read"):
        load_scores(path, model.config.dims)
