"""When a training ends: its learning rate stays until valid rows stop getting better, and then cools down to 0.

A rate that is constant and then falls ends as well as one that falls all the way, without that the number of steps is
known before (Hägele et al., arXiv 2405.18392).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from prunetime.errors import InputError


@dataclass(frozen=True)
class Stopping:
    """The rule by which a training ends before its last step.

    Attributes:
        every: The steps between two looks at valid rows.
        patience: So many looks in a row without a better value begin the cooldown.
        cooldown: The share of all steps in which the learning rate falls to 0.

    Raises:
        InputError: a value is out of its range.
    """

    every: int
    patience: int = 4
    cooldown: float = 0.3

    def __post_init__(self) -> None:
        if self.every < 1 or self.patience < 1 or not 0 < self.cooldown < 1:
            raise InputError(f"{self}: every and patience must be at least 1, cooldown between 0 and 1")

    def last_begin(self, steps: int) -> int:
        """Returns the step at which the cooldown begins in a training that takes all of its `steps`."""
        return steps - math.ceil(self.cooldown * steps)


@dataclass
class LearningCurve:
    """The values on valid rows that a training came to, in the order of its steps; higher is better.

    Attributes:
        most: The steps of the training, where nothing ends it before.
        rule: The rule by which it ends; None where it takes all of its steps.
        values: (steps done, value) of every look.
    """

    most: int
    rule: Stopping | None = None
    values: list[tuple[int, float]] = field(default_factory=list)

    @property
    def best(self) -> tuple[int, float] | None:
        """The last of the best (steps done, value): of those since the learning rate began to fall, and of all of them
        where patience ran out or it has not begun to.

        Few valid rows cannot tell weights at a high rate, of which one is lucky, from those that have cooled down.
        """
        values = self.values
        if self.rule and self.stopped_at is None:
            begin = self.rule.last_begin(self.most)
            values = [each for each in values if each[0] > begin] or values
        return max(values, key=lambda each: (each[1], each[0]), default=None)

    @property
    def stopped_at(self) -> int | None:
        """The step at which patience ran out, before the cooldown that `most` asks for had begun."""
        if self.rule is None:
            return None
        best, since = -math.inf, 0
        for step, value in self.values:
            if step >= self.rule.last_begin(self.most):
                return None
            best, since = (value, 0) if value > best else (best, since + 1)
            if since == self.rule.patience:
                return step
        return None

    @property
    def cooldown(self) -> tuple[int, int]:
        """The steps at which the cooldown begins and ends, as far as is known now; its end is that of the training.

        Without a rule all of the training is a cooldown.
        """
        if self.rule is None:
            return 0, self.most
        begin = self.stopped_at
        if begin is None:
            return self.rule.last_begin(self.most), self.most
        length = math.ceil(begin * self.rule.cooldown / (1 - self.rule.cooldown))
        return begin, min(self.most, begin + length)

    def looks_at(self, step: int) -> bool:
        """Returns whether valid rows are looked at after this many steps."""
        return self.rule is not None and (step % self.rule.every == 0 or step >= self.cooldown[1])

    def learning_rate(self, step: int, rising: int) -> float:
        """Returns the learning rate after so many steps, as a share of its peak.

        Args:
            step: The steps done.
            rising: The steps in which the rate rises to its peak.
        """
        if step < rising:
            return (step + 1) / (rising + 1)
        begin, end = self.cooldown
        length = max(1, end - max(begin, rising))
        return min(1.0, max(0.0, (end - step) / length))

    def to_json(self) -> dict[str, Any]:
        best = self.best
        return {
            "steps": self.values[-1][0] if self.values else self.most,
            "most_steps": self.most,
            "best_step": best[0] if best else self.most,
            "stopped": self.stopped_at is not None,
            "values": [list(each) for each in self.values],
        }

    def follow(self, values: Sequence[Sequence[float]]) -> None:
        """Takes over the `values` that an earlier process had come to."""
        self.values = [(int(step), float(value)) for step, value in values]
