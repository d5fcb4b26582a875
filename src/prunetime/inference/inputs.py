"""What a model reads of a task's texts: rows of tokens, and what its logits on them say of each example.

A row is an example, except where the task has a class of its own: windows of a context (`windows`), words with labels
(`tagging`), two texts that are read apart (`pairs`). `reading` chooses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunetime.core.task import Task
from prunetime.inference.ragged import Ragged

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Inputs:
    """Rows of `tokens`, each an example of `task`."""

    task: Task
    tokens: Ragged

    def select(self, examples: Ints) -> Inputs:
        """Those of the examples at these indices, in that order."""
        return replace(self, tokens=self.tokens.select(examples))

    def targets(self, labels: NDArray[Any]) -> NDArray[Any]:
        """What training has every row say, [rows, ..], from the `labels` of the examples."""
        return labels

    def scores(self, logits: NDArray[np.float32]) -> NDArray[Any]:
        """The score of every example, from the logits of the rows; see `Task.scores`."""
        return self.task.scores(logits)
