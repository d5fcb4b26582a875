import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from cases import random_config, random_ragged, random_spec, random_weights
from reference import reference_logits
from safetensors.numpy import load_file, save_file
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForQuestionAnswering,
    Trainer,
    TrainingArguments,
)
from transformers.utils import logging

from prunetime.core.arch import ArchSpec, KeptBlocks, LayerSpec
from prunetime.core.task import Task
from prunetime.errors import InputError
from prunetime.models.encoder import SequenceClassifier
from prunetime.models.families import load
from prunetime.models.hf import config_json
from prunetime.models.modeling import (
    PrunetimeConfig,
    PrunetimeForQuestionAnswering,
    PrunetimeForSequenceClassification,
)

logging.disable_progress_bar()

CLASSES = Task("classification", ("no", "maybe", "yes"), ("text",), 16)
RELEVANCE = Task("relevance", (), ("query", "title"), 16)
REGRESSION = Task("regression", (), ("text",), 16)
ANSWERS = Task("question-answering", (), ("question", "context"), 16, 4)


@pytest.fixture
def rng():
    return np.random.default_rng(23)


def write_folder(folder, config, spec, weights, task):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_bytes(config_json(config, spec, task))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def pruned(rng, task):
    """Uneven layers: pruned heads, rows, blocks and tokens, layers without attention or FFN, and one that is gone."""
    config = random_config(rng, layers=4, heads=4, head_dim=16, ffn=96, outputs=task.outputs)
    blocks = (KeptBlocks("value", 32, 32, 2), KeptBlocks("attention_output", 32, 1, 30))
    spec = ArchSpec(
        (
            LayerSpec(3, 32, 64, 32, blocks, tokens=0.7),
            LayerSpec(0, 64, 32, 64, (KeptBlocks("ffn_input", 16, 16, 0),)),
            LayerSpec(1, 64, 0, 64),
            LayerSpec(0, 64, 0, 64),
        )
    )
    return config, spec, random_weights(config, spec, rng)


def logits_of(model, ragged):
    ids, mask, types = (torch.from_numpy(array) for array in ragged.padded(0))
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask, token_type_ids=types).logits.numpy()


@pytest.mark.parametrize("task", [CLASSES, RELEVANCE, REGRESSION], ids=lambda task: task.kind)
def test_a_pruned_folder_loads_and_saves_unchanged(tmp_path, rng, task):
    config, spec, weights = pruned(rng, task)
    write_folder(tmp_path / "one", config, spec, weights, task)
    ragged = random_ragged(config, rng, [4, 30])
    expected = reference_logits(config, weights, ragged, spec)
    model, report = AutoModelForSequenceClassification.from_pretrained(tmp_path / "one", output_loading_info=True)
    assert not any(report.values())
    np.testing.assert_allclose(logits_of(model, ragged), expected, rtol=0, atol=1e-5)
    model.save_pretrained(tmp_path / "two")
    again = load_file(tmp_path / "two" / "model.safetensors")
    assert again.keys() == weights.keys()
    for name, array in weights.items():
        assert again[name].dtype == array.dtype
        np.testing.assert_array_equal(again[name], array)
    twice = AutoModelForSequenceClassification.from_pretrained(tmp_path / "two")
    assert twice.config.problem_type == model.config.problem_type
    np.testing.assert_array_equal(logits_of(twice, ragged), logits_of(model, ragged))


def test_the_config_has_labels_encoder_and_spec(tmp_path, rng):
    config, spec, weights = pruned(rng, CLASSES)
    write_folder(tmp_path, config, spec, weights, CLASSES)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, PrunetimeConfig)
    assert loaded.id2label == {0: "no", 1: "maybe", 2: "yes"}
    assert loaded.label2id == {"no": 0, "maybe": 1, "yes": 2}
    assert (loaded.num_labels, loaded.problem_type) == (3, "single_label_classification")
    assert loaded.encoder == config.to_json()
    assert ArchSpec.from_json(loaded.spec) == spec


def test_loading_in_a_process_that_only_imports_our_classes(tmp_path, rng):
    config, spec, weights = pruned(rng, RELEVANCE)
    write_folder(tmp_path, config, spec, weights, RELEVANCE)
    code = f"""
import prunetime.models.hf
from transformers import AutoModelForSequenceClassification
print(type(AutoModelForSequenceClassification.from_pretrained({str(tmp_path)!r})).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "PrunetimeForSequenceClassification"


def test_state_dict_names_are_the_encoders(rng):
    config = random_config(rng)
    spec = random_spec(config, rng)
    model = PrunetimeForSequenceClassification(PrunetimeConfig.of(config, spec))
    assert model.state_dict().keys() == SequenceClassifier(config, spec).state_dict().keys()


@pytest.mark.parametrize(
    ("problem_type", "outputs", "labels", "reference"),
    [
        ("single_label_classification", 3, [0, 2, 1], lambda x, y: functional.cross_entropy(x, y)),
        (
            "multi_label_classification",
            1,
            [0.0, 0.3, 1.0],
            lambda x, y: functional.binary_cross_entropy(x.sigmoid()[:, 0], y),
        ),
        (
            "multi_label_classification",
            3,
            [[0, 1, 1], [0, 0, 0], [1, 0, 0]],
            lambda x, y: functional.binary_cross_entropy_with_logits(x, y.float()),
        ),
        ("regression", 1, [-1.0, 0.5, 7.0], lambda x, y: ((x[:, 0] - y) ** 2).mean()),
    ],
)
def test_losses(rng, problem_type, outputs, labels, reference):
    config = random_config(rng, outputs=outputs)
    spec = random_spec(config, rng)
    model = PrunetimeForSequenceClassification(PrunetimeConfig.of(config, spec, problem_type=problem_type)).eval()
    ids = torch.zeros(3, 5, dtype=torch.long)
    output = model(input_ids=ids, labels=torch.tensor(labels))
    torch.testing.assert_close(output.loss, reference(output.logits, torch.tensor(labels)))
    items = torch.tensor(labels).numel()  # as Trainer counts those of all batches of a step
    whole = model(input_ids=ids, labels=torch.tensor(labels), num_items_in_batch=2 * items)
    torch.testing.assert_close(2 * whole.loss, output.loss)


def test_hidden_states_on_request(rng):
    config = random_config(rng, layers=3)
    model = PrunetimeForSequenceClassification(PrunetimeConfig.of(config, ArchSpec.full(config.dims)))
    ids = torch.zeros(2, 5, dtype=torch.long)
    assert model(input_ids=ids).hidden_states is None
    assert len(model(input_ids=ids, output_hidden_states=True).hidden_states) == 4


def test_transformers_trainer_trains_a_pruned_model(tmp_path, rng):
    config = random_config(rng, layers=2, heads=2, head_dim=16, ffn=64, vocabulary=20, outputs=2)
    spec = ArchSpec.of(config.dims, heads=[1, 2], ffn=[32, 0])
    torch.manual_seed(0)
    model = PrunetimeForSequenceClassification(PrunetimeConfig.of(config, spec))
    ids = rng.integers(0, 20, (64, 6))
    rows = [{"input_ids": row, "attention_mask": np.ones(6, np.int64), "labels": int(row[1] < 10)} for row in ids]
    arguments = TrainingArguments(
        tmp_path, max_steps=60, learning_rate=5e-3, per_device_train_batch_size=16, report_to=[], disable_tqdm=True,
        save_strategy="no", use_cpu=True, logging_steps=1000,
    )  # fmt: skip
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.5 * before


def test_missing_indices_and_blocks_are_not_left_undefined(tmp_path, rng):
    config, spec, weights = pruned(rng, REGRESSION)
    for name in ("layers.0.ffn_rows", "layers.0.value.blocks", "layers.0.value.block_index"):
        del weights[name]
    write_folder(tmp_path, config, spec, weights, REGRESSION)
    model, report = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert report["missing_keys"] == {"layers.0.ffn_rows", "layers.0.value.blocks", "layers.0.value.block_index"}
    assert model.layers[0].ffn_rows.tolist() == list(range(32))
    assert model.layers[0].value.block_index.tolist() == [0, 1]
    assert 0.01 < model.layers[0].value.blocks.std() < 0.04


def test_a_tokenizer_without_its_own_config_is_found(tmp_path, rng):
    from tokenizers import Tokenizer, models

    config, spec, weights = pruned(rng, REGRESSION)
    write_folder(tmp_path, config, spec, weights, REGRESSION)
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "hello": 1}, unk_token="[UNK]"))
    words.save(str(tmp_path / "tokenizer.json"))
    assert AutoTokenizer.from_pretrained(tmp_path)("hello")["input_ids"] == [1]


def test_a_task_that_does_not_fit_the_head(rng):
    config, spec, _ = pruned(rng, CLASSES)
    with pytest.raises(InputError, match="a regression task of 1 outputs for a model of 3"):
        config_json(config, spec, REGRESSION)


def test_rows_per_token_are_refused(rng):
    config = random_config(rng, layers=1, outputs=2, rows="tokens")
    spec = ArchSpec.full(config.dims)
    with pytest.raises(InputError, match="the model gives tokens rows; a regression task needs pooled rows"):
        config_json(config, spec, REGRESSION)
    with pytest.raises(InputError, match="gives tokens rows; PrunetimeForSequenceClassification needs pooled rows"):
        PrunetimeForSequenceClassification(PrunetimeConfig.of(config, spec))
    with pytest.raises(InputError, match="gives pooled rows; PrunetimeForQuestionAnswering needs tokens rows"):
        PrunetimeForQuestionAnswering(PrunetimeConfig.of(replace(config, rows="pooled"), spec))
    with pytest.raises(InputError, match="the model gives pooled rows; a question-answering task needs tokens rows"):
        config_json(replace(config, rows="pooled"), spec, ANSWERS)


def test_a_pruned_folder_that_answers_questions_loads_and_saves_unchanged(tmp_path, rng):
    config = random_config(rng, layers=2, heads=4, head_dim=16, ffn=96, outputs=2, rows="tokens")
    spec = random_spec(config, rng, blocks=True)
    weights = random_weights(config, spec, rng)
    write_folder(tmp_path / "one", config, spec, weights, ANSWERS)
    ragged = random_ragged(config, rng, [4, 30])
    expected = reference_logits(config, weights, ragged, spec)
    model, report = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "one", output_loading_info=True)
    assert not any(report.values())
    model.save_pretrained(tmp_path / "two")
    again = load_file(tmp_path / "two" / "model.safetensors")
    assert all(np.array_equal(again[name], array) for name, array in weights.items())
    ids, mask, types = (torch.from_numpy(array) for array in ragged.padded(0))
    with torch.no_grad():
        output = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "two")(ids, mask, types)
    for i, logits in enumerate((output.start_logits, output.end_logits)):
        np.testing.assert_allclose(logits[mask == 1], expected[:, i], rtol=0, atol=1e-5)


def test_logits_and_loss_of_answers_are_those_of_transformers(tmp_path, rng):
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    reference = BertForQuestionAnswering(BertConfig(**sizes, intermediate_size=96, initializer_range=0.2)).eval()
    reference.save_pretrained(tmp_path)
    pretrained = load(str(tmp_path), 2, kind="question-answering")
    model = PrunetimeForQuestionAnswering(PrunetimeConfig.of(pretrained.config, pretrained.model.spec)).eval()
    model.load_state_dict(pretrained.model.state_dict())
    ids = torch.from_numpy(rng.integers(0, 50, (3, 5)))
    positions = {"start_positions": torch.tensor([0, 2, 9]), "end_positions": torch.tensor([1, 4, 9])}
    found, expected = model(ids, **positions), reference(ids, **positions)  # the third is outside: it does not count
    for name in ("loss", "start_logits", "end_logits"):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-5)
    assert model(ids).loss is None
    assert len(model(ids, output_hidden_states=True).hidden_states) == 2


def test_the_same_config_gives_the_same_bytes(rng):
    config, spec, _ = pruned(rng, CLASSES)
    assert config_json(config, spec, CLASSES) == config_json(config, spec, CLASSES)
    assert json.loads(config_json(config, spec, CLASSES))["model_type"] == "prunetime"
