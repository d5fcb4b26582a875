"""Similarity: two texts that are read apart, and how alike their embeddings are (Sentence-BERT, arXiv 1908.10084)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from prunetime.core.arrays import Array, Float32Array, Int64Array
from prunetime.core.task import Task
from prunetime.inference.inputs import Inputs
from prunetime.inference.ragged import Ragged
from prunetime.inference.tokenize import Texts, Tokenizer


@dataclass(frozen=True)
class PairInputs(Inputs):
    """Sequences of `tokens`, two of each example, one after the other."""

    def select(self, examples: Int64Array) -> PairInputs:
        return replace(self, tokens=self.tokens.select(sequences_of_pairs(examples)))

    def scores(self, logits: Float32Array) -> Array:
        """How alike [examples], float32, the embeddings `logits` [2 x examples, width] of the pairs are."""
        settings = self.task.embedding
        embeddings = settings.kept(logits)
        return settings.similarities(embeddings[0::2], embeddings[1::2])


class SingleInputs(Inputs):
    """Sequences of `tokens`, each a text by itself."""

    def scores(self, logits: Float32Array) -> Array:
        """Embeddings [texts, width], float32."""
        return self.task.embedding.kept(logits)


class TokenInputs(Inputs):
    """Sequences of `tokens`, each a text by itself, of which every token has an embedding."""

    @classmethod
    def of(cls, inputs: Inputs) -> TokenInputs:
        """The sequences of `inputs`; the tokens of prompts that pooling would leave out are tokens as others are."""
        return cls(inputs.task, replace(inputs.tokens, skipped=None))

    def scores(self, logits: Float32Array) -> Array:
        """The embeddings [tokens, width] of every text's tokens, special ones included."""
        return np.fromiter(np.split(logits, self.tokens.offsets[1:-1]), object, len(self.tokens))


def pair_inputs(tokenizer: Tokenizer, task: Task, pairs: Sequence[Texts], prompt: str) -> PairInputs:
    """The sequences that a model reads of pairs of texts, each text after `prompt`."""
    return PairInputs(task, _tokens(tokenizer, task, [text for pair in pairs for text in pair], prompt))


def single_inputs(tokenizer: Tokenizer, task: Task, texts: Sequence[str], prompt: str) -> SingleInputs:
    """The sequences that a model reads of texts to be embedded, each after `prompt`."""
    return SingleInputs(task, _tokens(tokenizer, task, texts, prompt))


def _tokens(tokenizer: Tokenizer, task: Task, texts: Sequence[str], prompt: str) -> Ragged:
    tokens = tokenizer.encode([(prompt + text,) for text in texts])
    if not prompt or task.embedding.include_prompt:
        return tokens
    return replace(tokens, skipped=np.full(len(texts), tokenizer.prompt_length(prompt), np.int32))


def sequences_of_pairs(examples: Sequence[int] | NDArray[np.integer]) -> Int64Array:
    """The two sequences of every example."""
    first = 2 * np.asarray(examples, np.int64)
    return np.stack((first, first + 1), axis=1).ravel()
