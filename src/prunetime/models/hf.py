"""Registers the classes with which transformers loads and trains our models; importing this module does it.

    import prunetime.models.hf
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    model = AutoModelForQuestionAnswering.from_pretrained(folder)  # of a model that answers questions
    model = AutoModelForTokenClassification.from_pretrained(folder)  # of one that labels words
    model = SentenceTransformer(folder)  # of one that gives embeddings; AutoModel is what it loads

The tensors have the names of the engine's, so one `model.safetensors` serves both.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

from prunetime.core.arch import ArchSpec
from prunetime.core.config import EncoderConfig
from prunetime.core.task import Task
from prunetime.errors import InputError
from prunetime.models import modeling
from prunetime.models.heads import CLASSES, OWN_MODEL_TYPE, PROBLEM_TYPES
from prunetime.models.modeling import OF_HEAD, PrunetimeConfig
from prunetime.models.sentence_files import activation_fn

_OURS = re.compile(r"^from prunetime\.([\w.]+) import", re.MULTILINE)
_PACKAGE = Path(__file__).parents[1]


def config_json(config: EncoderConfig, spec: ArchSpec, task: Task) -> bytes:
    """Returns the config.json with which transformers' Auto class for such tasks loads the model's folder.

    Raises InputError where the task has another number of outputs than the model, or reads other rows.
    """
    if task.rows != config.rows:
        raise InputError(f"the model gives {config.rows} rows; a {task.kind} task needs {task.rows} rows")
    if task.outputs not in (None, config.outputs):
        raise InputError(f"a {task.kind} task of {task.outputs} outputs for a model of {config.outputs}")
    settings: dict[str, Any] = {
        "problem_type": PROBLEM_TYPES.get(task.kind),
        "architectures": [OF_HEAD[task.traits.head].__name__],
    }
    if task.rows == "pooled":  # for a CrossEncoder of sentence-transformers 4 and earlier
        settings["sentence_transformers"] = {"activation_fn": activation_fn(task)}
    if task.labels:
        settings["id2label"] = dict(enumerate(task.labels))
        settings["label2id"] = {label: index for index, label in enumerate(task.labels)}
    if task.traits.is_multi_label:
        settings["threshold"] = task.threshold
    return str(PrunetimeConfig.of(config, spec, **settings).to_json_string()).encode()


def modules_of(module: str) -> dict[str, str]:
    """Returns the code of `module` and of every module of ours that it imports, by file name: the last part of the
    module's name, by which they import each other."""
    found: dict[str, str] = {}
    left = [module.removeprefix("prunetime.")]
    while left:
        path = left.pop()
        name = path.rpartition(".")[2]
        if f"{name}.py" in found:
            continue
        code = (_PACKAGE / f"{path.replace('.', '/')}.py").read_text(encoding="utf-8")
        left += _OURS.findall(code)
        found[f"{name}.py"] = _OURS.sub(lambda match: f"from .{match[1].rpartition('.')[2]} import", code)
    return found


PrunetimeConfig.modules = modules_of(modeling.__name__)
AutoConfig.register(OWN_MODEL_TYPE, PrunetimeConfig)
for head, model in OF_HEAD.items():
    getattr(transformers, f"AutoModel{CLASSES.get(head, '')}").register(PrunetimeConfig, model)
AutoTokenizer.register(PrunetimeConfig, fast_tokenizer_class=PreTrainedTokenizerFast)
