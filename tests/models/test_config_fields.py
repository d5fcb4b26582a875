"""Every field that transformers' config class of a family has is honoured, refused by name, or changes no number.

One field at a time is changed in a model of transformers, for every kind of head; our logits are then its logits. The
section `config.json` of docs/reference/inputs.md is what was found.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import inputs_page
import torch
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging

from prunetime.core.config import FAMILIES
from prunetime.core.task_kind import TaskKind
from prunetime.models.families import load
from prunetime.models.names import NAMES

logging.disable_progress_bar()
logging.set_verbosity_error()

TINY = {
    "layers": 2,
    "hidden": 32,
    "heads": 2,
    "ffn": 48,
    "vocabulary": 40,
    "positions": 26,
    "embedding": 24,
    "token_types": 2,
}

HEADS: dict[TaskKind, Any] = {
    "classification": AutoModelForSequenceClassification,
    "question-answering": AutoModelForQuestionAnswering,
    "token-classification": AutoModelForTokenClassification,
    "similarity": AutoModel,
}

OTHER_VALUES: dict[str, list[Any]] = {
    "hidden_act": ["gelu_python", "gelu_new", "gelu_10", "relu", "silu"],
    "activation": ["gelu_python", "relu"],
    "hidden_activation": ["gelu_python", "gelu_new", "relu"],
    "classifier_activation": ["gelu_python", "relu", "tanh"],
    "classifier_pooling": ["mean"],
    "layer_norm_eps": [1e-3],
    "norm_eps": [1e-3],
    "hidden_size": [48],
    "dim": [48],
    "num_attention_heads": [4],
    "n_heads": [4],
    "pad_token_id": [2],
    "chunk_size_feed_forward": [4],
    "classifier_dropout": [0.5],
    "problem_type": ["single_label_classification"],
    "layer_types": [["sliding_attention", "sliding_attention"], ["full_attention", "full_attention"]],
    "local_attention": [4],
    "rope_parameters": [
        {
            "full_attention": {"rope_type": "default", "rope_theta": 500.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        },
        {
            "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0},
            "sliding_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0},
        },
    ],
    "summary_type": ["mean"],
    "summary_activation": ["relu"],
    "bos_token_id": [3],
    "eos_token_id": [3],
    "cls_token_id": [3],
    "sep_token_id": [3],
    "relative_attention_num_buckets": [16],
    "dtype": ["float32"],
}
"""Values to try besides what `others` makes of the default."""

NO_SETTING = ("transformers_version", "model_type", "_name_or_path", "architectures", "id2label", "label2id")
"""Of the file itself, or of labels: tests/pipeline has these."""

WHOLE_MODEL = ("return_dict", "output_attentions", "output_hidden_states", "is_encoder_decoder")
"""Fields of what a call in Python gives back: no value of these is in our logits."""


def others(field: str, default: Any) -> list[Any]:
    """Values of `field` other than its default."""
    if field in OTHER_VALUES:
        return OTHER_VALUES[field]
    if isinstance(default, bool):
        return [not default]
    if isinstance(default, int):
        return [default + 1]
    if isinstance(default, float):
        return [default / 2 + 0.25]
    raise AssertionError(f"transformers has a field that no value is tried of: {field} = {default!r}")


def tiny_config(family: str, **changes: Any) -> PreTrainedConfig:
    settings: dict[str, Any] = {key: TINY[name] for name, key in NAMES[family].sizes.items()}
    settings |= {"initializer_range": 0.2, "num_labels": 2}
    if "pad_token_id" in NAMES[family].fixed:
        settings["pad_token_id"] = 1
    if family == "modernbert":
        settings |= {f"{name}_token_id": 0 for name in ("pad", "eos", "bos", "cls", "sep")}
        settings |= {"local_attention": 8, "attn_implementation": "eager"}
    return AutoConfig.for_model(family, **{**settings, **changes})


def made(auto: Any, config: PreTrainedConfig, state: dict[str, torch.Tensor] | None = None) -> PreTrainedModel:
    """A model with the weights of `state`, as far as they have the shapes of its own."""
    torch.manual_seed(0)
    model = auto.from_config(config)
    own = model.state_dict()
    with torch.no_grad():
        for name, parameter in own.items():
            if state is not None and name in state and state[name].shape == parameter.shape:
                parameter.copy_(state[name])
            elif parameter.ndim == 1 and parameter.is_floating_point():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def their_logits(model: PreTrainedModel, kind: TaskKind, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        found = model(**inputs, return_dict=True)
    if kind == "question-answering":
        return torch.stack((found.start_logits, found.end_logits), -1)
    if kind == "similarity":
        return functional.normalize(found.last_hidden_state.mean(1), dim=1)
    return found.logits


def our_logits(folder: Path, kind: TaskKind, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    outputs = None if kind == "similarity" else 2
    loaded = load(str(folder), outputs, kind=kind)
    assert loaded.has_head
    with torch.no_grad():
        return loaded.model.eval()(inputs["input_ids"], inputs["attention_mask"], inputs.get("token_type_ids")).logits


def inputs_of(family: str) -> dict[str, torch.Tensor]:
    ids = torch.randint(4, TINY["vocabulary"], (3, 20), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if "token_types" in NAMES[family].sizes:
        inputs["token_type_ids"] = (torch.arange(20) > 9).long().expand(3, 20)
    return inputs


def equal(ours: Any, theirs: torch.Tensor) -> bool:
    return ours.shape == theirs.shape and torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def shown(value: Any) -> str:
    if isinstance(value, dict):
        return f"rope_type {value['full_attention']['rope_type']}, other bases"
    return f"{value}"


INTRODUCTION = """Every field of transformers' config classes, with the families that have it, for heads of classes,
answers and words, and for embeddings. A field is *honoured* where it changes the numbers of one of these heads, and
ours are the same."""

OF_WEIGHTS = [
    inputs_page.Row("config.json", "model_type", "none, or a family that is not supported", "refused"),
    inputs_page.Row("config.json", "quantization_config", "any", "refused"),
    inputs_page.Row("config.json", "pruned_heads", "any", "refused"),
    inputs_page.Row("adapter_config.json", "any", "any", "refused"),
]
"""`test_damaged_models` has a test for each."""


def found_of(family: str, folder: Path, wrong: list[str]) -> list[tuple[str, str, inputs_page.Verdict]]:
    """(field, value, verdict) of every field of the family's config class for every head; `wrong` gets the others."""
    defaults = tiny_config(family).to_dict()
    rows: dict[tuple[str, str], set[inputs_page.Verdict]] = defaultdict(set)
    inputs = inputs_of(family)
    for kind, auto in HEADS.items():
        base = made(auto, tiny_config(family))
        usual = their_logits(base, kind, inputs)
        for field, default in defaults.items():
            if field in (*NO_SETTING, *WHOLE_MODEL):
                continue
            for value in others(field, default):
                given = dict(value) if isinstance(value, dict) else value
                config = tiny_config(family, **{field: given})
                theirs: torch.Tensor | None = None
                try:
                    model = made(auto, config, base.state_dict())
                    theirs = their_logits(model, kind, inputs)
                    changed = not equal(usual, theirs)
                except (ValueError, RuntimeError, TypeError, KeyError, IndexError):  # transformers has no such model
                    base.save_pretrained(folder)
                    config.save_pretrained(folder)
                    changed = True
                else:
                    model.save_pretrained(folder)

                def same(ours: object, theirs: torch.Tensor | None = theirs) -> bool:
                    return theirs is not None and equal(ours, theirs)

                try:
                    ours = partial(our_logits, folder, kind, inputs)
                    verdict = inputs_page.verdict(f"config.json.{field}", ours, changed, same)
                except AssertionError as error:
                    wrong.append(f"{family} for {kind}: {value!r}: {error}")
                    continue
                rows[field, shown(value)].add(verdict)
    return [(*named, strongest(verdicts)) for named, verdicts in rows.items()]


def strongest(verdicts: set[inputs_page.Verdict]) -> inputs_page.Verdict:
    """A field that changes what one head gives is honoured there, though it changes nothing of the others."""
    return next(verdict for verdict in ("refused", "honoured", "changes no number") if verdict in verdicts)


def test_every_field_is_honoured_or_refused_by_name(tmp_path: Path) -> None:
    found: dict[tuple[str, inputs_page.Verdict], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    wrong: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for family in FAMILIES:
            verdicts: dict[tuple[str, inputs_page.Verdict], list[str]] = defaultdict(list)
            for field, value, verdict in found_of(family, tmp_path / family, wrong):
                if value not in verdicts[field, verdict]:
                    verdicts[field, verdict].append(value)
            for key, values in verdicts.items():
                found[key][", ".join(values)].append(family)
    assert not wrong, "\n".join(wrong)
    rows = [
        inputs_page.Row("config.json", field, f"{values} ({', '.join(families)})", verdict)
        for (field, verdict), by_values in sorted(found.items())
        for values, families in by_values.items()
    ]
    inputs_page.check_section("config.json", INTRODUCTION, [*rows, *OF_WEIGHTS])
