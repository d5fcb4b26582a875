"""Texts to ragged batches of token ids."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from hashlib import sha256

import numpy as np
import tokenizers
from numpy.typing import NDArray

from prunetime.errors import InputError
from prunetime.runtime.ragged import Ragged

Texts = tuple[str, ...]
"""One text, or a pair."""


class Tokenizer:
    """A `tokenizer.json` at a fixed maximum length: the longer text of a pair is cut first, nothing is padded."""

    def __init__(self, content: bytes, max_length: int) -> None:
        """From the bytes of a `tokenizer.json`; raises InputError where they are none. `max_length` is in tokens."""
        self.max_length = max_length
        self._content = content
        self._tokenizer = _uncut(content)
        self._tokenizer.enable_truncation(max_length, strategy="longest_first")

    @cached_property
    def _whole(self) -> tokenizers.Tokenizer:
        return _uncut(self._content)

    @cached_property
    def digest(self) -> str:
        """Two that are equal make the same tokens."""
        return digest_of(self._content, self.max_length)

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def token(self, number: int) -> str | None:
        """The token of that id; None where there is none."""
        found: str | None = self._tokenizer.id_to_token(number)
        return found

    def encode(self, texts: Sequence[Texts]) -> Ragged:
        """Token ids and types of texts or pairs, special tokens included, at most `max_length` each."""
        inputs = [text[0] if len(text) == 1 else (text[0], text[1]) for text in texts]
        if len(inputs) == 1:
            item = inputs[0]
            pair = (item, None) if isinstance(item, str) else item
            encodings = [self._tokenizer.encode(*pair)]
        else:
            encodings = self._tokenizer.encode_batch(inputs)
        return Ragged.of([e.ids for e in encodings], [e.type_ids for e in encodings])

    def encode_spans(self, texts: Sequence[str]) -> tuple[Ragged, NDArray[np.int32]]:
        """As `encode`, and the characters (first, one past the last) of its text that each token stands for,
        [tokens, 2]; nothing, (0, 0), for special tokens."""
        encodings = self._tokenizer.encode_batch(list(texts))
        spans = [
            span if text is not None else (0, 0)
            for encoding in encodings
            for span, text in zip(encoding.offsets, encoding.sequence_ids, strict=True)
        ]
        tokens = Ragged.of([e.ids for e in encodings], [e.type_ids for e in encodings])
        return tokens, np.array(spans, np.int32).reshape(-1, 2)

    def single(self, text: str) -> tokenizers.Encoding:
        """The tokens of one text alone, without special tokens, uncut."""
        return self._whole.encode(text, add_special_tokens=False)

    def joined(self, first: tokenizers.Encoding, second: tokenizers.Encoding | None = None) -> tokenizers.Encoding:
        """What `encode` makes of the texts of which these are the `single` tokens."""
        return self._tokenizer.post_process(first, second)

    def encode_whole(self, pairs: Sequence[Texts]) -> list[tokenizers.Encoding]:
        """Pairs as the tokenizers library has them (which text every token is of, and where), at their full lengths."""
        return self._whole.encode_batch([(pair[0], pair[1]) for pair in pairs])


def digest_of(content: bytes, max_length: int) -> str:
    """Of the `Tokenizer` that is made of these: sha256."""
    return sha256(content + str(max_length).encode()).hexdigest()


def _uncut(content: bytes) -> tokenizers.Tokenizer:
    try:
        tokenizer = tokenizers.Tokenizer.from_buffer(content)
    except Exception as error:  # tokenizers raises bare Exception for every kind of broken content
        raise InputError(f"the tokenizer cannot be read: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
