"""What a model reads of a task's texts: rows of tokens, and what its logits on them say of each example.

A row is an example, except where the task has a class of its own: windows of a context (`windows`), words with labels
(`tagging`), two texts that are read apart (`pairs`). `reading` chooses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from prunetime.core.arrays import Array, Float32Array, Int64Array
from prunetime.core.task import Task
from prunetime.inference.ragged import Ragged


@dataclass(frozen=True)
class Inputs:
    """Rows of `tokens`, each an example of `task`."""

    task: Task
    tokens: Ragged

    def select(self, examples: Int64Array) -> Inputs:
        """Those of the examples at these indices, in that order."""
        return replace(self, tokens=self.tokens.select(examples))

    def targets(self, labels: Array) -> Array:
        """What training has every row say, [rows, ..], from the `labels` of the examples."""
        return labels

    def scores(self, logits: Float32Array) -> Array:
        """The score of every example, from the logits of the rows; see `Task.scores`."""
        return self.task.scores(logits)
