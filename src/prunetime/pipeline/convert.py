"""An artifact of a pretrained or fine-tuned model as it is: nothing is trained, searched or pruned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunetime._version import __version__
from prunetime.core import artifact
from prunetime.core.precision import Precision, PrecisionPlan
from prunetime.core.task import DOC_STRIDE, Task
from prunetime.core.task_kind import TASK_KINDS, TaskKind
from prunetime.errors import InputError
from prunetime.export.card import artifact_card
from prunetime.models import families
from prunetime.models.checkpoint import folder_of, read_json
from prunetime.models.encoder import weights_of
from prunetime.models.heads import OWN_MODEL_TYPE, PROBLEM_TYPES, heads_of
from prunetime.models.sentence import SentenceFolder, read_folder
from prunetime.models.sentence_modules import (
    CROSS_ENCODER,
    MODEL_SETTINGS,
    MODULES,
    SENTENCE_TRANSFORMER,
    longest_of_tokenizer,
    optional,
)
from prunetime.pipeline.pretrained import artifact_files, hub_id, load, tokenizer_for

QUESTION_WINDOW = 384
"""Tokens of a question with a part of its context, by default: those of transformers' pipeline and `run_qa` example."""


@dataclass(frozen=True)
class Found:
    """The purpose of the head in a model folder: a `kind` of task with so many `outputs` (None: embeddings), of
    which each has a name in `labels`, and of which a text has those from `threshold` on, where it has any number of
    them; `pairs` where the texts of a pair are read together."""

    kind: TaskKind
    outputs: int | None
    labels: tuple[str, ...] = ()
    pairs: bool = False
    threshold: float = 0.5


def convert(
    model: str,
    out: Path,
    say: Callable[[str], None],
    *,
    kind: TaskKind | None = None,
    text: tuple[str, ...] | None = None,
    seq_len: int | None = None,
    precision: Precision = "fp32",
) -> artifact.Manifest:
    """Writes the model (a folder, or a hub id) as the artifact `out`, to be run in a precision.

    Args:
        kind: the kind of task; by default what the folder says of its head.
        text: names of the one or two texts of an example.
        seq_len: the most tokens of a sequence; by default as many as the folder allows.
        say: is told what was taken where the folder leaves it open.

    Raises InputError where the model cannot be read or has no head for such a task, or `out` is there already.
    """
    if out.exists():
        raise InputError(f"{out} exists: choose another --out")
    folder = folder_of(model)
    if (folder / artifact.MANIFEST).is_file():
        raise InputError(f"{folder} is an artifact already: it can be scored, benched, exported and served as it is")
    found = found_in(folder, kind)
    pretrained = load(model, found.outputs, found.kind, say)
    if not pretrained.has_head:
        raise InputError(f"{folder} has no trained head of {found.outputs} outputs for {found.kind}: train one first")
    max_length = seq_len or longest(pretrained)
    traits = TASK_KINDS[found.kind]
    if seq_len is None and traits.reads_windows:
        max_length = min(max_length, QUESTION_WINDOW)
    task = Task(
        found.kind,
        found.labels,
        text or traits.text_names or (("query", "text") if found.pairs else ("text",)),
        max_length,
        doc_stride=min(DOC_STRIDE, max_length // 2) if traits.reads_windows else None,
        threshold=found.threshold,
    )
    task = pretrained.sentence.applied(task, has_head=True, is_trained=False)
    base = hub_id(model)
    _, tokenizer_files = tokenizer_for(task, pretrained, model, say)
    manifest = artifact.Manifest(
        pretrained.config,
        pretrained.model.spec,
        PrecisionPlan.uniform(precision),
        task,
        {"prunetime": __version__, "role": "converted", "model": model, **({"base_model": base} if base else {})},
    )
    say(f"{found.kind} of {' and '.join(task.text)}, at most {max_length} tokens, in {precision}")
    if found.labels:
        say(f"labels, in this order: {', '.join(found.labels)}")
    weights = weights_of(pretrained.model)
    files = artifact_files(manifest, weights, tokenizer_files)
    artifact.write(out, manifest, weights, {**files, "model_card.md": artifact_card(manifest, None).encode()})
    return manifest


def longest(pretrained: families.Pretrained) -> int:
    """The most tokens of a sequence that the model's folder allows."""
    said = (pretrained.sentence.max_seq_length, longest_of_tokenizer(pretrained.folder))
    return min([pretrained.config.longest, *(limit[0] for limit in said if limit)])


def found_in(folder: Path, kind: TaskKind | None) -> Found:
    """The purpose of the head in the model `folder`, where `kind` is None; else what it has for such tasks.

    Raises InputError where it says nothing, or two things.
    """
    if (folder / MODULES).is_file():
        made_for = optional(folder / MODEL_SETTINGS).get("model_type", SENTENCE_TRANSFORMER)
        if kind is None and made_for == SENTENCE_TRANSFORMER:
            return Found("similarity", None)
        if made_for == CROSS_ENCODER and not (kind and TASK_KINDS[kind].reads_apart):
            return _of_pooled_rows(read_folder(folder, kind or "relevance"), kind, pairs=True)
    if kind and TASK_KINDS[kind].reads_apart:
        return Found(kind, None)
    sentence = read_folder(folder, kind or "classification")
    settings = read_json(sentence.folder / "config.json")
    head = next(iter(heads_of(settings.get("architectures") or ())), None)
    fitting = [each for each, traits in TASK_KINDS.items() if traits.head == head]
    if fitting and kind in (None, *fitting):
        if head == "pooled":
            return _of_pooled_rows(sentence, kind)
        names = _labels(sentence.folder, settings) if TASK_KINDS[fitting[0]].has_labels else ()
        return Found(fitting[0], TASK_KINDS[fitting[0]].outputs or len(names), names)
    raise InputError(
        f"{folder} has no head for {kind or 'a task'} (architectures: {settings.get('architectures')}): train one "
        "first, or take its embeddings with --task similarity"
    )


def _of_pooled_rows(sentence: SentenceFolder, kind: TaskKind | None, pairs: bool = False) -> Found:
    settings = read_json(sentence.folder / "config.json")
    names = _labels(sentence.folder, settings)
    outputs = sentence.head[-1].width if sentence.head else len(names)
    if len(names) != outputs:
        names = tuple(f"LABEL_{index}" for index in range(outputs))
    problem = settings.get("problem_type")
    if outputs > 1:
        if kind and not TASK_KINDS[kind].has_labels:
            raise InputError(f"{sentence.folder} has {outputs} labels ({', '.join(names)}), but {kind} has one output")
        said: TaskKind = (
            "multi-label-classification" if problem == PROBLEM_TYPES["multi-label-classification"] else "classification"
        )
        if kind not in (None, said) and problem is not None:
            raise InputError(
                f"{sentence.folder}: problem_type {problem!r} with {outputs} labels is {said}, not {kind}: several "
                "labels have a sigmoid each, and classes have one softmax"
            )
        return Found(kind or said, outputs, names, pairs, _threshold(settings))
    if kind and TASK_KINDS[kind].has_labels:
        raise InputError(f"{sentence.folder} has one output, but {kind} has one for each label")
    if kind is None and problem == "single_label_classification":
        raise InputError(
            f"{sentence.folder}: problem_type {problem!r} with one output: give --task relevance (a sigmoid of it) or "
            "--task regression (the output itself)"
        )
    return Found(kind or ("regression" if problem == "regression" else "relevance"), 1, pairs=pairs)


def _threshold(settings: Mapping[str, Any]) -> float:
    """The threshold of labels in a config.json of ours; no library has such a field."""
    ours = settings.get("model_type") == OWN_MODEL_TYPE
    return settings["threshold"] if ours and "threshold" in settings else 0.5


def _labels(folder: Path, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of a checkpoint's labels, in the order of its outputs; transformers has two where nothing is said."""
    return families.named_labels(str(folder)) or tuple(f"LABEL_{n}" for n in range(settings.get("num_labels", 2)))
