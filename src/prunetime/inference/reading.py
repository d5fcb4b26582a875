"""From the texts of a task to what its model reads of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prunetime.core.task import Task
from prunetime.core.task_kind import TaskKind
from prunetime.errors import InputError
from prunetime.inference.inputs import Inputs
from prunetime.inference.pairs import pair_inputs
from prunetime.inference.tagging import words
from prunetime.inference.tokenize import Texts, Tokenizer
from prunetime.inference.windows import windows


def read(tokenizer: Tokenizer, task: Task, texts: Sequence[Texts], prompt: str | None = None) -> Inputs:
    """The rows that a model of `task` reads of `texts`, one or two of each example, after `prompt` (None: the task's
    default).

    Raises InputError as `windows` does, and where a task that reads every token is given a prompt.
    """
    if prompt and task.rows == "tokens":
        raise InputError(f"a model of {task.kind} takes no prompt, but got {prompt[:80]!r}")
    if prompt is None:
        prompt = task.prompts.resolve()
    return READERS[task.kind](tokenizer, task, texts, prompt)


def _sequences(tokenizer: Tokenizer, task: Task, texts: Sequence[Texts], prompt: str) -> Inputs:
    return Inputs(task, tokenizer.encode(prompted(texts, prompt)))


READERS: dict[TaskKind, Callable[[Tokenizer, Task, Sequence[Texts], str], Inputs]] = {
    "classification": _sequences,
    "multi-label-classification": _sequences,
    "relevance": _sequences,
    "regression": _sequences,
    "question-answering": lambda tokenizer, task, texts, _: windows(tokenizer, task, texts),
    "token-classification": lambda tokenizer, task, texts, _: words(tokenizer, task, [text for (text,) in texts]),
    "similarity": pair_inputs,
}
"""From the texts of examples, and a prompt where the kind takes one, to the inputs of a model."""


def prompted(texts: Sequence[Texts], prompt: str) -> Sequence[Texts]:
    """`texts` with `prompt` before each, or before the first text of each pair, as a CrossEncoder reads it."""
    return [(prompt + first, *others) for first, *others in texts] if prompt else texts
