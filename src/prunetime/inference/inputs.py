"""The inputs of a model: sequences of tokens made of a task's texts, and scores of examples made of its logits.

A sequence is an example, except where the task has a class of its own: windows of a context (`windows`), words with
labels (`tagging`), two texts that are read apart (`pairs`). `reading` chooses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from prunetime.core.arrays import Array, Float32Array, Int64Array
from prunetime.core.task import Task
from prunetime.inference.ragged import Ragged


@dataclass(frozen=True)
class Inputs:
    """Sequences of `tokens`, each an example of `task`."""

    task: Task
    tokens: Ragged

    def select(self, examples: Int64Array) -> Inputs:
        """The inputs of the examples at these indices, in that order."""
        return replace(self, tokens=self.tokens.select(examples))

    def targets(self, labels: Array) -> Array:
        """The labels that training has for every sequence, [sequences, ..], from the `labels` of the examples."""
        return labels

    def scores(self, logits: Float32Array) -> Array:
        """The score of every example, from the logits of the sequences; see `Task.scores`."""
        return self.task.scores(logits)
