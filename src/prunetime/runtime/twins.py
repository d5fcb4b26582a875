"""Similarity: two texts that are read apart, and the cosine of what a model makes of them (Sentence-BERT, arXiv
1908.10084)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunetime.runtime.inputs import Inputs, Ints
from prunetime.runtime.tokenize import Texts, Tokenizer
from prunetime.task import Task


@dataclass(frozen=True)
class Twins(Inputs):
    """Rows of `tokens`, two of each example, one after the other."""

    def select(self, examples: Ints) -> Twins:
        return replace(self, tokens=self.tokens.select(both(examples)))

    def scores(self, logits: NDArray[np.float32]) -> NDArray[Any]:
        """Cosines [examples], float32, of the embeddings `logits` [2 x examples, hidden]."""
        normed = unit(logits)
        cosines: NDArray[np.float32] = np.einsum("ij,ij->i", normed[0::2], normed[1::2])
        return cosines


class Singles(Inputs):
    """Rows of `tokens`, each a text by itself."""

    def scores(self, logits: NDArray[np.float32]) -> NDArray[Any]:
        """Embeddings [texts, hidden], float32, of length 1: their products are what pairs score."""
        return unit(logits)


def twins(tokenizer: Tokenizer, task: Task, pairs: Sequence[Texts]) -> Twins:
    """What a model reads of pairs of texts."""
    return Twins(task, tokenizer.encode([(text,) for pair in pairs for text in pair]))


def both(examples: Sequence[int] | NDArray[np.integer]) -> Ints:
    """The two rows of every example."""
    first = 2 * np.asarray(examples, np.int64)
    return np.stack((first, first + 1), axis=1).ravel()


def unit(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """`embeddings` [rows, hidden] scaled to a length of 1."""
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return np.asarray(embeddings / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)
