"""Texts to ragged batches of token ids."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import groupby
from typing import TypeVar

import numpy as np
import tokenizers

from prunetime.core.arrays import Int32Array
from prunetime.errors import InputError
from prunetime.inference.ragged import Ragged
from prunetime.inference.splitting import boundary_of, part_of, pieces

Item = TypeVar("Item")

Texts = tuple[str, ...]
"""One text, or a pair."""

CHARACTERS_PER_TOKEN = 8
"""How much of a long text is read at first, for each token that a sequence can keep of it."""

PIECE = 1 << 14
"""Characters of a text that are tokenised at a time where its tokens are only counted."""

GROUP, GROUP_OF_WHOLE = 1024, 64
"""Texts (cut, and whole) that are tokenised at a time."""

GROUP_CHARACTERS = 1 << 18
"""Characters of texts that are tokenised at a time, and not more than one text beyond: encodings take some 150 bytes a
token."""

ALONE, ALONE_CHARACTERS = 2, 1 << 12
"""At most so many texts, of at most so many characters together, are tokenised by the faster call, as what is served
online comes. It keeps the interpreter to itself, which the call for batches does not."""


@dataclass(slots=True)
class Tokens:
    """The tokens of a `text` alone, without special tokens: all, or of the side that is kept one more than a sequence
    can hold. `count` is how many the text has, None until it is known."""

    text: str
    ids: list[int]
    count: int | None


@dataclass(frozen=True)
class _TokenRun:
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

    def __init__(self, content: bytes, max_length: int, most_characters: int | None = None) -> None:
        """From the bytes of a `tokenizer.json`; raises InputError where they are none. `max_length` is in tokens.

        Where `most_characters` is given, methods read no more characters of a text at a time, and InputError is raised
        for a text of which they would have to: one that can be cut nowhere, or of very few tokens.
        """
        self.max_length, self._most_characters = max_length, most_characters
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
        return max(run.type for run in self._templates[texts])

    def encode(self, texts: Sequence[Texts]) -> Ragged:
        """Token ids and types of texts or pairs, special tokens included, at most `max_length` each.

        Raises InputError where the special tokens alone are more than that.
        """
        tokens = self._singles([text for example in texts for text in example])
        sequences = [self.joined(*(next(tokens) for _ in example)) for example in texts]
        return Ragged.of([ids for ids, _ in sequences], [types for _, types in sequences])

    def count(self, text: str, enough: float = math.inf) -> int:
        """Tokens of a whole text, without special tokens; where there are more than `enough`, any number above."""
        return self._count(self.single(text), enough)

    def fits(self, *texts: str) -> bool:
        """Whether a text, or a pair, is a sequence of at most `max_length` tokens, without a cut."""
        room = self._room(len(texts))
        return sum(self.count(text, room) for text in texts) <= room

    def prompt_length(self, prompt: str) -> int:
        """The number of a text's first tokens that are of the `prompt` before it, as sentence-transformers counts: all
        tokens of the prompt alone, but for a special one at its end."""
        ids = self.encode([(prompt,)]).ids
        last = self._tokenizer.get_added_tokens_decoder().get(int(ids[-1])) if len(ids) else None
        return len(ids) - (last is not None and last.special)

    def encode_spans(self, texts: Sequence[str]) -> tuple[Ragged, Int32Array]:
        """As `encode`, and the characters (first, one past the last) of its text that each token stands for,
        [tokens, 2]; nothing, (0, 0), for special tokens."""
        template, room = self._templates[1], self._room(1)
        ids, types, spans = [], [], [np.zeros((0, 2), np.int32)]
        for text, (part, encoding) in zip(texts, self._encodings(texts, with_spans=True), strict=True):
            own = encoding.ids[self._kept(len(encoding), room)]
            before = len(text) - len(part) if self.cuts_left else 0
            of_text = np.array(encoding.offsets[self._kept(len(encoding), room)], np.int32).reshape(-1, 2) + before
            ids.append(_filled(template, [own]))
            types.append(_types(template, [own]))
            spans += [np.zeros((len(run.ids), 2), np.int32) if run.text is None else of_text for run in template]
        return Ragged.of(ids, types), np.concatenate(spans)

    def start(self, text: str, count: int) -> str:
        """The part of `text`, from its beginning, that its first `count` tokens stand for."""
        characters = CHARACTERS_PER_TOKEN * count
        while True:
            part = part_of(text, characters, self._boundary, self._most_characters)
            (encoding,) = self._batch([part], with_spans=True)
            if len(encoding) > count:
                return text[: encoding.offsets[count - 1][1]]
            if len(part) == len(text):
                return text
            characters *= 2

    def encoding(self, text: str, special_tokens: bool) -> tokenizers.Encoding:
        """The whole text as the tokenizers library has it, with or without special tokens."""
        return self._tokenizer.encode_batch([text], add_special_tokens=special_tokens)[0]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        """The text that tokens stand for; raises InputError for an id that is none."""
        self._check_ids(ids)
        (text,) = self._tokenizer.decode_batch([list(ids)], skip_special_tokens=skip_special_tokens)
        return str(text)

    def encode_ids(self, sequences: Sequence[Sequence[int]]) -> Ragged:
        """Sequences of one text each that are tokens already, special ones included, as `encode` gives them.

        Raises InputError for an id that is none, and where a sequence is too long, empty, or without the special tokens
        that a text has.
        """
        template = self._templates[1]
        place = next(index for index, run in enumerate(template) if run.text is not None)
        before, after = (_filled(runs, []) for runs in (template[:place], template[place + 1 :]))
        types = []
        for number, ids in enumerate(sequences):
            self._check_ids(ids)
            if len(ids) > self.max_length:
                raise InputError(f"input {number} has {len(ids)} token ids; the model reads {self.max_length}")
            inner = list(ids[len(before) : len(ids) - len(after)])
            if not inner or _filled(template, [inner]) != list(ids):
                raise InputError(
                    f"the token ids of input {number} are no text between {before} and {after}: give ids of the "
                    "model's own tokenizer with its special tokens, or texts"
                )
            types.append(_types(template, [inner]))
        return Ragged.of([list(ids) for ids in sequences], types)

    def single(self, text: str) -> Tokens:
        """The tokens of one text alone, for `joined`."""
        return next(self._singles([text]))

    def joined(self, *texts: Tokens) -> tuple[list[int], list[int]]:
        """The ids and types that `encode` gives for one or two texts, of which these are the `single` tokens."""
        template, room = self._templates[len(texts)], self._room(len(texts))
        lengths = [len(text.ids) for text in texts]
        if len(texts) == 2 and sum(lengths) > room:
            if room % 2 and min(lengths) > room // 2:  # the longer text keeps one token more
                lengths = self._counts(*texts)
            lengths = list(longest_first(lengths[0], lengths[1], room))
        kept = [text.ids[self._kept(len(text.ids), min(n, room))] for text, n in zip(texts, lengths, strict=True)]
        return _filled(template, kept), _types(template, kept)

    def encode_whole(self, pairs: Sequence[Texts]) -> Iterator[tokenizers.Encoding]:
        """Pairs as the tokenizers library has them (which text every token is of, and where), at their full lengths."""
        for group in _groups(pairs, lambda pair: sum(map(len, pair)), GROUP_OF_WHOLE):
            yield from self._tokenizer.encode_batch([(a, b) for a, b in group])

    def _singles(self, texts: Sequence[str]) -> Iterator[Tokens]:
        for text, (part, encoding) in zip(texts, self._encodings(texts), strict=True):
            count = len(encoding) if len(part) == len(text) else None
            yield Tokens(text, encoding.ids[self._kept(len(encoding), self.max_length + 1)], count)

    def _encodings(self, texts: Sequence[str], with_spans: bool = False) -> Iterator[tuple[str, tokenizers.Encoding]]:
        """The part of each text on the side that is kept, the whole or with more tokens than a sequence holds, and its
        encoding without special tokens."""
        characters = CHARACTERS_PER_TOKEN * self.max_length
        parts = ((text, self._part(text, characters)) for text in texts)
        for group in _groups(parts, lambda part: len(part[1]), GROUP):
            for (text, part), encoding in zip(group, self._batch([part for _, part in group], with_spans), strict=True):
                longer, longest, found = characters, part, encoding
                while len(found) <= self.max_length and len(longest) < len(text):
                    longer *= 2
                    longest = self._part(text, longer)
                    (found,) = self._batch([longest], with_spans)
                yield longest, found

    def _batch(self, parts: Sequence[str], with_spans: bool = False) -> Sequence[tokenizers.Encoding]:
        if len(parts) <= ALONE and sum(map(len, parts)) <= ALONE_CHARACTERS:
            return [self._tokenizer.encode(part, add_special_tokens=False) for part in parts]
        batch = self._tokenizer.encode_batch if with_spans else self._tokenizer.encode_batch_fast
        encodings: Sequence[tokenizers.Encoding] = batch(parts, add_special_tokens=False)
        return encodings

    def _check_ids(self, ids: Sequence[int]) -> None:
        size = self._tokenizer.get_vocab_size()
        wrong = next((number for number in ids if not 0 <= number < size), None)
        if wrong is not None:
            raise InputError(
                f"token id {wrong} in the input is none of the model's tokenizer, which has 0 to {size - 1}"
            )

    def _part(self, text: str, characters: int) -> str:
        return part_of(text, characters, self._boundary, self._most_characters, from_end=self.cuts_left)

    def _counts(self, *pair: Tokens) -> list[int]:
        """How many tokens the texts of a pair have; of the longer one perhaps no more than show that it is."""
        ordered = sorted(pair, key=lambda tokens: (tokens.count is None, len(tokens.text)))
        shorter = self._count(ordered[0])
        return [shorter if tokens is ordered[0] else self._count(tokens, shorter) for tokens in pair]

    def _count(self, tokens: Tokens, enough: float = math.inf) -> int:
        """How many tokens the whole text has; where there are more than `enough`, any number above."""
        if tokens.count is not None:
            return tokens.count
        if len(tokens.ids) > enough:
            return len(tokens.ids)
        count = read = 0
        most = self._most_characters
        for piece in pieces(tokens.text, PIECE, self._boundary, most):
            count += len(self._tokenizer.encode_batch_fast([piece], add_special_tokens=False)[0])
            read += len(piece)
            if count > enough:
                return count
            if most and most < read < len(tokens.text):
                raise InputError(
                    f"the tokens of a text of {len(tokens.text)} characters, {tokens.text[:40]!r}, cannot be counted: "
                    f"that would read more than {most} of them; send a shorter one"
                )
        tokens.count = count
        return count

    def _kept(self, count: int, room: int) -> slice:
        return slice(max(0, count - room), count) if self.cuts_left else slice(0, room)

    def _room(self, texts: int) -> int:
        special = sum(len(run.ids) for run in self._templates[texts] if run.text is None)
        if special > self.max_length:
            raise InputError(
                f"sequences of {self.max_length} tokens hold no text: {special} are special tokens; give a larger "
                "--seq-len"
            )
        return self.max_length - special

    @cached_property
    def _templates(self) -> dict[int, tuple[_TokenRun, ...]]:
        """The parts of sequences, in order, by the number of their texts (1 or 2), read off the tokenizer."""
        words = ("a", *(token.content for token in self._tokenizer.get_added_tokens_decoder().values()))
        word = next((word for word in words if len(self._tokenizer.encode(word, add_special_tokens=False))), None)
        if word is None:
            raise InputError("the tokenizer makes no token of any text: its vocabulary is empty")
        return {1: _runs(self._tokenizer.encode(word)), 2: _runs(self._tokenizer.encode(word, word))}


def _groups(items: Iterable[Item], characters: Callable[[Item], int], most: int) -> Iterator[list[Item]]:
    """`items` in groups of at most `most`, and of no more than `GROUP_CHARACTERS` before the last one of a group."""
    group: list[Item] = []
    size = 0
    for item in items:
        if len(group) == most or size > GROUP_CHARACTERS:
            yield group
            group, size = [], 0
        group.append(item)
        size += characters(item)
    if group:
        yield group


def longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of two texts, together more than `room`, are kept: of the longer one fewer first, as the strategy
    of this name of the tokenizers library has it."""
    shorter = min(first, second, room // 2)
    return (shorter, room - shorter) if first <= second else (room - shorter, shorter)


def digest_of(content: bytes, max_length: int) -> str:
    """The sha256 that identifies the `Tokenizer` made of these."""
    return sha256(content + str(max_length).encode()).hexdigest()


def _runs(encoding: tokenizers.Encoding) -> tuple[_TokenRun, ...]:
    tokens = zip(encoding.sequence_ids, encoding.type_ids, encoding.ids, strict=True)
    grouped = groupby(tokens, key=lambda token: token[:2])
    return tuple(_TokenRun(text, [number for _, _, number in run], type_) for (text, type_), run in grouped)


def _filled(template: Sequence[_TokenRun], kept: Sequence[list[int]]) -> list[int]:
    """The ids of a sequence of texts of which those of `kept` are left."""
    return [number for run in template for number in (run.ids if run.text is None else kept[run.text])]


def _types(template: Sequence[_TokenRun], kept: Sequence[list[int]]) -> list[int]:
    return [run.type for run in template for _ in (run.ids if run.text is None else kept[run.text])]
