"""Settings of embeddings: how much of them is kept, and how two are compared, as in sentence-transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from prunetime.core.arrays import Float32Array
from prunetime.core.checks import one_of, true_or_false, whole_number
from prunetime.core.record import Record

Similarity = Literal["cosine", "dot", "euclidean", "manhattan"]
"""The names of sentence-transformers for what compares two embeddings; a distance counts as its negative."""


@dataclass(frozen=True)
class EmbeddingSettings(Record):
    """How a text becomes an embedding, and two embeddings a score, besides the encoder.

    With `include_prompt` false, the tokens of a prompt are read but not pooled. `truncate_dim` is how many of the
    embedding's first numbers are kept (None: all). `similarity_fn_name` is what a pair of texts is scored by.
    """

    include_prompt: bool = True
    truncate_dim: int | None = None
    similarity_fn_name: Similarity = "cosine"

    def __post_init__(self) -> None:
        true_or_false("include_prompt", self.include_prompt)
        whole_number("truncate_dim", self.truncate_dim, or_none=True)
        one_of("similarity_fn_name", self.similarity_fn_name, get_args(Similarity))

    def kept(self, embeddings: Float32Array) -> Float32Array:
        """The first `truncate_dim` numbers of `embeddings` [texts, width]."""
        return embeddings[:, : self.truncate_dim]

    def similarities(self, left: Float32Array, right: Float32Array) -> Float32Array:
        """Scores [pairs] of pairs of embeddings [texts, width], the higher the more alike."""
        if self.similarity_fn_name == "euclidean":
            return np.asarray(-np.linalg.norm(left - right, axis=1), np.float32)
        if self.similarity_fn_name == "manhattan":
            return np.asarray(-np.abs(left - right).sum(axis=1), np.float32)
        if self.similarity_fn_name == "cosine":
            left, right = unit(left), unit(right)
        return np.asarray(np.einsum("ij,ij->i", left, right), np.float32)

    def similarity_matrix(self, left: Float32Array, right: Float32Array) -> Float32Array:
        """Scores [rows, columns] of each embedding of `left` [rows, width] with each of `right` [columns, width]."""
        if self.similarity_fn_name in ("euclidean", "manhattan"):
            return np.stack([self.similarities(row[None], right) for row in left])
        if self.similarity_fn_name == "cosine":
            left, right = unit(left), unit(right)
        return np.asarray(left @ right.T, np.float32)

    def orders_as_cosine(self, normalized: bool) -> bool:
        """Whether pairs are ordered as by the cosine of what is kept of their embeddings, which are `normalized` or
        not."""
        unit_length = normalized and self.truncate_dim is None
        return self.similarity_fn_name == "cosine" or (unit_length and self.similarity_fn_name != "manhattan")


def unit(embeddings: Float32Array) -> Float32Array:
    """`embeddings` [texts, width] scaled to a length of 1."""
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return np.asarray(embeddings / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)
