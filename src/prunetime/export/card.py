"""The card of a model: what it is, what was measured, and code that runs it; for an artifact, and for transformers."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from prunetime.core.arch import ArchSpec
from prunetime.core.artifact import Manifest
from prunetime.core.budget import Budget
from prunetime.core.task import Task

AUTO = {
    "pooled": "AutoModelForSequenceClassification",
    "answers": "AutoModelForQuestionAnswering",
    "tags": "AutoModelForTokenClassification",
    "embedding": "AutoModel",
}
"""The class of transformers that loads a model with such a head."""


def artifact_card(manifest: Manifest, measured: dict[str, Any] | None) -> str:
    """The Markdown card of an artifact; `measured` has what `verify.json` says of the budget and both models, or is
    None where nothing was measured."""
    return _card(manifest, measured, "prunetime")


def transformers_card(manifest: Manifest, name: str) -> str:
    """The Markdown card of a folder that `export_transformers` writes, which transformers loads by `name`."""
    return _card(manifest, manifest.provenance.get("measured"), "transformers", name)


def examples_of(task: Task) -> tuple[str, ...]:
    """One text or two that a model of the task reads."""
    if task.traits.reads_windows:
        return "Who won?", "The home team won by two goals."
    return ("red sofa", "a velvet couch in red") if task.pair else ("a red velvet sofa with steel legs",)


def _card(manifest: Manifest, measured: dict[str, Any] | None, library: str, name: str = ".") -> str:
    task, head, examples = manifest.task, manifest.task.traits.head, examples_of(manifest.task)
    template = (files("prunetime.export") / "card.md.j2").read_text(encoding="utf-8")
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    return environment.from_string(template).render(
        manifest=manifest,
        task=task,
        measured=measured,
        budget=measured and Budget.from_json(measured["budget"]),
        library=library,
        pipeline_tag=task.traits.pipeline_tag or ("text-ranking" if task.pair else "text-classification"),
        base=manifest.provenance.get("base_model"),
        is_dense=manifest.spec == ArchSpec.full(manifest.config.dims),
        examples=examples,
        name=name,
        head=head,
        auto=AUTO[head],
        inputs=_inputs_of_transformers(task, examples),
    )


def _inputs_of_transformers(task: Task, examples: tuple[str, ...]) -> str:
    """The arguments that a tokenizer of transformers takes, which knows no prompt."""
    prompt, apart = task.prompts.resolve(), task.traits.reads_apart
    given = ", ".join(json.dumps(prompt * (apart or not index) + text) for index, text in enumerate(examples))
    return f"[{given}], padding=True" if apart else given
