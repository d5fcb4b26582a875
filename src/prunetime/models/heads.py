"""The heads of models, and the names of transformers for models with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from prunetime.core.task_kind import TASK_KINDS, TaskKind

OWN_MODEL_TYPE = "prunetime"
"""`model_type` in the config.json of the folders that prunetime writes."""

HeadKind = Literal["pooled", "answers", "tags", "embedding"]
"""The use of a head: sequences, where answers are, the words of a text; `embedding` gives the pooled row."""

CLASSES: Mapping[HeadKind, str] = {
    "pooled": "ForSequenceClassification",
    "answers": "ForQuestionAnswering",
    "tags": "ForTokenClassification",
}
"""The ends of the names of transformers' classes of models with these heads."""

PROBLEM_TYPES: Mapping[TaskKind, str] = {
    kind: traits.problem_type for kind, traits in TASK_KINDS.items() if traits.problem_type
}
"""The names of transformers for our kinds of task."""


def heads_of(classes: Iterable[str]) -> tuple[HeadKind, ...]:
    """Returns the heads of transformers' classes with these names, without those of unknown classes."""
    names = [str(name) for name in classes]
    return tuple(head for head, ending in CLASSES.items() if any(name.endswith(ending) for name in names))
