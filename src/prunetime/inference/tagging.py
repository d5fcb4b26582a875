"""Token classification: the words of a text, and the labels that logits give them.

As in the `run_ner` example of transformers, a word's label is that of its first token. Words are what white space
parts, so that a text need not come in words.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from prunetime.core.arrays import Array, Float32Array, Int32Array, Int64Array
from prunetime.core.task import Tagged, Task
from prunetime.inference.inputs import Inputs
from prunetime.inference.tokenize import Tokenizer

NO_LABEL = -100
"""The label of tokens that are not the first of a word: the loss leaves them out, as transformers' does."""


@dataclass(frozen=True)
class Words(Inputs):
    """Sequences of `tokens`, a text each.

    - `texts`: of the sequences
    - `words`: of every text, each (first, one past the last) of its characters
    - `word`: the word of its text whose first token this is, -1 for other tokens, [tokens]. A word that was cut off, or
      that the tokenizer makes nothing of, has none.
    """

    texts: Sequence[str]
    words: Sequence[tuple[tuple[int, int], ...]]
    word: Int32Array

    def select(self, examples: Int64Array) -> Words:
        tokens, source = self.tokens.select_tokens(examples)
        texts, words = ([values[example] for example in examples] for values in (self.texts, self.words))
        return replace(self, tokens=tokens, texts=texts, words=words, word=self.word[source])

    def targets(self, labels: Array) -> Int64Array:
        """The label of every token [tokens], an index, from those of the words (tuples of names); `NO_LABEL` for tokens
        that are not the first of a word."""
        index = {label: number for number, label in enumerate(self.task.labels)}
        targets = np.full(len(self.word), NO_LABEL, np.int64)
        for sequence, names in enumerate(labels):
            at, word = self._firsts(sequence)
            targets[at] = [index[names[number]] for number in word]
        return targets

    def scores(self, logits: Float32Array) -> Array:
        """A `Tagged` of every text (objects, [texts]), from `logits` [tokens, labels]. A word without a token gets the
        first label, with a probability of 0."""
        found = np.empty(len(self.texts), object)
        for sequence, (text, words) in enumerate(zip(self.texts, self.words, strict=True)):
            labels, probabilities = [self.task.labels[0]] * len(words), [0.0] * len(words)
            at, word = self._firsts(sequence)
            exponentials = np.exp(logits[at] - logits[at].max(axis=1, keepdims=True, initial=-np.inf))
            likely = exponentials.argmax(axis=1)
            shares = exponentials.max(axis=1, initial=0.0) / exponentials.sum(axis=1)
            for number, label, share in zip(word.tolist(), likely.tolist(), shares.tolist(), strict=True):
                labels[number], probabilities[number] = self.task.labels[label], share
            found[sequence] = Tagged(text, words, tuple(labels), tuple(probabilities), self.task.tag_scheme)
        return found

    def _firsts(self, sequence: int) -> tuple[Int64Array, Int32Array]:
        """The tokens of a sequence that are the first of words, and their words."""
        start, stop = self.tokens.offsets[sequence : sequence + 2]
        (at,) = np.nonzero(self.word[start:stop] >= 0)
        return at + start, self.word[start:stop][at]


def words(tokenizer: Tokenizer, task: Task, texts: Sequence[str]) -> Words:
    """The inputs of a model that labels the words of texts."""
    tokens, spans = tokenizer.encode_spans(texts)
    parts = [words_of(text) for text in texts]
    word = np.full(len(spans), -1, np.int32)
    for sequence, (text, own) in enumerate(zip(texts, parts, strict=True)):
        starts, last = [start for start, _ in own], -1
        for token in range(tokens.offsets[sequence], tokens.offsets[sequence + 1]):
            first, stop = spans[token].tolist()
            first = stop - len(text[first:stop].lstrip())
            if first < stop and (found := bisect_right(starts, first) - 1) != last:
                word[token], last = found, found
    return Words(task, tokens, list(texts), parts, word)


def words_of(text: str) -> tuple[tuple[int, int], ...]:
    """(first, one past the last) of the characters of every word."""
    return tuple(match.span() for match in re.finditer(r"\S+", text))
