"""Tasks: the meaning of a model's logits, and the answers and spans that are made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from prunetime.core.arrays import Array, Float32Array
from prunetime.core.checks import one_of
from prunetime.core.config import LogitRows
from prunetime.core.embedding import EmbeddingSettings
from prunetime.core.prompts import Prompts
from prunetime.core.record import strict_keys
from prunetime.core.tag_scheme import TagScheme, scheme_of
from prunetime.core.task_kind import TASK_KINDS, TaskKind, TaskTraits
from prunetime.errors import InputError

ScoreActivation = Literal["identity", "sigmoid"]
"""The activations that a CrossEncoder of sentence-transformers may have."""

DOC_STRIDE = 128
"""As in the `run_qa` example of transformers and its pipeline: at most half of a window."""


class Answer(NamedTuple):
    """An answer to a question: a part of its context.

    Attributes:
        text: The part, as the context has it; empty where there is no answer.
        start: Its first character's place in the context.
        score: The probability that a model gives it, 0 to 1.
    """

    text: str
    start: int
    score: float = 1.0


class Span(NamedTuple):
    """A part of a text with the label that a model gives it.

    Attributes:
        label: The label.
        text: The part.
        start: Its first character's place in the text.
        score: The least probability of the labels of its words, 0 to 1.
    """

    label: str
    text: str
    start: int
    score: float = 1.0


class Tagged(NamedTuple):
    """A text whose words a model has labelled.

    Attributes:
        text: The text.
        words: Its words, each as (first, one past the last) of the text's characters.
        labels: The label of every word.
        probabilities: The probability of each of these labels, 0 to 1.
        scheme: Says which spans the labels mark.
    """

    text: str
    words: tuple[tuple[int, int], ...]
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    scheme: TagScheme = TagScheme()

    @property
    def spans(self) -> list[Span]:
        """The spans of the text that the labels mark."""
        found = []
        for label, first, last in self.scheme.spans(self.labels):
            start, stop = self.words[first][0], self.words[last][1]
            least = min(self.probabilities[first : last + 1])
            found.append(Span(label, self.text[start:stop], start, least))
        return found


@dataclass(frozen=True)
class Task:
    """The task a model answers.

    - `classification`: one logit per name in `labels` (2..n). The score is the softmax; with two labels, the
      probability of the second.
    - `multi-label-classification`: one logit per name in `labels`, of which a text has any number. The scores are their
      sigmoids; a text has the labels whose score is at least `threshold`.
    - `relevance`: one logit for a graded label in 0..1; the score is its sigmoid.
    - `regression`: one logit for any float; the score is the logit.
    - `question-answering`: of every token two logits, that the answer starts and that it ends there. The texts are a
      question and a context, which holds the answer; a long context is read in windows of `max_length` tokens, of which
      neighbours share `doc_stride`. The score is an `Answer`, which may be empty where some questions are
      `unanswerable`.
    - `token-classification`: of every word one of `labels`, from the logits of its first token. Words are what white
      space parts. The score is a `Tagged`.
    - `similarity`: of every text an embedding; the score of a pair is how alike `embedding` says that theirs are.

    `text` names the one or two text columns, in order. `max_length` is in tokens, special tokens included. A prompt of
    `prompts` goes before the first text of a pair that is read together, and before each text that is embedded.
    `activation` is for `predictions` (None: they are the scores).
    """

    kind: TaskKind
    labels: tuple[str, ...]
    text: tuple[str, ...]
    max_length: int
    doc_stride: int | None = None
    unanswerable: bool = False
    prompts: Prompts = field(default_factory=Prompts)
    embedding: EmbeddingSettings = field(default_factory=EmbeddingSettings)
    activation: ScoreActivation | None = None
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if self.kind not in TASK_KINDS:
            raise InputError(f"task kind is {self.kind!r}; the kinds are {', '.join(TASK_KINDS)}")
        has_labels, counts = self.traits.has_labels, self.traits.text_counts
        if has_labels and len(self.labels) < 2:
            raise InputError(f"{self.kind} needs at least two labels, got {list(self.labels)}")
        if len(set(self.labels)) != len(self.labels):
            raise InputError(f"labels are not distinct: {list(self.labels)}")
        if not has_labels and self.labels:
            raise InputError(f"{self.kind} has no label names, got {list(self.labels)}")
        if len(self.text) not in (1, 2):
            raise InputError(f"a task has one or two text columns, got {list(self.text)}")
        if len(self.text) not in counts:
            raise InputError(f"{self.kind} has {('one text', 'two texts')[counts[0] - 1]}; got {list(self.text)}")
        if self.max_length < 3:
            raise InputError(f"max_length is {self.max_length}: a sequence has at least 3 tokens")
        self._check_windows()
        one_of("activation", self.activation, (None, *get_args(ScoreActivation)))
        if self.activation is not None and self.rows != "pooled":
            raise InputError(
                f"activation is {self.activation!r}, but {self.kind} has no scores of logits: leave it out"
            )
        if self.prompts != Prompts() and self.rows == "tokens":
            raise InputError(f"prompts are not supported for {self.kind}: leave them out")
        if self.embedding != EmbeddingSettings() and self.rows != "embedding":
            raise InputError(f"{self.embedding} is of embeddings, which {self.kind} has not: leave it out")
        if not (isinstance(self.threshold, float) and 0.0 < self.threshold < 1.0):
            raise InputError(f"threshold is {self.threshold!r}; it must be a number above 0 and below 1")
        if self.threshold != 0.5 and not self.traits.is_multi_label:
            raise InputError(f"threshold is {self.threshold}, but {self.kind} has none: leave it out")

    @property
    def traits(self) -> TaskTraits:
        """In what tasks of this kind differ from others."""
        return TASK_KINDS[self.kind]

    @property
    def outputs(self) -> int | None:
        """Number of logits; None where the model gives an embedding, which is as wide as it is."""
        return len(self.labels) or self.traits.outputs

    @property
    def is_binary(self) -> bool:
        """Whether the labels are two classes, of which the second is scored."""
        return self.traits.score == "softmax" and len(self.labels) == 2

    @property
    def score_shape(self) -> tuple[int, ...]:
        """The shape of the scores of an example: () for one number, or [labels]."""
        return () if self.is_binary or not self.labels else (len(self.labels),)

    @property
    def rows(self) -> LogitRows:
        """The rows that the head reads, as in `EncoderConfig`."""
        return self.traits.rows

    @property
    def tag_scheme(self) -> TagScheme:
        """How the labels of words mark spans."""
        return scheme_of(self.labels)

    @property
    def pair(self) -> bool:
        return len(self.text) == 2

    @property
    def read_together(self) -> bool:
        """Whether a sequence of the model is a pair of texts."""
        return self.pair and not self.traits.reads_apart

    @property
    def is_ranking(self) -> bool:
        """Whether the score of a pair is one number, the higher the better."""
        return self.pair and (self.traits.is_ranking or self.is_binary)

    def scores(self, logits: Float32Array) -> Float32Array:
        """Scores of `logits` [examples, outputs]: [examples], or [examples, labels] of several labels, or of more than
        two classes.

        Raises InputError where what logits say depends on the texts (`inference.inputs`).
        """
        if self.rows != "pooled":
            raise InputError(f"logits of {self.kind} are no scores: those are made from texts")
        if self.traits.is_multi_label:
            return sigmoid(logits)
        if self.outputs == 1:
            return sigmoid(logits[:, 0]) if self.traits.score == "sigmoid" else logits[:, 0]
        if self.is_binary:
            return sigmoid(logits[:, 1] - logits[:, 0])
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True), dtype=np.float32)

    def assigned(self, scores: Float32Array) -> list[list[str]]:
        """Returns the labels of every text, in the order of `labels`: those whose score is at least `threshold`.

        Args:
            scores: the scores of texts [texts, labels].

        Raises:
            InputError: a text of this task has not any number of labels.
        """
        if not self.traits.is_multi_label:
            raise InputError(f"{self.kind} has no threshold, from which on a text has a label")
        given = scores.astype(np.float64) >= self.threshold
        return [[label for label, has in zip(self.labels, row, strict=True) if has] for row in given.tolist()]

    def at_half(self, scores: Array) -> Array:
        """Scores [examples, labels] in the same order, moved so that `threshold` comes to 0.5, from which on metrics
        take a label as given; other scores as they are."""
        if self.threshold == 0.5:
            return scores
        return np.asarray(np.interp(scores, (0.0, self.threshold, 1.0), (0.0, 0.5, 1.0)))

    def predictions(self, logits: Float32Array) -> Float32Array:
        """The predictions of `CrossEncoder.predict` of sentence-transformers: `logits` [examples, outputs] under
        `activation`, as [examples] where there is one output.

        Raises InputError as `scores` does.
        """
        if self.activation is None:
            return self.scores(logits)
        predicted = sigmoid(logits) if self.activation == "sigmoid" else logits
        return predicted[:, 0] if self.outputs == 1 else predicted

    def _check_windows(self) -> None:
        if not self.traits.reads_windows:
            if self.unanswerable:
                raise InputError(f"{self.kind} has no questions: unanswerable is of question-answering")
            if self.doc_stride is not None:
                raise InputError(f"doc_stride is {self.doc_stride}, but {self.kind} reads no windows: leave it out")
            return
        if type(self.doc_stride) is not int or not 0 <= self.doc_stride < self.max_length - 4:
            raise InputError(
                f"doc_stride is {self.doc_stride!r}; windows of {self.max_length} tokens can share 0 to "
                f"{self.max_length - 5} of them: give a smaller one, or longer windows"
            )

    def to_json(self) -> dict[str, Any]:
        """The fields; `threshold` only where the kind has one, so that others read as before."""
        data = asdict(self) | {"labels": list(self.labels), "text": list(self.text)}
        if not self.traits.is_multi_label:
            del data["threshold"]
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Task:
        values = strict_keys(cls, data)
        prompts, embedding = values.get("prompts", {}), values.get("embedding", {})
        nested = {"prompts": Prompts.from_json(prompts), "embedding": EmbeddingSettings.from_json(embedding)}
        return cls(**{**values, **nested, "labels": tuple(values["labels"]), "text": tuple(values["text"])})


def sigmoid(x: Float32Array) -> Float32Array:
    """1 / (1 + exp(-x)) without overflow."""
    e = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1 / (1 + e), e / (1 + e)), dtype=np.float32)
