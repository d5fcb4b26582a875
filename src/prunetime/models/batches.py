"""Labelled token sequences, and the order in which training reads them: a function of (seed, step)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler

from prunetime.core.arrays import Array, Float32Array, Int32Array, Int64Array
from prunetime.core.task import Task
from prunetime.errors import InputError
from prunetime.inference.pairs import sequences_of_pairs
from prunetime.inference.ragged import Ragged
from prunetime.inference.tagging import NO_LABEL

TrainingBatch = dict[str, Tensor]
"""`input_ids`, `attention_mask` and `token_type_ids` [rows, tokens], `labels` [rows] ([rows, outputs] of several
labels, [rows, 2] of answers, [rows, tokens] of words; of pairs that are read apart [rows / 2]); `skipped` [rows] where
pooling leaves out tokens; `teacher_logits` [examples, outputs] and `groups` [examples] where they are there."""

WINDOW = 50
"""The number of batches whose rows are sorted by length: enough for almost no padding, few enough to stay random."""

ROWS_OF_GROUP = 16
"""The most examples of a group that stay together in an epoch, so that a large one does not fill batch after batch."""


@dataclass(frozen=True)
class TrainingData:
    """Labelled token sequences: `tokens` with one label per row, a class index for classification, 0 or 1 for each of
    several labels, a float for relevance and regression, and for question answering the two tokens, counted from the
    row's first, at which the answer starts and ends (0 and 0 where it is not there).

    For token classification there is one per token, an index or `NO_LABEL`; for similarity one per two rows, a float.
    What is counted and drawn are examples: rows, or two of them. Where they are not `labelled`, labels say nothing.

    `teacher_logits` [examples, outputs] are those of a teacher that reads other tokens; of two rows with embeddings
    their cosine, [examples, 1]. Examples of equal `groups` [examples] are drawn into the same batches.
    """

    tokens: Ragged
    labels: Array
    task: Task
    pad_id: int
    labelled: bool = True
    teacher_logits: Float32Array | None = None
    groups: Int64Array | None = None

    def __post_init__(self) -> None:
        rows = self.tokens.ids.size if self._of_words else len(self)
        if not rows or rows != len(self.labels):
            raise InputError(f"{rows} rows of tokens with {len(self.labels)} labels: training needs one label per row")
        if not np.all(np.isfinite(self.labels)):
            raise InputError("a label is not a finite number")
        if self.teacher_logits is not None and len(self.teacher_logits) != len(self):
            raise InputError(f"{len(self)} examples with {len(self.teacher_logits)} logits of a teacher")
        if self.groups is not None and len(self.groups) != len(self):
            raise InputError(f"{len(self.groups)} groups of {len(self)} examples: training needs one group per example")
        classes = np.arange(self.task.outputs or 0)
        if self._of_words:
            classes = np.append(classes, NO_LABEL)
        if self.task.traits.is_multi_label:
            if self.labels.shape != (rows, len(classes)) or not np.all(np.isin(self.labels, (0, 1))):
                raise InputError(f"labels of a {self.task.kind} are 0 or 1, {[rows, len(classes)]}")
        elif self.task.labels and not np.all(np.isin(self.labels, classes)):
            raise InputError(f"labels of a {self.task.kind} are class indices from 0 to {len(self.task.labels) - 1}")
        if self.task.traits.reads_windows:
            shape, lengths = (len(self.tokens), 2), self.tokens.lengths[:, None]
            if self.labels.shape != shape or not np.all((self.labels >= 0) & (self.labels < lengths)):
                raise InputError(f"labels of question answering are positions of tokens in their rows, {list(shape)}")

    def __len__(self) -> int:
        return len(self.tokens) // self._rows_each

    @property
    def lengths(self) -> Int32Array:
        """The number of tokens of every example, of the longer row where it has two."""
        longest: Int32Array = self.tokens.lengths.reshape(len(self), self._rows_each).max(axis=1)
        return longest

    def select(self, examples: Sequence[int] | NDArray[np.integer]) -> TrainingData:
        tokens, labels = self._of(examples)
        return replace(self, tokens=tokens, labels=labels, **self._optional(examples))

    def batch(self, examples: Sequence[int] | NDArray[np.integer]) -> TrainingBatch:
        """Returns the examples as padded tensors."""
        tokens, labels = self._of(examples)
        ids, mask, types = tokens.padded(self.pad_id)
        if self._of_words:
            flat, labels = labels, np.full(mask.shape, NO_LABEL)
            labels[mask == 1] = flat
        labels = labels.astype(np.int64 if self.task.traits.integer_labels else np.float32)
        names = ("input_ids", "attention_mask", "token_type_ids")
        arrays: dict[str, Array] = {
            name: array.astype(np.int64) for name, array in zip(names, (ids, mask, types), strict=True)
        }
        arrays["labels"] = labels
        if tokens.skipped is not None:
            arrays["skipped"] = tokens.skipped.astype(np.int64)
        arrays |= self._optional(examples)
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    @property
    def _of_words(self) -> bool:
        return self.task.traits.labels_words

    @property
    def _rows_each(self) -> int:
        return 2 if self.task.traits.reads_apart else 1

    def _of(self, examples: Sequence[int] | NDArray[np.integer]) -> tuple[Ragged, Array]:
        chosen = np.asarray(examples, np.int64)
        tokens, source = self.tokens.select_tokens(chosen if self._rows_each == 1 else sequences_of_pairs(chosen))
        return tokens, self.labels[source if self._of_words else chosen]

    def _optional(self, examples: Sequence[int] | NDArray[np.integer]) -> dict[str, Any]:
        """What only some trainings have of each example, where it is there."""
        chosen, arrays = np.asarray(examples, np.int64), {"teacher_logits": self.teacher_logits, "groups": self.groups}
        return {name: array[chosen] for name, array in arrays.items() if array is not None}

    def digest(self) -> str:
        """Returns the sha256 of everything in it."""
        total = hashlib.sha256(repr((self.task, self.pad_id)).encode())
        optional = (array for array in (self.tokens.skipped, self.teacher_logits, self.groups) if array is not None)
        for array in (self.tokens.ids, self.tokens.types, self.tokens.offsets, self.labels, *optional):
            total.update(f"{array.dtype} {array.shape}".encode())
            total.update(np.ascontiguousarray(array).tobytes())
        return total.hexdigest()


class LengthBucketedBatches(Sampler[list[int]]):
    """A sampler of `steps` batches of rows: each epoch a new order, sorted by length within `WINDOW` batches.

    With `groups` [rows], up to `ROWS_OF_GROUP` rows of a group stay together, and are sorted by their mean length.

    The batches of all epochs are one sequence, so that step alone says where a resumed run continues. Of every batch
    it yields the part of a `rank`: rows are dealt out in turn, so that parts have rows of about the same lengths.
    """

    def __init__(
        self,
        lengths: Int32Array,
        batch_size: int,
        steps: int,
        seed: int,
        *,
        groups: Int64Array | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._lengths = lengths
        self._groups = groups
        self.batch_size = batch_size
        self._steps = steps
        self._seed = seed
        self._part = slice(rank, None, world_size)

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[list[int]]:
        per_epoch = math.ceil(len(self._lengths) / self.batch_size)
        for step in range(self._steps):
            epoch, index = divmod(step, per_epoch)
            if index == 0:
                batches = self._epoch(epoch)
            yield batches[index][self._part]

    def _epoch(self, epoch: int) -> list[list[int]]:
        rng = np.random.default_rng([self._seed, epoch])
        order = rng.permutation(len(self._lengths))
        lengths: Array = self._lengths
        if self._groups is not None:
            parts, order = _parts_of_groups(self._groups, order)
            lengths = (np.bincount(parts, weights=lengths) / np.bincount(parts))[parts]
        window = self.batch_size * WINDOW
        batches = []
        for start in range(0, len(order), window):
            rows = order[start : start + window]
            rows = rows[np.argsort(lengths[rows], kind="stable")]
            batches += [rows[i : i + self.batch_size].tolist() for i in range(0, len(rows), self.batch_size)]
        return [batches[i] for i in rng.permutation(len(batches))]


def _parts_of_groups(groups: Int64Array, order: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Returns the number of each row's part of its group, of up to `ROWS_OF_GROUP` rows, and `order` with every part
    together, where its first row was."""
    by_group = order[np.argsort(groups[order], kind="stable")]
    starts = np.flatnonzero(np.r_[True, groups[by_group][1:] != groups[by_group][:-1]])
    within = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    parts = np.empty_like(order)
    parts[by_group] = np.cumsum(within % ROWS_OF_GROUP == 0) - 1
    _, first, inverse = np.unique(parts[order], return_index=True, return_inverse=True)
    return parts, order[np.argsort(first[inverse], kind="stable")]
