"""The random choices that generated tasks are made of."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TypeVar

T = TypeVar("T")


class RandomChoices:
    """Random choices made from `Random.random()` alone: the one method Python promises never to change."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed).random

    def chance(self, probability: float) -> bool:
        return self._random() < probability

    def below(self, count: int) -> int:
        return int(self._random() * count)

    def between(self, least: int, most: int) -> int:
        return least + self.below(most - least + 1)

    def one_of(self, items: Sequence[T]) -> T:
        return items[self.below(len(items))]

    def other_than(self, item: T, items: Sequence[T]) -> T:
        return self.one_of([other for other in items if other != item])

    def shuffled(self, items: Sequence[T]) -> list[T]:
        left = list(items)
        return [left.pop(self.below(len(left))) for _ in items]


def misspelled(text: str, choices: RandomChoices) -> str:
    """Returns `text` with a letter of one word of at least five lost, doubled, or swapped with the next."""
    words = text.split()
    long_words = [i for i, word in enumerate(words) if len(word) >= 5]
    if not long_words:
        return text
    at = choices.one_of(long_words)
    word = words[at]
    i = 1 + choices.below(len(word) - 2)
    words[at] = choices.one_of(
        (word[:i] + word[i + 1 :], word[:i] + word[i + 1] + word[i] + word[i + 2 :], word[:i] + word[i] + word[i:])
    )
    return " ".join(words)
