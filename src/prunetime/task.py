"""What a model's logits mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from prunetime.arch import strict_keys
from prunetime.errors import InputError

Kind = Literal["classification", "relevance", "regression"]


@dataclass(frozen=True)
class Task:
    """The task a model answers.

    - `classification`: one logit per name in `labels` (2..n). The score is the softmax; with two labels, the
      probability of the second.
    - `relevance`: one logit for a graded label in 0..1; the score is its sigmoid.
    - `regression`: one logit for any float; the score is the logit.

    `text` names the one or two text columns, in order. `max_length` is in tokens, special tokens included.
    """

    kind: Kind
    labels: tuple[str, ...]
    text: tuple[str, ...]
    max_length: int

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise InputError(f"task kind is {self.kind!r}; the kinds are {', '.join(get_args(Kind))}")
        if self.kind == "classification" and len(self.labels) < 2:
            raise InputError(f"classification needs at least two labels, got {list(self.labels)}")
        if len(set(self.labels)) != len(self.labels):
            raise InputError(f"labels are not distinct: {list(self.labels)}")
        if self.kind != "classification" and self.labels:
            raise InputError(f"{self.kind} has no label names, got {list(self.labels)}")
        if len(self.text) not in (1, 2):
            raise InputError(f"a task has one or two text columns, got {list(self.text)}")
        if self.max_length < 3:
            raise InputError(f"max_length is {self.max_length}: a sequence has at least 3 tokens")

    @property
    def outputs(self) -> int:
        """Number of logits."""
        return len(self.labels) if self.kind == "classification" else 1

    @property
    def pair(self) -> bool:
        return len(self.text) == 2

    def scores(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores of `logits` [rows, outputs]: [rows], or [rows, classes] with more than two classes."""
        if self.kind == "regression":
            return logits[:, 0]
        if self.kind == "relevance":
            return sigmoid(logits[:, 0])
        if len(self.labels) == 2:
            return sigmoid(logits[:, 1] - logits[:, 0])
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True), dtype=np.float32)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"labels": list(self.labels), "text": list(self.text)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Task:
        values = strict_keys(cls, data)
        return cls(**{**values, "labels": tuple(values["labels"]), "text": tuple(values["text"])})


def sigmoid(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 / (1 + exp(-x)) without overflow."""
    e = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1 / (1 + e), e / (1 + e)), dtype=np.float32)
