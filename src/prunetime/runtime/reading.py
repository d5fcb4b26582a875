"""From the texts of a task to what its model reads of them."""

from __future__ import annotations

from collections.abc import Sequence

from prunetime.runtime.inputs import Inputs
from prunetime.runtime.tagging import words
from prunetime.runtime.tokenize import Texts, Tokenizer
from prunetime.runtime.twins import twins
from prunetime.runtime.windows import windows
from prunetime.task import Task


def read(tokenizer: Tokenizer, task: Task, texts: Sequence[Texts]) -> Inputs:
    """What a model of `task` reads of `texts`, one or two of each example; raises InputError as `windows` does."""
    if task.kind == "question-answering":
        return windows(tokenizer, task, texts)
    if task.kind == "token-classification":
        return words(tokenizer, task, [text for (text,) in texts])
    if task.kind == "similarity":
        return twins(tokenizer, task, texts)
    return Inputs(task, tokenizer.encode(texts))
