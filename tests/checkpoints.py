"""Tiny random models of transformers, in every form in which they are saved."""

import json

import torch
from transformers import BertConfig, BertForSequenceClassification

TINY = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 24,
    "num_labels": 3,
}


def bert(cls=BertForSequenceClassification, seed=0, **changes):
    """A transformers model with activations of order one and no weight at its neutral value."""
    torch.manual_seed(seed)
    sizes = {**TINY, **changes}
    model = cls(BertConfig(**sizes, initializer_range=sizes["hidden_size"] ** -0.5))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def save_safetensors(model, folder):
    model.save_pretrained(folder)


def save_sharded_safetensors(model, folder):
    model.save_pretrained(folder, max_shard_size="30KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1


def save_bin(model, folder):
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


def save_sharded_bin(model, folder):
    model.config.save_pretrained(folder)
    state = model.state_dict()
    shards = {f"pytorch_model-0000{n}-of-00002.bin": list(state)[n - 1 :: 2] for n in (1, 2)}
    for name, keys in shards.items():
        torch.save({key: state[key] for key in keys}, folder / name)
    weight_map = {key: name for name, keys in shards.items() for key in keys}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def save_first_release_bin(model, folder):
    """As the first releases were converted from TensorFlow: LayerNorm's gamma and beta, and few settings."""
    model.config.save_pretrained(folder)
    settings = json.loads((folder / "config.json").read_text())
    for key in ("layer_norm_eps", "position_embedding_type", "is_decoder"):
        settings.pop(key, None)
    (folder / "config.json").write_text(json.dumps(settings))
    legacy = {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for key, tensor in model.state_dict().items()
    }
    torch.save(legacy, folder / "pytorch_model.bin")


SAVE = [save_safetensors, save_sharded_safetensors, save_bin, save_sharded_bin, save_first_release_bin]
