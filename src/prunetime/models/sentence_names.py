"""The names of sentence-transformers for files, modules and functions that are read and written alike."""

from __future__ import annotations

from collections.abc import Mapping

from prunetime.core.config import Activation, Pooling
from prunetime.core.task import ScoreActivation

MODULES = "modules.json"
MODEL_SETTINGS = "config_sentence_transformers.json"

SENTENCE_TRANSFORMER, CROSS_ENCODER = "SentenceTransformer", "CrossEncoder"
"""`model_type` in config_sentence_transformers.json."""

TRANSFORMER_SETTINGS = (
    "sentence_bert_config.json",
    *(
        f"sentence_{kind}_config.json"
        for kind in ("roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
    ),
)
"""The names that the settings of the Transformer module may be under; the first one is written today."""

POOLINGS: Mapping[str, Pooling] = {
    "cls": "first",
    "mean": "mean",
    "max": "max",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weightedmean",
    "lasttoken": "lasttoken",
}
"""Our ways of pooling, by the values of `pooling_mode`."""

POOLING_FLAGS: Mapping[str, str] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""The settings that said so until version 6, and that every version reads."""

DENSE_ACTIVATIONS: Mapping[Activation, str] = {
    "identity": "torch.nn.modules.linear.Identity",
    "tanh": "torch.nn.modules.activation.Tanh",
    "relu": "torch.nn.modules.activation.ReLU",
    "gelu": "torch.nn.modules.activation.GELU",
}
"""The activations that follow a Dense module."""

SCORE_ACTIVATIONS: Mapping[ScoreActivation, str] = {
    "identity": "torch.nn.modules.linear.Identity",
    "sigmoid": "torch.nn.modules.activation.Sigmoid",
}
"""The activations that a CrossEncoder applies to its logits."""

LAYER_NORM_EPS = 1e-5
"""The eps of the LayerNorm module, torch's."""
