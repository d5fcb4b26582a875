"""Training to answer questions: losses beside `BertForQuestionAnswering`, padding that counts for nothing, learning."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax
from tiny import wordpiece
from transformers import BertConfig, BertForQuestionAnswering

from prunetime.core.config import EncoderConfig
from prunetime.core.task import Answer, Task
from prunetime.errors import InputError
from prunetime.inference.engine import Engine
from prunetime.inference.ragged import Ragged
from prunetime.inference.reading import read
from prunetime.inference.tokenize import Tokenizer
from prunetime.models.batches import TrainingData
from prunetime.models.distill import logits_distance
from prunetime.models.encoder import SequenceClassifier, weights_of
from prunetime.models.families import load
from prunetime.models.losses import task_losses
from prunetime.pruning.importance import measure_importance
from prunetime.tasks.metrics import metric
from prunetime.training.settings import TrainingSettings
from prunetime.training.trainer import fit

TASK = Task("question-answering", (), ("question", "context"), 24, 8)
LENGTHS = (9, 4, 12, 6)


@pytest.fixture
def pretrained(tmp_path: Path) -> tuple[SequenceClassifier, BertForQuestionAnswering]:
    """A random model for answers, and the same in transformers."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(**sizes, intermediate_size=64, max_position_embeddings=24, initializer_range=0.2)
    reference = BertForQuestionAnswering(config).eval()
    reference.save_pretrained(tmp_path / "bert")
    loaded = load(str(tmp_path / "bert"), 2, kind="question-answering")
    assert loaded.has_head
    return loaded.model.eval(), reference


def made(seed: int = 0) -> TrainingData:
    rng = np.random.default_rng(seed)
    tokens = Ragged.of([rng.integers(3, 60, length).tolist() for length in LENGTHS])
    labels = np.array([sorted(rng.integers(0, length, 2)) for length in LENGTHS])
    return TrainingData(tokens, labels, TASK, 0)


def test_the_loss_of_a_padded_batch_is_that_of_transformers_for_each_row_alone(pretrained) -> None:
    model, reference = pretrained
    data = made()
    batch = data.batch(range(len(data)))
    labels = batch.pop("labels")
    found = task_losses(model(**batch).logits, labels, TASK)
    expected = []
    for row in range(len(data)):
        alone = data.batch([row])
        start, end = alone.pop("labels").T
        expected.append(reference(**alone, start_positions=start, end_positions=end).loss)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_distances_of_logits_are_divergences_over_the_tokens_that_are_there(pretrained, temperature) -> None:
    model, _ = pretrained
    data, other = made(), SequenceClassifier(model.config).eval()
    batch = data.batch(range(len(data)))
    batch.pop("labels")
    student, teacher = (each(**batch).logits.detach() for each in (model, other))
    found = logits_distance(student, teacher, temperature, choice="tokens")
    expected = []
    for row, length in enumerate(LENGTHS):
        p, q = (softmax(each[row, :length].double().numpy() / temperature, axis=0) for each in (teacher, student))
        expected.append(temperature**2 * rel_entr(p, q).sum(0))
    assert found.item() == pytest.approx(float(np.mean(expected)), rel=1e-4)
    assert logits_distance(student, student, temperature, choice="tokens").item() == pytest.approx(0.0, abs=1e-6)


def test_importance_is_that_of_rows_without_padding(pretrained) -> None:
    model, _ = pretrained
    data = made()
    together = measure_importance(model, data, "fisher", rows=4)
    alone = [measure_importance(model, data.select([row]), "fisher", rows=1) for row in range(4)]
    for layer, found in enumerate(together):
        for name, scores in found.items():
            expected = np.mean([each[layer][name] for each in alone], axis=0)
            np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize(
    "labels", [[[0, 1]] * 3, [[0, 1]] * 3 + [[0, 6]], [[0, -1]] * 4, [0, 1, 2, 3]], ids=["rows", "long", "low", "shape"]
)
def test_positions_outside_of_their_rows_are_refused(labels) -> None:
    with pytest.raises(InputError, match=r"positions of tokens in their rows, \[4, 2\]|one label per row"):
        TrainingData(made().tokens, np.array(labels), TASK, 0)


def test_a_model_learns_where_answers_are_and_the_engine_says_them(tmp_path: Path) -> None:
    """A question names what comes before its answer; contexts are longer than a window."""
    rng = np.random.default_rng(0)
    names, values = ["red", "blue", "green", "gray"], [f"{letter}{n}" for letter in "xyz" for n in range(4)]
    texts, labels = [], []
    for _ in range(150):
        words: list[str] = []
        for name in rng.permutation(names):
            words += [str(name), *["filler"] * int(rng.integers(1, 4)), "is", str(rng.choice(values))]
        asked = str(rng.choice(names))
        at = words.index("is", words.index(asked)) + 1
        texts.append((asked, " ".join(words)))
        labels.append((Answer(words[at], len(" ".join(words[:at])) + 1),))
    pieces = wordpiece([" ".join(pair) for pair in texts])
    tokenizer = Tokenizer(pieces.to_str().encode(), 24)
    inputs, gold = read(tokenizer, TASK, texts), np.fromiter(labels, object, len(labels))
    assert len(inputs.tokens) > 1.2 * len(texts)
    dims = {"layers": 2, "hidden": 64, "heads": 4, "head_dim": 16, "ffn": 128, "vocabulary": pieces.get_vocab_size()}
    config = EncoderConfig.from_json(
        {"family": "bert", "dims": {**dims, "positions": 24}, "embedding": 64, "token_types": 2,
         "layer_norm_eps": 1e-12, "outputs": 2, "rows": "tokens"}
    )  # fmt: skip
    torch.manual_seed(0)
    model = SequenceClassifier(config, dropout=0.0)
    data = TrainingData(inputs.tokens, inputs.targets(gold), TASK, 0)
    fit(model, data, TrainingSettings(30, learning_rate=2e-3), tmp_path)
    said = inputs.scores(Engine(config, weights_of(model)).logits(inputs.tokens))
    assert metric("exact").value(said, gold, np.arange(len(gold))) > 0.5  # one of four by guessing
