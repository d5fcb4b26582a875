"""The model card of an artifact: what it is, and what was measured, for people."""

from __future__ import annotations

from typing import Any

from prunetime.artifact import Manifest
from prunetime.budget import Budget
from prunetime.task import Task


def model_card(manifest: Manifest, result: dict[str, Any]) -> str:
    """Markdown from a manifest and the content of `verify.json`."""
    dense, pruned = result["dense"], result["pruned"]
    task = manifest.task
    lines = [
        "---",
        "library_name: prunetime",
        f"pipeline_tag: {_pipeline_tag(task)}",
        "---",
        f"# {manifest.provenance['model']}, pruned by prunetime",
        "",
        f"A {task.kind} model on {' and '.join(task.text)}, at most {task.max_length} tokens.",
        f"Budget: {Budget.from_json(result['budget'])}. Measured on {result['machine']['cpu']}.",
        "",
        f"| | p50 us | p99 us | {dense['metric']} | 95 % | parameters |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in (("dense", dense), ("pruned", pruned)):
        low, high = row["ci95"]
        lines.append(
            f"| {name} | {row['p50_us']:.0f} | {row['p99_us']:.0f} | {row['value']:.4f} | {low:.4f} to {high:.4f} "
            f"| {row['params']:,} |"
        )
    lines += ["", "| layer | heads | attention rows | FFN rows | FFN-output rows | tokens | blocks |", "|---" * 7 + "|"]
    for index, layer in enumerate(manifest.spec.layers):
        blocks = layer.describe_blocks(manifest.config.dims) or "all"
        lines.append(
            f"| {index} | {layer.heads} | {layer.attention_rows} | {layer.ffn} | {layer.ffn_rows} "
            f"| {layer.tokens:.0%} | {blocks} |"
        )
    lines += [
        "",
        "```python",
        "import prunetime",
        "model = prunetime.load('this folder')",
        f"model.score([{('a text', 'another') if task.pair else 'a text'!r}])",
        "```",
        "",
    ]
    return "\n".join(lines)


def _pipeline_tag(task: Task) -> str:
    """What the Hugging Face hub calls the task."""
    if task.kind in ("question-answering", "token-classification"):
        return task.kind
    if task.kind == "similarity":
        return "sentence-similarity"
    return "text-ranking" if task.pair else "text-classification"
