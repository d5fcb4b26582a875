"""Texts to token ids, with what was tokenised before remembered: queries and ads come again and again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock

from prunetime.runtime.ragged import Ragged
from prunetime.runtime.tokenize import Texts, Tokenizer, Tokens

BYTES_OF_A_TOKEN = 36
"""Of a list of ids: a pointer each, and a Python integer."""


class TextCache:
    """The tokens of single texts, without special tokens, the least recently used ones left out beyond `most_bytes`:
    of each what a sequence can keep.

    Pairs are put together from them, so that a hot query is known beside a new ad. May be used by several threads.
    """

    def __init__(self, tokenizer: Tokenizer, most_bytes: int) -> None:
        self._tokenizer, self._most, self._bytes = tokenizer, most_bytes, 0
        self._known: OrderedDict[str, Tokens] = OrderedDict()
        self._lock = Lock()
        self.hits = self.misses = 0

    def __len__(self) -> int:
        return len(self._known)

    def encode(self, rows: Sequence[Texts]) -> Ragged:
        """As `Tokenizer.encode`."""
        found = [self._tokenizer.joined(*map(self._single, row)) for row in rows]
        return Ragged.of([ids for ids, _ in found], [types for _, types in found])

    def _single(self, text: str) -> Tokens:
        with self._lock:
            known = self._known.get(text)
            if known is not None:
                self._known.move_to_end(text)
                self.hits += 1
                return known
            self.misses += 1
        made = self._tokenizer.single(text)
        with self._lock:
            if text not in self._known:
                self._known[text] = made
                self._bytes += _size(text, made)
            while self._bytes > self._most and self._known:
                self._bytes -= _size(*self._known.popitem(last=False))
        return made


def _size(text: str, tokens: Tokens) -> int:
    return 4 * len(text) + BYTES_OF_A_TOKEN * len(tokens.ids)
