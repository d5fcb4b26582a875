"""Training for words, several labels and embeddings: losses, distances from a teacher, importance; it learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import random_config, random_ragged, random_weights
from scipy.special import rel_entr, softmax
from scipy.stats import spearmanr
from torch.nn import functional

from prunetime.core.arch import ArchSpec
from prunetime.core.task import Task
from prunetime.errors import InputError
from prunetime.inference.tagging import NO_LABEL
from prunetime.models.batches import TrainingData
from prunetime.models.distill import Distillation, logits_distance
from prunetime.models.encoder import SequenceClassifier, from_weights
from prunetime.models.losses import task_losses
from prunetime.pruning.importance import measure_importance
from prunetime.training.settings import TrainingSettings
from prunetime.training.trainer import fit

WORDS = Task("token-classification", ("O", "B-X", "I-X"), ("tokens",), 24)
LABELS = Task("multi-label-classification", ("a", "b", "c"), ("text",), 24)
TWINS = Task("similarity", (), ("a", "b"), 24)


def of_words(rows: int = 6, seed: int = 0) -> tuple[SequenceClassifier, TrainingData]:
    rng = np.random.default_rng(seed)
    config = random_config(rng, layers=2, outputs=3, rows="tokens")
    tokens = random_ragged(config, rng, rng.integers(3, 20, rows))
    labels = rng.integers(0, 3, tokens.ids.size)
    labels[tokens.offsets[:-1]] = NO_LABEL  # as of [CLS]
    model = from_weights(config, random_weights(config, ArchSpec.full(config.dims), rng), dropout=0.0)
    return model, TrainingData(tokens, labels, WORDS, 0)


def of_labels(rows: int = 6, seed: int = 0) -> tuple[SequenceClassifier, TrainingData]:
    """A label says that its token is among the first ten of the vocabulary's in a text."""
    rng = np.random.default_rng(seed)
    config = random_config(rng, layers=2, outputs=3)
    tokens = random_ragged(config, rng, rng.integers(3, 20, rows))
    texts = np.split(tokens.ids % 10, tokens.offsets[1:-1])
    labels = np.array([[label in text for label in range(3)] for text in texts], np.float32)
    model = from_weights(config, random_weights(config, ArchSpec.full(config.dims), rng), dropout=0.0)
    return model, TrainingData(tokens, labels, LABELS, 0)


def of_twins(pairs: int = 6, seed: int = 0) -> tuple[SequenceClassifier, TrainingData]:
    rng = np.random.default_rng(seed)
    config = random_config(rng, layers=2, rows="embedding", pooling="mean")
    tokens = random_ragged(config, rng, rng.integers(3, 20, 2 * pairs))
    model = from_weights(config, random_weights(config, ArchSpec.full(config.dims), rng), dropout=0.0)
    return model, TrainingData(tokens, rng.uniform(0, 1, pairs).astype(np.float32), TWINS, 0)


def losses(model: SequenceClassifier, data: TrainingData, examples: list[int]) -> torch.Tensor:
    batch = data.batch(examples)
    labels = batch.pop("labels")
    with torch.no_grad():
        return task_losses(model.eval()(**batch).logits, labels, data.task)


@pytest.mark.parametrize("made", [of_words, of_labels, of_twins])
def test_padding_and_neighbours_change_no_loss(made) -> None:
    model, data = made()
    assert len(data) == 6
    alone = torch.cat([losses(model, data, [example]) for example in range(6)])
    torch.testing.assert_close(losses(model, data, [5, 0, 3]), alone[[5, 0, 3]], rtol=1e-4, atol=1e-5)
    part = data.select([4, 1])
    torch.testing.assert_close(losses(model, part, [0, 1]), alone[[4, 1]], rtol=1e-4, atol=1e-5)


def test_the_loss_of_words_is_their_mean_cross_entropy() -> None:
    model, data = of_words()
    tokens, labels = data.tokens.select([2]), data.labels[data.tokens.offsets[2] : data.tokens.offsets[3]]
    with torch.no_grad():
        ids, mask, types = (torch.from_numpy(array).long() for array in tokens.padded(0))
        (logits,) = model.eval()(ids, mask, types).logits
    expected = functional.cross_entropy(logits, torch.from_numpy(labels))  # -100 is left out
    torch.testing.assert_close(losses(model, data, [2])[0], expected, rtol=1e-4, atol=1e-5)


def test_the_loss_of_twins_is_the_squared_error_of_the_cosine() -> None:
    logits = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0], [0.0, -1.0]])
    found = task_losses(logits, torch.tensor([1.0, 0.0]), TWINS)
    torch.testing.assert_close(found, torch.tensor([(0.5**0.5 - 1) ** 2, 1.0]))


def test_distances_of_words_are_divergences_of_their_labels_without_padding() -> None:
    rng = np.random.default_rng(0)
    student, teacher = (torch.from_numpy(rng.normal(size=(2, 4, 3))).float() for _ in range(2))
    tokens = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    each = rel_entr(*(softmax(logits.numpy() / 2.0, axis=-1) for logits in (teacher, student))).sum(-1)
    expected = 4.0 * np.mean([each[0].mean(), each[1, :2].mean()])
    assert WORDS.traits.choice == "outputs"
    assert logits_distance(student, teacher, 2.0, tokens).item() == pytest.approx(expected, rel=1e-5)


def test_the_distance_of_embeddings_is_that_of_directions() -> None:
    one, other = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.tensor([[5.0, 0.0], [1.0, 0.0]])
    assert TWINS.traits.choice == "embedding"
    assert logits_distance(one, other, 2.0, choice=TWINS.traits.choice).item() == pytest.approx(0.5)


@pytest.mark.parametrize("made", [of_words, of_labels, of_twins])
def test_importance_does_not_depend_on_padding(made) -> None:
    model, data = made()
    together = measure_importance(model, data)
    alone = [measure_importance(model, data.select([example])) for example in range(len(data))]
    for layer in range(2):
        for part, scores in together[layer].items():
            expected = np.mean([each[layer][part] for each in alone], axis=0)
            np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-8 * expected.max())


def test_words_are_learned(tmp_path: Path) -> None:
    model, data = of_words(200)
    labels = np.where(data.labels == NO_LABEL, NO_LABEL, data.tokens.ids % 3)
    data = TrainingData(data.tokens, labels, WORDS, 0)
    before = losses(model, data, list(range(200))).mean()
    fit(model, data, TrainingSettings(4.0, batch_size=16, learning_rate=2e-3, threads=1), tmp_path)
    assert losses(model, data, list(range(200))).mean() < 0.3 * before


def test_several_labels_are_learned_and_distilled(tmp_path: Path) -> None:
    model, data = of_labels(200)
    before = losses(model, data, list(range(200))).mean()
    settings = TrainingSettings(6.0, batch_size=16, learning_rate=2e-3, threads=1)
    fit(model, data, settings, tmp_path / "teacher")
    assert losses(model, data, list(range(200))).mean() < 0.3 * before
    weights = random_weights(model.config, ArchSpec.full(model.config.dims), np.random.default_rng(1))
    student = from_weights(model.config, weights, dropout=0.0)
    wrong = TrainingData(data.tokens, 1 - data.labels, LABELS, 0)
    distilled = replace(settings, distillation=Distillation(task=0.0, hidden=0.0))
    fit(student, wrong, distilled, tmp_path / "student", teacher=model)
    assert losses(student, data, list(range(200))).mean() < 0.5 * before


def test_twins_are_learned(tmp_path: Path) -> None:
    """Texts are alike by how many of their tokens they share."""
    model, data = of_twins(200)
    rows = [set(data.tokens.ids[s:e]) for s, e in zip(data.tokens.offsets[:-1], data.tokens.offsets[1:], strict=True)]
    shared = [len(a & b) / len(a | b) for a, b in zip(rows[0::2], rows[1::2], strict=True)]
    data = TrainingData(data.tokens, np.float32(shared), TWINS, 0)
    fit(model, data, TrainingSettings(6.0, batch_size=16, learning_rate=1e-3, threads=1), tmp_path)
    batch = data.batch(range(200))
    batch.pop("labels")
    with torch.no_grad():
        embeddings = model.eval()(**batch).logits
    cosines = functional.cosine_similarity(embeddings[0::2], embeddings[1::2])
    assert spearmanr(cosines.numpy(), shared).statistic > 0.6


def test_labels_that_do_not_fit_are_refused() -> None:
    _, words = of_words()
    for labels, message in (
        (words.labels[:-1], "training needs one label per row"),
        (np.where(words.labels == 2, 3, words.labels), "class indices from 0 to 2"),
    ):
        with pytest.raises(InputError, match=message):
            TrainingData(words.tokens, labels, WORDS, 0)
    _, several = of_labels()
    for wrong in (several.labels[:, :2], several.labels + 1, several.labels[:, 0]):
        with pytest.raises(InputError, match=r"labels of a multi-label-classification are 0 or 1, \[6, 3\]"):
            TrainingData(several.tokens, wrong, LABELS, 0)
    _, twins = of_twins()
    with pytest.raises(InputError, match="6 rows of tokens with 12 labels"):
        TrainingData(twins.tokens, np.zeros(12, np.float32), TWINS, 0)
