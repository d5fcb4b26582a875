"""The files of an artifact by which any version of sentence-transformers loads its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors.numpy import save

from prunetime.core.arrays import Array, Weights
from prunetime.core.config import EncoderConfig
from prunetime.core.task import Task
from prunetime.errors import InputError
from prunetime.models.sentence_modules import (
    CROSS_ENCODER,
    DENSE_ACTIVATIONS,
    LAYER_NORM_EPS,
    MODEL_SETTINGS,
    MODULES,
    POOLING_FLAGS,
    POOLINGS,
    SCORE_ACTIVATIONS,
    SENTENCE_TRANSFORMER,
    TRANSFORMER_SETTINGS,
)

Files = dict[str, bytes]


def sentence_files(config: EncoderConfig, task: Task, weights: Weights) -> Files:
    """The files by their names: a SentenceTransformer's for embeddings, a CrossEncoder's for pooled rows, else none."""
    if task.rows == "tokens":
        return {}
    is_embedding = task.rows == "embedding"
    settings: dict[str, Any] = {
        "model_type": SENTENCE_TRANSFORMER if is_embedding else CROSS_ENCODER,
        "prompts": dict(task.prompts.texts),
        "default_prompt_name": task.prompts.default,
    }
    transformer: dict[str, Any] = {"max_seq_length": task.max_length, "do_lower_case": False}
    if is_embedding:
        settings |= {"similarity_fn_name": task.embedding.similarity_fn_name}
        if task.embedding.truncate_dim is not None:
            settings["truncate_dim"] = task.embedding.truncate_dim
    else:
        settings["activation_fn"] = activation_fn(task)
        transformer["transformer_task"] = "sequence-classification"
    modules = _modules(config, task, weights) if is_embedding else []
    files = {MODEL_SETTINGS: _json(settings), TRANSFORMER_SETTINGS[0]: _json(transformer)}
    listed = [("", "Transformer")]
    for index, (kind, own) in enumerate(modules, 1):
        listed.append((f"{index}_{kind}", kind))
        files |= {f"{index}_{kind}/{name}": content for name, content in own.items()}
    files[MODULES] = _json(
        [
            {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for index, (path, kind) in enumerate(listed)
        ]
    )
    return files


def activation_fn(task: Task) -> str:
    """The class of torch that a CrossEncoder applies to the logits of a task."""
    return SCORE_ACTIVATIONS[task.activation or task.traits.activation]


def _modules(config: EncoderConfig, task: Task, weights: Weights) -> list[tuple[str, Files]]:
    """The modules after the encoder, each a kind and its files by their names."""
    mode = next(theirs for theirs, ours in POOLINGS.items() if ours == config.pooling)
    pooling = {flag: flagged == mode for flag, flagged in POOLING_FLAGS.items()}
    own = {"word_embedding_dimension": config.dims.hidden, **pooling, "include_prompt": task.embedding.include_prompt}
    modules = [("Pooling", {"config.json": _json(own)})]
    width = config.dims.hidden
    for index, layer in enumerate(config.head or ()):
        tensors = {name: np.ascontiguousarray(weights[f"head.layers.{index}.{name}"]) for name in ("weight", "bias")}
        if layer.kind == "dense":
            settings: dict[str, Any] = {"in_features": width, "out_features": layer.width, "bias": True}
            settings["activation_function"] = DENSE_ACTIVATIONS[layer.activation]
            modules.append(("Dense", _trained("linear", settings, tensors)))
        elif layer.eps == LAYER_NORM_EPS:
            modules.append(("LayerNorm", _trained("norm", {"dimension": layer.width}, tensors)))
        else:
            raise InputError(f"a LayerNorm of sentence-transformers has eps {LAYER_NORM_EPS}; the head has {layer.eps}")
        width = layer.width
    return [*modules, *([("Normalize", {})] if config.normalize else [])]


def _trained(name: str, settings: Mapping[str, Any], tensors: Mapping[str, Array]) -> Files:
    named = {f"{name}.{part}": tensor for part, tensor in tensors.items()}
    return {"config.json": _json(settings), "model.safetensors": save(named)}


def _json(content: Any) -> bytes:
    return json.dumps(content, indent=1, ensure_ascii=False).encode()
