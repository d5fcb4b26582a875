"""A cache from texts to token ids: queries and documents recur."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import NamedTuple

from prunetime.inference.ragged import Ragged
from prunetime.inference.tokenize import Texts, Tokenizer, Tokens

SMALL_INTEGERS = 256
"""CPython keeps one object for each integer up to this one, which all lists share."""


class _Known(NamedTuple):
    tokens: Tokens
    size: int
    """The size of the entry in bytes, its text included."""


class TextCache:
    """An LRU cache of the tokens of single texts, without special tokens and cut to what a sequence can hold. Its
    texts, tokens and table take at most `max_bytes` of memory. It may be used by several threads.

    Pairs are assembled from it, so that a frequent query is found beside a new document.
    """

    def __init__(self, tokenizer: Tokenizer, max_bytes: int) -> None:
        self._tokenizer, self._max_bytes, self._sizes = tokenizer, max_bytes, 0
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._lock = Lock()
        self.hits = self.misses = 0

    def __len__(self) -> int:
        return len(self._known)

    @property
    def bytes(self) -> int:
        """The memory that the cache takes, in bytes."""
        return self._sizes + sys.getsizeof(self._known)

    def encode(self, rows: Sequence[Texts]) -> Ragged:
        """Encodes texts or pairs, as `Tokenizer.encode` does."""
        found = [self._tokenizer.joined(*map(self._single, row)) for row in rows]
        return Ragged.of([ids for ids, _ in found], [types for _, types in found])

    def _single(self, text: str) -> Tokens:
        with self._lock:
            known = self._known.get(text)
            if known is not None:
                self._known.move_to_end(text)
                self.hits += 1
                return known.tokens
            self.misses += 1
        made = self._tokenizer.single(text)
        size = _size(text, made)
        with self._lock:
            if size <= self._max_bytes and text not in self._known:
                self._known[text] = _Known(made, size)
                self._sizes += size
            while self.bytes > self._max_bytes and self._known:
                self._sizes -= self._known.popitem(last=False)[1].size
        return made


def _size(text: str, tokens: Tokens) -> int:
    """The bytes of an entry: its text, its tokens, and the objects that no other entry shares."""
    integers = 1 + sum(map(SMALL_INTEGERS.__lt__, tokens.ids))  # the size is one
    objects = text, tokens, tokens.ids, _Known(tokens, 0)
    return sum(map(sys.getsizeof, objects)) + integers * sys.getsizeof(SMALL_INTEGERS + 1)
