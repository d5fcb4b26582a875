"""What transformers calls our models, and what their heads are for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from prunetime.core.task_kind import TASK_KINDS, TaskKind

OWN_MODEL_TYPE = "prunetime"
"""`model_type` in the config.json of the folders that prunetime writes."""

HeadKind = Literal["pooled", "answers", "tags", "embedding"]
"""What a head is for: sequences, where answers are, the words of a text; or none, the pooled row is what comes out."""

CLASSES: Mapping[HeadKind, str] = {
    "pooled": "ForSequenceClassification",
    "answers": "ForQuestionAnswering",
    "tags": "ForTokenClassification",
}
"""How transformers' classes of models with these heads end."""

PROBLEM_TYPES: Mapping[TaskKind, str] = {
    kind: traits.problem_type for kind, traits in TASK_KINDS.items() if traits.problem_type
}
"""What transformers calls our kinds of task."""


def heads_of(classes: Iterable[str]) -> tuple[HeadKind, ...]:
    """The heads of the classes of transformers with these names; of other classes nothing is known."""
    names = [str(name) for name in classes]
    return tuple(head for head, ending in CLASSES.items() if any(name.endswith(ending) for name in names))
