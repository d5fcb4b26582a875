"""What a model's logits mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from prunetime.arch import strict_keys
from prunetime.config import Rows
from prunetime.errors import InputError

Kind = Literal["classification", "relevance", "regression", "question-answering"]

DOC_STRIDE = 128
"""As in the `run_qa` example of transformers and its pipeline: at most half of a window."""


class Answer(NamedTuple):
    """A part of a context, `start` characters into it. `score` is the probability that a model gives it."""

    text: str
    start: int
    score: float = 1.0


@dataclass(frozen=True)
class Task:
    """The task a model answers.

    - `classification`: one logit per name in `labels` (2..n). The score is the softmax; with two labels, the
      probability of the second.
    - `relevance`: one logit for a graded label in 0..1; the score is its sigmoid.
    - `regression`: one logit for any float; the score is the logit.
    - `question-answering`: of every token two logits, that the answer starts and that it ends there. The texts are a
      question and a context, which holds the answer; a long context is read in windows of `max_length` tokens, of which
      neighbours share `doc_stride`. The score is an `Answer`.

    `text` names the one or two text columns, in order. `max_length` is in tokens, special tokens included.
    """

    kind: Kind
    labels: tuple[str, ...]
    text: tuple[str, ...]
    max_length: int
    doc_stride: int | None = None

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
        self._check_windows()

    @property
    def outputs(self) -> int:
        """Number of logits."""
        return {"classification": len(self.labels), "question-answering": 2}.get(self.kind, 1)

    @property
    def rows(self) -> Rows:
        """What the head reads, as in `EncoderConfig`."""
        return "tokens" if self.kind == "question-answering" else "pooled"

    @property
    def pair(self) -> bool:
        return len(self.text) == 2

    @property
    def ranks(self) -> bool:
        """Whether the score of a pair is one number, the higher the better."""
        return self.pair and (self.kind in ("relevance", "regression") or len(self.labels) == 2)

    def scores(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores of `logits` [rows, outputs]: [rows], or [rows, classes] with more than two classes.

        Raises InputError for question answering: what its logits say depends on the texts (`runtime.inputs`).
        """
        if self.rows == "tokens":
            raise InputError(f"logits of {self.kind} are of tokens: its scores are made from texts")
        if self.kind == "regression":
            return logits[:, 0]
        if self.kind == "relevance":
            return sigmoid(logits[:, 0])
        if len(self.labels) == 2:
            return sigmoid(logits[:, 1] - logits[:, 0])
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True), dtype=np.float32)

    def _check_windows(self) -> None:
        if self.kind != "question-answering":
            if self.doc_stride is not None:
                raise InputError(f"doc_stride is {self.doc_stride}, but {self.kind} reads no windows: leave it out")
            return
        if len(self.text) != 2:
            raise InputError(f"{self.kind} has two texts, the question and its context; got {list(self.text)}")
        if type(self.doc_stride) is not int or not 0 <= self.doc_stride < self.max_length - 4:
            raise InputError(
                f"doc_stride is {self.doc_stride!r}; windows of {self.max_length} tokens can share 0 to "
                f"{self.max_length - 5} of them: give a smaller one, or longer windows"
            )

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
