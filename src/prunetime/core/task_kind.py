"""The kinds of tasks: one table of everything in which they differ.

Code asks the table (`task.traits`) and does not compare names of kinds. What a kind has a function for, each layer has
in one dictionary by kind: `inference.reading.READERS`, `tasks.data.LABELS`, `models.losses.LOSSES`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prunetime.core.config import TaskLogitRows

TaskKind = Literal[
    "classification",
    "multi-label-classification",
    "relevance",
    "regression",
    "question-answering",
    "token-classification",
    "similarity",
]

Choice = Literal["outputs", "yes-no", "tokens", "embedding"]
"""The choices that logits are of: among the outputs (of a row or a token), between yes and no for every output, or
among the tokens for every output; an embedding has none."""


@dataclass(frozen=True)
class TaskTraits:
    """In what a kind of task differs from others.

    Attributes:
        gives: what a model gives for an example, for people; `Task` fields and `hidden` are filled in.
        rows: what the head reads, as in `EncoderConfig`.
        head: what the head of a checkpoint is for.
        text_counts: how many texts an example may have.
        text_names: what the texts are called where nobody says.
        outputs: the number of logits; None where it is that of the labels, or the width of an embedding.
        has_labels: labels have names, each a logit of its own.
        score: what makes scores of the logits of a pooled row.
        is_ranking: the score of a pair of texts is one number, the higher the better.
        reads_apart: each text is a sequence by itself (a bi-encoder), and has an embedding.
        reads_windows: a long text is read in windows that overlap.
        labels_words: every word of a text has a label, rather than the text.
        integer_labels: training reads labels as indices, rather than as floats.
        choice: what the logits choose among, for distillation and agreement.
        default_metric: a name of `tasks.metrics`; `default_metric_of_two` is that of two classes.
        problem_type: what transformers calls the kind in config.json, where it has a word for it.
        pipeline_tag: what the hub of Hugging Face calls it; empty where that depends on the number of texts.
        tensors: names and types of what a server of the Open Inference Protocol gives.
    """

    gives: str
    rows: TaskLogitRows = "pooled"
    head: Literal["pooled", "answers", "tags", "embedding"] = "pooled"
    text_counts: tuple[int, ...] = (1, 2)
    text_names: tuple[str, ...] = ()
    outputs: int | None = 1
    has_labels: bool = False
    score: Literal["identity", "sigmoid", "softmax"] = "identity"
    is_ranking: bool = False
    reads_apart: bool = False
    reads_windows: bool = False
    labels_words: bool = False
    integer_labels: bool = False
    choice: Choice = "outputs"
    default_metric: str = "spearman"
    default_metric_of_two: str = ""
    problem_type: str | None = None
    pipeline_tag: str = ""
    tensors: tuple[tuple[str, str], ...] = (("score", "FP32"),)

    @property
    def activation(self) -> Literal["identity", "sigmoid"]:
        """The activation of a new CrossEncoder of sentence-transformers."""
        return "sigmoid" if self.score == "sigmoid" else "identity"

    @property
    def is_multi_label(self) -> bool:
        """Whether a text has any number of the labels: each has a score of its own."""
        return self.has_labels and self.score == "sigmoid"


TASK_KINDS: dict[TaskKind, TaskTraits] = {
    "classification": TaskTraits(
        gives="one of {classes} classes",
        outputs=None,
        has_labels=True,
        score="softmax",
        integer_labels=True,
        default_metric="accuracy",
        default_metric_of_two="auc",
        problem_type="single_label_classification",
    ),
    "multi-label-classification": TaskTraits(
        gives="any of {classes} labels, each with a probability from {threshold:.4g} on",
        outputs=None,
        has_labels=True,
        score="sigmoid",
        choice="yes-no",
        default_metric="f1_micro",
        problem_type="multi_label_classification",
        pipeline_tag="text-classification",
        tensors=(("score", "FP32"), ("labels", "BYTES")),
    ),
    "relevance": TaskTraits(
        gives="a relevance from 0 to 1", score="sigmoid", is_ranking=True, problem_type="multi_label_classification"
    ),
    "regression": TaskTraits(gives="a number", is_ranking=True, problem_type="regression"),
    "question-answering": TaskTraits(
        gives="a part of {text}{or_nothing}",
        rows="tokens",
        head="answers",
        text_counts=(2,),
        text_names=("question", "context"),
        outputs=2,
        reads_windows=True,
        integer_labels=True,
        choice="tokens",
        default_metric="f1",
        pipeline_tag="question-answering",
        tensors=(("answer", "BYTES"), ("start", "INT64"), ("score", "FP32")),
    ),
    "token-classification": TaskTraits(
        gives="of every word one of {classes} labels",
        rows="tokens",
        head="tags",
        text_counts=(1,),
        text_names=("text",),
        outputs=None,
        has_labels=True,
        labels_words=True,
        integer_labels=True,
        default_metric="f1",
        pipeline_tag="token-classification",
        tensors=(("spans", "BYTES"),),
    ),
    "similarity": TaskTraits(
        gives="a cosine, of embeddings of {hidden} numbers",
        rows="embedding",
        head="embedding",
        text_counts=(2,),
        text_names=("text", "other"),
        outputs=None,
        is_ranking=True,
        reads_apart=True,
        choice="embedding",
        pipeline_tag="sentence-similarity",
    ),
}
"""The traits of every kind. Relevance is multi-label classification with one output: both have the problem type that
transformers scores by a sigmoid."""
