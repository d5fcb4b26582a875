"""The card of a model: what it is, what was measured, and code that runs it; for an artifact, and for transformers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from prunetime.core.arch import ArchSpec
from prunetime.core.artifact import Manifest
from prunetime.core.budget import Budget
from prunetime.core.task import Task

ONE_TEXT = ("a red velvet sofa with steel legs",)
PAIR = ("red sofa", "a velvet couch in red")
QUESTION = ("Who won?", "The home team won by two goals.")

AUTO = {
    "pooled": "AutoModelForSequenceClassification",
    "answers": "AutoModelForQuestionAnswering",
    "tags": "AutoModelForTokenClassification",
    "embedding": "AutoModel",
}
"""The class of transformers that loads a model with such a head."""

_FOUND = {
    "pooled": ["print(output.logits)"],
    "answers": [
        "start, end = (int(logits.argmax()) for logits in (output.start_logits, output.end_logits))",
        'print(tokenizer.decode(inputs["input_ids"][0][start : end + 1]))',
    ],
    "tags": ["print([model.config.id2label[int(label)] for label in output.logits[0].argmax(-1)])"],
    "embedding": ["print(output.pooler_output{dimensions})"],
}


def artifact_card(manifest: Manifest, measured: dict[str, Any] | None) -> str:
    """The Markdown card of an artifact; `measured` has what `verify.json` says of the budget and both models, or is
    None where nothing was measured."""
    return _card(manifest, measured, "prunetime", code_of_prunetime(manifest.task))


def transformers_card(manifest: Manifest, name: str) -> str:
    """The Markdown card of a folder that `export_transformers` writes, which transformers loads by `name`."""
    return _card(
        manifest, manifest.provenance.get("measured"), "transformers", code_of_transformers(manifest.task, name)
    )


def code_of_prunetime(task: Task) -> list[str]:
    """Lines of Python that run the artifact in the working directory."""
    texts = [f'"{text}"' for text in examples_of(task)]
    given = ", ".join(texts)
    of_example = given if len(texts) == 1 else f"({given})"
    call = f"embed([{given}])" if task.traits.reads_apart else f"score([{of_example}])"
    return ["import prunetime", "", 'model = prunetime.load(".")  # this folder', f"print(model.{call})"]


def code_of_transformers(task: Task, name: str) -> list[str]:
    """Lines of Python that run what transformers loads by `name`."""
    head, prompt = task.traits.head, task.prompts.resolve()
    texts = [
        prompt + text if head == "embedding" or not index else text for index, text in enumerate(examples_of(task))
    ]
    given = ", ".join(map(json.dumps, texts))
    if head == "embedding":
        given = f"[{given}], padding=True"
    kept = task.embedding.truncate_dim
    return [
        "import torch",
        f"from transformers import {AUTO[head]}, AutoTokenizer",
        "",
        f'name = "{name}"{"  # this folder" if name == "." else ""}',
        f"model = {AUTO[head]}.from_pretrained(name, trust_remote_code=True).eval()",
        "tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=True)",
        f'inputs = tokenizer({given}, truncation=True, return_tensors="pt")',
        "with torch.no_grad():",
        "    output = model(**inputs)",
        *(line.replace("{dimensions}", "" if kept is None else f"[:, :{kept}]") for line in _FOUND[head]),
    ]


def examples_of(task: Task) -> tuple[str, ...]:
    """One text or two that a model of the task reads."""
    if task.traits.reads_windows:
        return QUESTION
    return PAIR if task.pair else ONE_TEXT


def _card(manifest: Manifest, measured: dict[str, Any] | None, library: str, code: Sequence[str]) -> str:
    task, base = manifest.task, manifest.provenance.get("base_model")
    is_dense = manifest.spec == ArchSpec.full(manifest.config.dims)
    lines = [
        "---",
        f"library_name: {library}",
        f"pipeline_tag: {_pipeline_tag(task)}",
        *([f"base_model: {base}"] if base else []),
        "tags: [prunetime]",
        "---",
        f"# {base or manifest.config.family}, {'run' if is_dense else 'pruned'} by prunetime",
        "",
        f"A {task.kind} model on {' and '.join(task.text)}, at most {task.max_length} tokens.",
    ]
    lines += [*_measured(measured), "", *_layers(manifest)]
    return "\n".join([*lines, "", "```python", *code, "```", ""])


def _measured(measured: dict[str, Any] | None) -> list[str]:
    """The budget, and a table of both models; nothing of an artifact of which nothing was measured."""
    if measured is None:
        return []
    models = {name: measured[name] for name in ("dense", "pruned")}
    lines = [
        f"Budget: {Budget.from_json(measured['budget'])}. Measured on {measured['machine']['cpu']}.",
        "",
        f"| | p50 us | p99 us | {models['dense']['metric']} | 95 % | parameters |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in models.items():
        low, high = row["ci95"]
        lines.append(
            f"| {name} | {row['p50_us']:.0f} | {row['p99_us']:.0f} | {row['value']:.4f} | {low:.4f} to {high:.4f} "
            f"| {row['params']:,} |"
        )
    return lines


def _layers(manifest: Manifest) -> list[str]:
    """A table of what every layer kept."""
    lines = ["| layer | heads | attention rows | FFN rows | FFN-output rows | tokens | blocks |", "|---" * 7 + "|"]
    for index, layer in enumerate(manifest.spec.layers):
        blocks = layer.describe_blocks(manifest.config.dims) or "all"
        lines.append(
            f"| {index} | {layer.heads} | {layer.attention_rows} | {layer.ffn} | {layer.ffn_rows} "
            f"| {layer.tokens:.0%} | {blocks} |"
        )
    return lines


def _pipeline_tag(task: Task) -> str:
    """The name of the task on the Hugging Face hub."""
    return task.traits.pipeline_tag or ("text-ranking" if task.pair else "text-classification")
