"""Folders that are damaged, or no models: each is refused, with what is wrong."""

import json
import shutil

import numpy as np
import pytest
import torch
from cases import random_config, random_spec
from checkpoints import bert, save_bin, save_sharded_safetensors
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from prunetime.core.task import Task
from prunetime.errors import InputError
from prunetime.models.families import load
from prunetime.models.hf import config_json

logging.disable_progress_bar()


def edit_config(**changes):
    def edit(folder):
        settings = json.loads((folder / "config.json").read_text())
        settings.update(changes)
        settings = {key: value for key, value in settings.items() if value != "REMOVE"}
        (folder / "config.json").write_text(json.dumps(settings))

    return edit


def edit_tensors(change):
    def edit(folder):
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return edit


def truncate(name, keep=0.5):
    def edit(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * keep)])

    return edit


def replace(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def under(prefix):
    return edit_tensors(lambda t: [t.update({prefix + name: t.pop(name)}) for name in list(t)])


TABLE = "embeddings.word_embeddings.weight"
QUERY = "bert.encoder.layer.1.attention.self.query.weight"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "is not a model folder: it has no config.json"),
        (replace("config.json", b"{"), r"config\.json is not valid JSON"),
        (replace("config.json", b"\xff\xfe"), r"config\.json is not valid JSON"),
        (replace("config.json", b"[]"), "holds list, expected an object"),
        (edit_config(model_type="gpt2"), "architecture 'gpt2' is not supported: supported are bert"),
        (edit_config(model_type="albert"), "'albert' is not supported: its layers share one set of weights"),
        (edit_config(model_type="deberta-v2"), "'deberta-v2' is not supported: its attention also compares"),
        (
            edit_config(model_type="REMOVE"),
            "config.json has no model_type, .* add the one of bert, .*BertForSequenceCla",
        ),
        (edit_config(add_cross_attention=True), "add_cross_attention True is not supported"),
        (edit_config(quantization_config={"quant_method": "bitsandbytes"}), "has quantization_config: its weights are"),
        (edit_config(pruned_heads={"0": [1]}), "has pruned_heads: "),
        (replace("adapter_config.json", b"{}"), "has adapter_config.json, which changes the model: merge the adapter"),
        (
            edit_tensors(lambda t: t.update({QUERY: t[QUERY].to(torch.int8)})),
            "query.weight is of torch.int8: only float",
        ),
        (
            edit_tensors(lambda t: t[QUERY].__setitem__((3, 4), float("nan"))),
            "query.weight has numbers that are not fin",
        ),
        (under("encoder."), "encoder lies under 'encoder.', where transformers would not find it"),
        (
            edit_tensors(lambda t: t.pop(f"bert.{TABLE}")),
            rf"none of the checkpoint's \d+ tensors .* is bert.{TABLE} or {TABLE}",
        ),
        (
            edit_tensors(lambda t: t.update({f"other.{TABLE}": t[f"bert.{TABLE}"].clone()})),
            "holds 2 encoders, under 'bert.'",
        ),
        (edit_config(hidden_act="gelu_new"), "hidden_act 'gelu_new' is not supported for bert; only 'gelu' is"),
        (edit_config(hidden_act="relu"), "hidden_act 'relu' is not supported"),
        (edit_config(position_embedding_type="relative_key"), "position_embedding_type 'relative_key' is not supp"),
        (edit_config(is_decoder=True), "is_decoder True is not supported"),
        (edit_config(vocab_size="REMOVE"), "lacks vocab_size"),
        (edit_config(num_hidden_layers="six"), "num_hidden_layers 'six'; it must be a whole number"),
        (edit_config(num_attention_heads=0), "num_attention_heads 0; it must be a whole number of at least 1"),
        (edit_config(num_attention_heads=5), "hidden size 32 is no multiple of its 5 heads"),
        (edit_config(layer_norm_eps="small"), "layer_norm_eps 'small'"),
        (edit_config(num_hidden_layers=3), r"tensor layers\.2\..* is missing"),
        (edit_config(intermediate_size=96), r"tensor layers\.0\.ffn_input\.bias is \(64,\), must be \(96,\)"),
        (edit_tensors(lambda t: t.pop(QUERY)), r"tensor layers\.1\.query\.weight \(32, 32\) is missing"),
        (edit_tensors(lambda t: t.update({QUERY: t[QUERY][:5].clone()})), r"is \(5, 32\), must be \(32, 32\)"),
        (lambda f: (f / "model.safetensors").unlink(), "has no weights: neither model.safetensors nor pytorch_mod"),
        (truncate("model.safetensors"), "is not a whole safetensors file"),
        (truncate("model.safetensors", 0.0), "is not a whole safetensors file"),
        (replace("model.safetensors", b"\xff" * 64), "is not a whole safetensors file"),
    ],
)
def test_damaged_folders(tmp_path, damage, message):
    bert().save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError, match=message) as error:
        load(str(tmp_path), 3)
    assert str(tmp_path) in str(error.value)


class Payload:
    """Leaves a file behind when unpickled by a reader that executes what it reads."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate("pytorch_model.bin"), "is not a whole file of pickled tensors"),
        (truncate("pytorch_model.bin", 0.0), "is not a whole file of pickled tensors"),
        (lambda f: torch.save([1, 2], f / "pytorch_model.bin"), "holds something else than named tensors"),
        (lambda f: torch.save({"x": Payload(f / "ran")}, f / "pytorch_model.bin"), "is not a whole file of pickled"),
    ],
)
def test_damaged_pickles(tmp_path, damage, message):
    save_bin(bert(), tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError, match=message):
        load(str(tmp_path), 3)
    assert not (tmp_path / "ran").exists()


def test_a_shard_that_is_missing_or_outside_the_folder(tmp_path):
    folder = tmp_path / "model"
    save_sharded_safetensors(bert(), folder)
    index = folder / "model.safetensors.index.json"
    whole = index.read_text()
    shard = sorted(folder.glob("model-*.safetensors"))[0]
    index.write_text(whole.replace(shard.name, f"../{shard.name}"))
    shutil.copy(shard, tmp_path / shard.name)
    with pytest.raises(InputError, match="which is not a file of its folder"):
        load(str(folder), 3)
    index.write_text(whole)
    shard.unlink()
    with pytest.raises(InputError, match=f"lacks {shard.name}, which its index names"):
        load(str(folder), 3)
    index.write_text("{}")
    with pytest.raises(InputError, match="has no weight_map"):
        load(str(folder), 3)


def test_a_folder_of_a_graph_alone_is_refused(tmp_path):
    bert().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").write_bytes(b"graph")
    with pytest.raises(InputError, match=r"has only onnx/model\.onnx: a graph cannot be trained on"):
        load(str(tmp_path), 3)


@pytest.mark.parametrize("model", ["./nowhere", "/nowhere/at/all", "a/b/c", "not a name", ""])
def test_neither_a_folder_nor_a_hub_id(model):
    with pytest.raises(InputError, match="is not a folder"):
        load(model, 2)


def test_a_file_is_no_folder(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(InputError, match=r"is a file; give the folder that has config\.json"):
        load(str(file), 2)


@pytest.mark.parametrize("damage", [{"spec": "REMOVE"}, {"encoder": "REMOVE"}, {"spec": 5}, {"encoder": {"dims": 3}}])
def test_our_own_config_damaged(tmp_path, damage):
    rng = np.random.default_rng(2)
    config = random_config(rng, outputs=1)
    spec = random_spec(config, rng)
    (tmp_path / "config.json").write_bytes(config_json(config, spec, Task("relevance", (), ("text",), 16)))
    edit_config(**damage)(tmp_path)
    with pytest.raises(InputError, match=str(tmp_path)):
        load(str(tmp_path), 1)
