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
from torch.utils.data import Dataset, Sampler

from prunetime.errors import InputError
from prunetime.runtime.ragged import Ragged
from prunetime.task import Task

Batch = dict[str, Tensor]
"""`input_ids`, `attention_mask` and `token_type_ids` [rows, tokens], `labels` [rows] ([rows, 2] of answers)."""

WINDOW = 50
"""Batches whose rows are sorted by length together: enough for almost no padding, few enough to stay random."""


@dataclass(frozen=True)
class TrainingData:
    """`tokens` with one label per row: a class index for classification, a float for relevance and regression, and for
    question answering the two tokens, counted from the row's first, at which the answer starts and ends (0 and 0 where
    it is not there)."""

    tokens: Ragged
    labels: NDArray[Any]
    task: Task
    pad_id: int

    def __post_init__(self) -> None:
        rows = len(self.tokens)
        if not rows or rows != len(self.labels):
            raise InputError(f"{rows} rows of tokens with {len(self.labels)} labels: training needs one label per row")
        if not np.all(np.isfinite(self.labels)):
            raise InputError("a label is not a finite number")
        classes = self.task.outputs
        if self.task.kind == "classification" and not np.all(np.isin(self.labels, np.arange(classes))):
            raise InputError(f"labels of a classification are class indices from 0 to {classes - 1}")
        if self.task.kind == "question-answering":
            self._check_positions()

    def __len__(self) -> int:
        return len(self.tokens)

    def select(self, rows: Sequence[int] | NDArray[np.integer]) -> TrainingData:
        return replace(self, tokens=self.tokens.select(rows), labels=self.labels[np.asarray(rows)])

    def batch(self, rows: Sequence[int] | NDArray[np.integer]) -> Batch:
        """The rows as padded tensors."""
        ids, mask, types = self.tokens.select(rows).padded(self.pad_id)
        dtype = np.int64 if self.task.kind in ("classification", "question-answering") else np.float32
        labels = self.labels[np.asarray(rows, np.int64)].astype(dtype)
        names = ("input_ids", "attention_mask", "token_type_ids")
        arrays = {name: array.astype(np.int64) for name, array in zip(names, (ids, mask, types), strict=True)}
        return {name: torch.from_numpy(array) for name, array in (arrays | {"labels": labels}).items()}

    def _check_positions(self) -> None:
        shape, lengths = (len(self.tokens), 2), self.tokens.lengths[:, None]
        if self.labels.shape != shape or not np.all((self.labels >= 0) & (self.labels < lengths)):
            raise InputError(f"labels of question answering are positions of tokens in their rows, {list(shape)}")

    def digest(self) -> str:
        """sha256 over everything in it."""
        total = hashlib.sha256(repr((self.task, self.pad_id)).encode())
        for array in (self.tokens.ids, self.tokens.types, self.tokens.offsets, self.labels):
            total.update(f"{array.dtype} {array.shape}".encode())
            total.update(np.ascontiguousarray(array).tobytes())
        return total.hexdigest()


class Rows(Dataset[Batch]):
    """Lets a DataLoader fetch a whole batch at once."""

    def __init__(self, data: TrainingData) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, row: int) -> Batch:
        return self._data.batch([row])

    def __getitems__(self, rows: list[int]) -> Batch:
        return self._data.batch(rows)


class LengthBucketedBatches(Sampler[list[int]]):
    """`steps` batches of rows: every epoch a new permutation, sorted by length within windows of `WINDOW` batches.

    The batches of all epochs are one sequence, so that step alone says where a resumed run continues.
    """

    def __init__(self, lengths: NDArray[np.int32], batch_size: int, steps: int, seed: int) -> None:
        self._lengths = lengths
        self.batch_size = batch_size
        self._steps = steps
        self._seed = seed

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[list[int]]:
        per_epoch = math.ceil(len(self._lengths) / self.batch_size)
        for step in range(self._steps):
            epoch, index = divmod(step, per_epoch)
            if index == 0:
                batches = self._epoch(epoch)
            yield batches[index]

    def _epoch(self, epoch: int) -> list[list[int]]:
        rng = np.random.default_rng([self._seed, epoch])
        order = rng.permutation(len(self._lengths))
        window = self.batch_size * WINDOW
        batches = []
        for start in range(0, len(order), window):
            rows = order[start : start + window]
            rows = rows[np.argsort(self._lengths[rows], kind="stable")]
            batches += [rows[i : i + self.batch_size].tolist() for i in range(0, len(rows), self.batch_size)]
        return [batches[i] for i in rng.permutation(len(batches))]
