import copy
import dataclasses

import numpy as np
import pytest
import torch
from cases import random_config, random_ragged, random_weights
from trainings import (
    CLASSES,
    DIMS,
    REGRESSION,
    RELEVANCE,
    SETTINGS,
    SIZES,
    SUB_NETWORKS,
    config,
    dense,
    digest,
    dropping,
    half,
    loss_of,
    made,
)

from prunetime.core.arch import ArchSpec, KeptBlocks
from prunetime.errors import InputError, PrunetimeError
from prunetime.models import encoder
from prunetime.models.batches import LengthBucketedBatches, TrainingData
from prunetime.models.distill import Distillation
from prunetime.models.encoder import SequenceClassifier, from_weights, weights_of
from prunetime.models.losses import task_losses
from prunetime.models.prefix import run_prefix
from prunetime.models.tokens import kinds_of
from prunetime.training.settings import best_precision
from prunetime.training.trainer import fit


@pytest.mark.parametrize(
    ("task", "precision"),
    [
        (CLASSES, "fp32"),
        (RELEVANCE, "fp32"),
        (REGRESSION, "bf16"),
        *(pytest.param(*rest, marks=pytest.mark.full)
          for rest in ((CLASSES, "bf16"), (RELEVANCE, "bf16"), (REGRESSION, "fp32"))),
    ],
)  # fmt: skip
def test_it_learns_what_it_is_shown(tmp_path, task, precision):
    model = dense(task)
    data = made(task, rows=300)
    before = loss_of(model, made(task, rows=200, seed=9))
    fit(model, data, dataclasses.replace(SETTINGS, epochs=6.0, precision=precision), tmp_path)
    assert loss_of(model, made(task, rows=200, seed=9)) < before / 2
    assert not model.training


def test_it_is_adamw_with_warmup_decay_and_clipping_over_the_whole_vocabulary(tmp_path):
    model, reference, data = dense(dropout=0.0), dense(dropout=0.0), made()
    fit(model, data, dataclasses.replace(SETTINGS, weight_decay=0.1), tmp_path)

    steps = SETTINGS.steps(len(data))
    named = dict(reference.named_parameters())
    decayed = [p for name, p in named.items() if p.ndim == 2 and "embeddings" not in name]
    plain = [p for name, p in named.items() if p.ndim == 1 or "embeddings" in name]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.0)
    for step, rows in enumerate(LengthBucketedBatches(data.tokens.lengths, SETTINGS.batch_size, steps, seed=0)):
        warm = -(-steps // 10)
        share = (step + 1) / (warm + 1) if step < warm else (steps - step) / (steps - warm)
        for group in optimizer.param_groups:
            group["lr"] = SETTINGS.learning_rate * share
        batch = data.batch(rows)
        labels = batch.pop("labels")
        optimizer.zero_grad()
        task_losses(reference(**batch).logits, labels, data.task).mean().backward()
        torch.nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
        optimizer.step()

    for name, array in weights_of(model).items():
        np.testing.assert_allclose(array, named[name].detach().numpy(), atol=2e-5, err_msg=name)


def test_words_that_never_occur_keep_their_rows(tmp_path):
    model = dense()
    before = weights_of(model)["embeddings.word.weight"]
    fit(model, made(), SETTINGS, tmp_path)
    after = weights_of(model)["embeddings.word.weight"]
    np.testing.assert_array_equal(after[50:], before[50:])
    assert (after[3:40] != before[3:40]).any(axis=1).all()


def test_a_student_comes_closer_to_its_teacher_when_distilled(tmp_path):
    data, fresh = made(), made(seed=5)
    teacher = dense()
    fit(teacher, data, SETTINGS, tmp_path / "teacher")
    before = digest(teacher)

    def distance(name: str, guide: SequenceClassifier | None) -> float:
        student = half()
        settings = dataclasses.replace(SETTINGS, distillation=Distillation(logits=5.0))
        fit(student, data, settings, tmp_path / name, guide)
        batch = fresh.batch(range(len(fresh)))
        del batch["labels"]
        with torch.no_grad():
            ours, theirs = student(**batch), teacher(**batch)
        return sum(((a - b) ** 2).mean().item() for a, b in zip(ours.hidden_states, theirs.hidden_states, strict=True))

    assert distance("distilled", teacher) < 0.9 * distance("alone", None)
    assert digest(teacher) == before


def test_blocks_and_dropped_tokens_train_and_the_separator_stays_what_it_is(tmp_path, monkeypatch):
    model = dropping((KeptBlocks("ffn_input", 32, 16, 2),))
    data = made(rows=120)
    pruned = (model.layers[0].ffn_input.weight == 0).all(0)
    separated = []

    def watched(ids, mask, separator):
        separated.append(0 if separator is None else int((ids == separator).sum()))
        return kinds_of(ids, mask, separator)

    monkeypatch.setattr(encoder, "kinds_of", watched)
    before = loss_of(model, data)
    occur = separated.pop()
    fit(model, data, dataclasses.replace(SETTINGS, epochs=1.0, batch_size=120), tmp_path, teacher=dense())
    assert separated == [occur, 0]  # the student's, and the teacher's, which has none
    assert occur == (data.tokens.ids == 40).sum() > 0
    assert loss_of(model, data) < before
    assert ((model.layers[0].ffn_input.weight == 0).all(0) == pruned).all()


def test_padding_in_texts_has_its_position_in_training_too(tmp_path, monkeypatch):
    settings = random_config(np.random.default_rng(0), **SIZES, family="roberta", outputs=CLASSES.outputs)
    model = SequenceClassifier(settings)
    padding, found = model.embeddings.padding, []
    data = dataclasses.replace(made(rows=40), pad_id=padding)
    data.tokens.ids[::7] = padding
    assert set(range(settings.dims.vocabulary)) - set(data.tokens.ids)  # training numbers the words anew

    def watched(ids):
        positions = encoder.Embeddings._positions(model.embeddings, ids)
        found.append(int((positions == padding).sum()))
        return positions

    monkeypatch.setattr(model.embeddings, "_positions", watched)
    fit(model, data, dataclasses.replace(SETTINGS, epochs=1.0, batch_size=40), tmp_path)
    longest = data.tokens.lengths.max()
    assert found[0] == (data.tokens.ids == padding).sum() + (longest - data.tokens.lengths).sum()


def test_seeds_differ_and_weights_are_otherwise_a_function_of_the_arguments(tmp_path):
    digests = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        model = dense()
        settings = dataclasses.replace(SETTINGS, seed=seed)
        fit(model, made(), settings, tmp_path / name, on_progress=lambda *_: torch.rand(len(digests) + 1))
        digests.append(digest(model))
    assert digests[0] == digests[1] != digests[2]


def test_it_prints_nothing_and_reports_every_step(tmp_path, capfd):
    steps = []
    fit(dense(), made(), SETTINGS, tmp_path, on_progress=lambda *done: steps.append(done))
    assert steps == [(step, 24) for step in range(1, 25)]
    assert capfd.readouterr() == ("", "")


def test_the_number_of_threads_is_as_it_was(tmp_path):
    threads = torch.get_num_threads()
    fit(dense(), made(), dataclasses.replace(SETTINGS, threads=threads + 1, epochs=0.2), tmp_path)
    assert torch.get_num_threads() == threads


def test_pruned_output_rows_train_in_both_precisions(tmp_path):
    rng = np.random.default_rng(0)
    spec = ArchSpec.full(wide := random_config(rng, layers=2, hidden=64, heads=2, head_dim=32, outputs=2).dims)
    spec = spec.with_layer(0, attention_rows=32).with_layer(1, ffn_rows=32, heads=0)
    whole = random_config(rng, **{**wide.to_json(), "vocabulary": 60, "outputs": 2})
    for precision in ("fp32", "bf16"):
        model = from_weights(whole, random_weights(whole, spec, rng))
        data = made()
        fit(model, data, dataclasses.replace(SETTINGS, precision=precision), tmp_path / precision)
        assert np.isfinite(loss_of(model, data))


def test_a_loss_that_is_no_number_ends_the_training(tmp_path):
    model = dense()
    with torch.no_grad():
        model.head.output.bias.fill_(float("nan"))
    with pytest.raises(PrunetimeError, match="lower the learning rate"):
        fit(model, made(), SETTINGS, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0.0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"warmup": 2.0},
        {"precision": "int8"},
        {"threads": 0},
    ],
)
def test_settings_that_cannot_train_are_refused(change):
    with pytest.raises(InputError):
        dataclasses.replace(SETTINGS, **change)


def test_the_best_precision_is_one_that_can_be_set():
    assert dataclasses.replace(SETTINGS, precision=best_precision()).precision in ("fp32", "bf16")


def test_random_tokens_of_two_texts_train_too(tmp_path):
    rng = np.random.default_rng(0)
    tokens = random_ragged(config(), rng, rng.integers(2, 16, 40))
    data = TrainingData(tokens, rng.integers(0, 2, 40), CLASSES, 0)
    model = dense()
    before = weights_of(model)["embeddings.token_type.weight"]
    fit(model, data, SETTINGS, tmp_path)
    assert (weights_of(model)["embeddings.token_type.weight"] != before).any(axis=1).all()


SHALLOW = ArchSpec.of(DIMS, [0, 1], [64, 0])


def loss_of_prefix(model: SequenceClassifier, spec: ArchSpec, data: TrainingData) -> float:
    batch = data.batch(range(len(data)))
    labels = batch.pop("labels")
    with torch.no_grad():
        inputs = tuple(batch[name] for name in ("input_ids", "attention_mask", "token_type_ids"))
        return task_losses(run_prefix(model.eval(), spec, inputs).logits, labels, CLASSES).mean().item()


@pytest.fixture(scope="module")
def learned(tmp_path_factory) -> SequenceClassifier:
    model = dense()
    fit(model, made(rows=300), dataclasses.replace(SETTINGS, epochs=8.0), tmp_path_factory.mktemp("whole"))
    return model


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_sub_networks_learn_what_the_whole_knows_and_it_forgets_nothing(tmp_path, learned, precision):
    data, fresh = made(rows=300), made(rows=200, seed=9)
    model = copy.deepcopy(learned)
    before = loss_of_prefix(model, SHALLOW, fresh)
    settings = dataclasses.replace(SETTINGS, epochs=4.0, precision=precision)
    fit(model, data, settings, tmp_path, sub_networks=SUB_NETWORKS)
    assert loss_of_prefix(model, SHALLOW, fresh) < before / 5
    assert loss_of(model, fresh) < 0.02


def test_elastic_training_with_a_teacher_stays_nearer_to_what_it_knows(tmp_path, learned):
    fresh, data = made(rows=200, seed=9), made(rows=300)
    wrong = dataclasses.replace(data, labels=1 - data.labels)
    alone, taught = copy.deepcopy(learned), copy.deepcopy(learned)
    fit(alone, wrong, SETTINGS, tmp_path / "alone", sub_networks=SUB_NETWORKS)
    fit(taught, wrong, SETTINGS, tmp_path / "taught", learned, sub_networks=SUB_NETWORKS)
    assert loss_of(taught, fresh) < 0.9 * loss_of(alone, fresh)
