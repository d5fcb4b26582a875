"""Texts to ragged batches of token ids."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import groupby

import numpy as np
import tokenizers
from numpy.typing import NDArray

from prunetime.errors import InputError
from prunetime.runtime.ragged import Ragged
from prunetime.runtime.splitting import boundary_of, end_of, pieces, start_of

Texts = tuple[str, ...]
"""One text, or a pair."""

CHARACTERS_PER_TOKEN = 8
"""How much of a long text is read at first, for each token that a sequence can keep of it."""

PIECE = 1 << 14
"""Characters of a text that are tokenised at a time where its tokens are only counted."""

GROUP, GROUP_OF_WHOLE = 1024, 64
"""Texts (cut, and whole) that are tokenised at a time: encodings take some 150 bytes a token."""


@dataclass(slots=True)
class Tokens:
    """The tokens of a `text` alone, without special tokens: all, or of the side that is kept one more than a sequence
    can hold. `count` is how many the text has, None until it is known."""

    text: str
    ids: list[int]
    count: int | None


@dataclass(frozen=True)
class _Run:
    """Tokens of a sequence one after another: those of the first or the second `text`, or (None) the special `ids`."""

    text: int | None
    ids: list[int]
    type: int


class Tokenizer:
    """A `tokenizer.json` at a fixed maximum length: the longer text of a pair is cut first, nothing is padded.

    Texts are cut on the side that `truncation.direction` of the file names, by default on the right. Time and memory
    are linear in the length of a text, and mostly in what is kept of it (`splitting.boundary_of`). The library itself
    makes encodings of all that it cuts off, of a pair one for every two of them, and so takes the square of the length.
    """

    def __init__(self, content: bytes, max_length: int) -> None:
        """From the bytes of a `tokenizer.json`; raises InputError where they are none. `max_length` is in tokens."""
        self.max_length = max_length
        self._content = content
        try:
            self._tokenizer = tokenizers.Tokenizer.from_buffer(content)
        except Exception as error:  # tokenizers raises bare Exception for every kind of broken content
            raise InputError(f"the tokenizer cannot be read: {error}") from error
        self.cuts_left = (self._tokenizer.truncation or {}).get("direction") == "left"
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._boundary = boundary_of(self._tokenizer)

    @cached_property
    def digest(self) -> str:
        """Two that are equal make the same tokens."""
        return digest_of(self._content, self.max_length)

    def highest_type(self, texts: int) -> int:
        """The highest token type of sequences of one or of two texts."""
        return max(run.type for run in self._template(texts))

    def encode(self, texts: Sequence[Texts]) -> Ragged:
        """Token ids and types of texts or pairs, special tokens included, at most `max_length` each.

        Raises InputError where the special tokens alone are more than that.
        """
        tokens = self._singles([text for row in texts for text in row])
        rows = [self.joined(*(next(tokens) for _ in row)) for row in texts]
        return Ragged.of([ids for ids, _ in rows], [types for _, types in rows])

    def count(self, text: str) -> int:
        """Tokens of a whole text, without special tokens."""
        return self._count(self.single(text))

    def length(self, *texts: str) -> int:
        """Tokens of a whole text, or of a pair, special tokens included."""
        return sum(map(self.count, texts)) + self.max_length - self._room(len(texts))

    def prompt_length(self, prompt: str) -> int:
        """The number of a text's first tokens that are of the `prompt` before it, as sentence-transformers counts: all
        tokens of the prompt alone, but for a special one at its end."""
        ids = self.encode([(prompt,)]).ids
        last = self._tokenizer.get_added_tokens_decoder().get(int(ids[-1])) if len(ids) else None
        return len(ids) - (last is not None and last.special)

    def encode_spans(self, texts: Sequence[str]) -> tuple[Ragged, NDArray[np.int32]]:
        """As `encode`, and the characters (first, one past the last) of its text that each token stands for,
        [tokens, 2]; nothing, (0, 0), for special tokens."""
        template, room = self._template(1), self._room(1)
        ids, types, spans = [], [], [np.zeros((0, 2), np.int32)]
        for text, (part, encoding) in zip(texts, self._encodings(texts, with_spans=True), strict=True):
            own = encoding.ids[self._kept(len(encoding), room)]
            before = len(text) - len(part) if self.cuts_left else 0
            of_text = np.array(encoding.offsets[self._kept(len(encoding), room)], np.int32).reshape(-1, 2) + before
            ids.append(_filled(template, [own]))
            types.append(_types(template, [own]))
            spans += [np.zeros((len(run.ids), 2), np.int32) if run.text is None else of_text for run in template]
        return Ragged.of(ids, types), np.concatenate(spans)

    def single(self, text: str) -> Tokens:
        """The tokens of one text alone, for `joined`."""
        return next(self._singles([text]))

    def joined(self, *texts: Tokens) -> tuple[list[int], list[int]]:
        """The ids and types that `encode` gives for one or two texts, of which these are the `single` tokens."""
        template, room = self._template(len(texts)), self._room(len(texts))
        lengths = [len(text.ids) for text in texts]
        if len(texts) == 2 and sum(lengths) > room:
            if room % 2 and min(lengths) > room // 2:  # the longer text keeps one token more
                lengths = self._counts(*texts)
            lengths = list(longest_first(lengths[0], lengths[1], room))
        kept = [text.ids[self._kept(len(text.ids), min(n, room))] for text, n in zip(texts, lengths, strict=True)]
        return _filled(template, kept), _types(template, kept)

    def encode_whole(self, pairs: Sequence[Texts]) -> Iterator[tokenizers.Encoding]:
        """Pairs as the tokenizers library has them (which text every token is of, and where), at their full lengths."""
        for first in range(0, len(pairs), GROUP_OF_WHOLE):
            yield from self._tokenizer.encode_batch([(a, b) for a, b in pairs[first : first + GROUP_OF_WHOLE]])

    def _singles(self, texts: Sequence[str]) -> Iterator[Tokens]:
        for text, (part, encoding) in zip(texts, self._encodings(texts), strict=True):
            count = len(encoding) if len(part) == len(text) else None
            yield Tokens(text, encoding.ids[self._kept(len(encoding), self.max_length + 1)], count)

    def _encodings(self, texts: Sequence[str], with_spans: bool = False) -> Iterator[tuple[str, tokenizers.Encoding]]:
        """Of each text a part on the side that is kept, the whole or with more tokens than a sequence holds, and its
        encoding without special tokens."""
        batch = self._tokenizer.encode_batch if with_spans else self._tokenizer.encode_batch_fast
        for start in range(0, len(texts), GROUP):
            group = texts[start : start + GROUP]
            characters = CHARACTERS_PER_TOKEN * self.max_length
            parts = [self._part(text, characters) for text in group]
            if len(parts) <= 2:  # as fast as can be: what is served online comes one by one
                encodings = [self._tokenizer.encode(part, add_special_tokens=False) for part in parts]
            else:
                encodings = batch(parts, add_special_tokens=False)
            for text, part, encoding in zip(group, parts, encodings, strict=True):
                longer = characters
                while len(encoding) <= self.max_length and len(part) < len(text):
                    longer *= 2
                    part = self._part(text, longer)
                    encoding = self._tokenizer.encode(part, add_special_tokens=False)
                yield part, encoding

    def _part(self, text: str, characters: int) -> str:
        return (end_of if self.cuts_left else start_of)(text, characters, self._boundary)

    def _counts(self, *pair: Tokens) -> list[int]:
        """How many tokens the texts of a pair have; of the longer one perhaps no more than show that it is."""
        ordered = sorted(pair, key=lambda tokens: (tokens.count is None, len(tokens.text)))
        shorter = self._count(ordered[0])
        return [shorter if tokens is ordered[0] else self._count(tokens, shorter) for tokens in pair]

    def _count(self, tokens: Tokens, enough: float = math.inf) -> int:
        """How many tokens the whole text has; where there are more than `enough`, any number above."""
        if tokens.count is not None:
            return tokens.count
        count = 0
        for piece in pieces(tokens.text, PIECE, self._boundary):
            count += len(self._tokenizer.encode_batch_fast([piece], add_special_tokens=False)[0])
            if count > enough:
                return count
        tokens.count = count
        return count

    def _kept(self, count: int, room: int) -> slice:
        """Which of `count` tokens there is `room` for."""
        return slice(max(0, count - room), count) if self.cuts_left else slice(0, room)

    def _room(self, texts: int) -> int:
        special = sum(len(run.ids) for run in self._template(texts) if run.text is None)
        if special > self.max_length:
            raise InputError(
                f"sequences of {self.max_length} tokens hold no text: {special} are special tokens; give a larger "
                "--seq-len"
            )
        return self.max_length - special

    def _template(self, texts: int) -> tuple[_Run, ...]:
        return self._templates[texts - 1]

    @cached_property
    def _templates(self) -> tuple[tuple[_Run, ...], tuple[_Run, ...]]:
        """What sequences of one text and of two are made of, in order: as the tokenizer puts any text into them."""
        words = ("a", *(token.content for token in self._tokenizer.get_added_tokens_decoder().values()))
        word = next((word for word in words if len(self._tokenizer.encode(word, add_special_tokens=False))), None)
        if word is None:
            raise InputError("the tokenizer makes no token of any text: its vocabulary is empty")
        one, two = (_runs(self._tokenizer.encode(*texts)) for texts in ((word,), (word, word)))
        return one, two


def longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of two texts, together more than `room`, are kept: of the longer one fewer first, as the strategy
    of this name of the tokenizers library has it."""
    shorter = min(first, second, room // 2)
    return (shorter, room - shorter) if first <= second else (room - shorter, shorter)


def digest_of(content: bytes, max_length: int) -> str:
    """Of the `Tokenizer` that is made of these: sha256."""
    return sha256(content + str(max_length).encode()).hexdigest()


def _runs(encoding: tokenizers.Encoding) -> tuple[_Run, ...]:
    tokens = zip(encoding.sequence_ids, encoding.type_ids, encoding.ids, strict=True)
    grouped = groupby(tokens, key=lambda token: token[:2])
    return tuple(_Run(text, [number for _, _, number in run], type_) for (text, type_), run in grouped)


def _filled(template: Sequence[_Run], kept: Sequence[list[int]]) -> list[int]:
    """The ids of a sequence of texts of which those of `kept` are left."""
    return [number for run in template for number in (run.ids if run.text is None else kept[run.text])]


def _types(template: Sequence[_Run], kept: Sequence[list[int]]) -> list[int]:
    return [run.type for run in template for _ in (run.ids if run.text is None else kept[run.text])]
