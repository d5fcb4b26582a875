"""Batches without padding: token ids back to back, with offsets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prunetime.core.arrays import Int32Array


@dataclass(frozen=True)
class Ragged:
    """A batch of sequences of tokens, back to back: sequence i is `ids[offsets[i]:offsets[i + 1]]`.

    Attributes:
        ids: The token ids, [tokens].
        types: The token types (segments), [tokens].
        offsets: Where each sequence begins, and the end of the last, [sequences + 1].
        skipped: How many of the first tokens of every sequence pooling leaves out (those of a prompt that is no part of
            the embedding), [sequences]; None where it leaves out no token.
    """

    ids: Int32Array
    types: Int32Array
    offsets: Int32Array
    skipped: Int32Array | None = None

    @classmethod
    def of(cls, ids: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None = None) -> Ragged:
        """From one list of token ids (and token types, by default 0) per sequence."""
        if len(ids) == 1 and types is not None:  # as fast as can be: what is served online comes one by one
            return cls(np.array(ids[0], np.int32), np.array(types[0], np.int32), np.array((0, len(ids[0])), np.int32))
        offsets = _offsets([len(sequence) for sequence in ids])
        flat = np.fromiter((i for sequence in ids for i in sequence), np.int32, int(offsets[-1]))
        if types is None:
            return cls(flat, np.zeros_like(flat), offsets)
        return cls(flat, np.fromiter((t for sequence in types for t in sequence), np.int32, int(offsets[-1])), offsets)

    @classmethod
    def joined(cls, pieces: Sequence[Ragged]) -> Ragged:
        """The sequences of all `pieces`, one after another."""
        lengths = np.concatenate([piece.lengths for piece in pieces])
        offsets = _offsets(lengths)
        ids, types = (np.concatenate([getattr(piece, name) for piece in pieces]) for name in ("ids", "types"))
        if all(piece.skipped is None for piece in pieces):
            return cls(ids, types, offsets)
        skipped = [np.zeros(len(piece), np.int32) if piece.skipped is None else piece.skipped for piece in pieces]
        return cls(ids, types, offsets, np.concatenate(skipped))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int32Array:
        """Tokens of each sequence, [sequences]."""
        return np.diff(self.offsets)

    def select(self, sequences: Sequence[int] | NDArray[np.integer]) -> Ragged:
        """The sequences at these indices, in that order."""
        return self.select_tokens(sequences)[0]

    def select_tokens(self, sequences: Sequence[int] | NDArray[np.integer]) -> tuple[Ragged, Int32Array]:
        """The sequences at these indices, in that order, and where their tokens are in `ids`."""
        sequences = np.asarray(sequences, np.int64)
        lengths = self.lengths[sequences]
        offsets = _offsets(lengths)
        starts = np.repeat(self.offsets[sequences] - offsets[:-1], lengths)
        source = starts + np.arange(offsets[-1], dtype=np.int32)
        skipped = None if self.skipped is None else self.skipped[sequences]
        return Ragged(self.ids[source], self.types[source], offsets, skipped), source

    def batches(self, tokens: int) -> Iterator[Ragged]:
        """Consecutive parts of at most `tokens` tokens each (a longer sequence is a part of its own)."""
        start = 0
        while start < len(self):
            stop = int(np.searchsorted(self.offsets, self.offsets[start] + tokens, side="right")) - 1
            stop = max(stop, start + 1)
            yield self.part(start, stop)
            start = stop

    def part(self, start: int, stop: int) -> Ragged:
        """The sequences from `start` to before `stop`, not copied."""
        first, last = self.offsets[start], self.offsets[stop]
        skipped = None if self.skipped is None else self.skipped[start:stop]
        return Ragged(self.ids[first:last], self.types[first:last], self.offsets[start : stop + 1] - first, skipped)

    def padded(self, pad_id: int) -> tuple[Int32Array, Int32Array, Int32Array]:
        """(ids, attention mask, types), each [sequences, longest]; one column where there is no sequence."""
        longest = int(self.lengths.max(initial=1))
        mask = (np.arange(longest)[None, :] < self.lengths[:, None]).astype(np.int32)
        ids = np.full(mask.shape, pad_id, np.int32)
        types = np.zeros(mask.shape, np.int32)
        ids[mask == 1] = self.ids
        types[mask == 1] = self.types
        return ids, mask, types


def _offsets(lengths: Sequence[int] | Int32Array) -> Int32Array:
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return offsets
