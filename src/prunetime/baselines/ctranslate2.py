"""CTranslate2 in int8. Its encoder ends with the pooled row; the output layer is applied to that in numpy."""

from __future__ import annotations

import tempfile
from typing import Any

import ctranslate2
import numpy as np
from ctranslate2.specs import common_spec, transformer_spec

from prunetime.baselines.setting import BenchmarkSetting, Bind, LogitsCall
from prunetime.core.arch import ArchSpec
from prunetime.core.arrays import Float32Array, Weights
from prunetime.errors import InputError
from prunetime.inference.ragged import Ragged
from prunetime.models.compact import spec_of

COMPUTE_TYPES = {"int8": "int8", "fp32": "float32"}


def precisions() -> tuple[str, ...]:
    return ("int8",)


def prepare(setting: BenchmarkSetting, precision: str) -> Bind:
    """The converted encoder; raises InputError where CTranslate2 cannot express it."""
    config = setting.config
    unpruned = spec_of(setting.weights, config.dims) == ArchSpec.full(config.dims)
    own_head = config.head is None and config.pooling == "first"
    if not unpruned or config.family != "bert" or config.rows != "pooled" or not own_head:
        raise InputError(
            "ctranslate2 runs encoders of BERT's kind with all heads, all rows and BERT's own pooled head: leave it "
            "out of --against"
        )
    compute_type = COMPUTE_TYPES[precision]
    with tempfile.TemporaryDirectory() as folder:
        spec = _spec(setting)
        spec.validate()
        spec.optimize(quantization=compute_type)
        spec.save(folder)
        encoder = ctranslate2.Encoder(folder, compute_type=compute_type, inter_threads=1, intra_threads=setting.threads)
    weight, bias = setting.weights["head.output.weight"].T, setting.weights["head.output.bias"]

    def bind(batch: Ragged) -> LogitsCall:
        ids, _, types = batch.padded(0)
        arrays = ctranslate2.StorageView.from_array(ids), ctranslate2.StorageView.from_array(batch.lengths)
        token_types = types.tolist()

        def logits() -> Float32Array:
            pooled = np.asarray(encoder.forward_batch(*arrays, token_types).pooler_output)
            return np.asarray(pooled @ weight + bias, np.float32)

        return logits

    return bind


def _spec(setting: BenchmarkSetting) -> Any:
    """The encoder as CTranslate2's converter for transformers' BERT writes it."""
    config = setting.config
    weights = {name: array.copy() for name, array in setting.weights.items()}  # it quantises in place
    encoder = transformer_spec.TransformerEncoderSpec(
        config.dims.layers,
        config.dims.heads,
        pre_norm=False,
        activation=common_spec.Activation.GELU,
        layernorm_embedding=True,
        num_source_embeddings=2,
        embeddings_merge=common_spec.EmbeddingsMerge.ADD,
    )
    encoder.scale_embeddings = False
    encoder.embeddings[0].weight = weights["embeddings.word.weight"]
    encoder.embeddings[1].weight = weights["embeddings.token_type.weight"]
    encoder.position_encodings.encodings = weights["embeddings.position.weight"]
    _set_norm(encoder.layernorm_embedding, weights, "embeddings.norm")
    for index, layer in enumerate(encoder.layer):
        name = f"layers.{index}"
        attention, ffn = layer.self_attention, layer.ffn
        _set_linear(attention.linear[0], weights, f"{name}.query", f"{name}.key", f"{name}.value")
        _set_linear(attention.linear[1], weights, f"{name}.attention_output")
        _set_norm(attention.layer_norm, weights, f"{name}.attention_norm")
        _set_linear(ffn.linear_0, weights, f"{name}.ffn_input")
        _set_linear(ffn.linear_1, weights, f"{name}.ffn_output")
        _set_norm(ffn.layer_norm, weights, f"{name}.ffn_norm")
    spec = transformer_spec.TransformerEncoderModelSpec(
        encoder, pooling_layer=True, pooling_activation=common_spec.Activation.Tanh
    )
    _set_linear(spec.pooler_dense, weights, "head.dense")
    spec.register_vocabulary([str(token) for token in range(config.dims.vocabulary)])
    spec.config.unk_token = "0"
    spec.config.layer_norm_epsilon = config.layer_norm_eps
    return spec


def _set_linear(spec: Any, weights: Weights, *names: str) -> None:
    spec.weight = np.concatenate([weights[f"{name}.weight"] for name in names])
    spec.bias = np.concatenate([weights[f"{name}.bias"] for name in names])


def _set_norm(spec: Any, weights: Weights, name: str) -> None:
    spec.gamma, spec.beta = weights[f"{name}.weight"], weights[f"{name}.bias"]
