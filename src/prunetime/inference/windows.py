"""Question answering: windows of a context, and the answers that logits on them give.

Devlin et al., arXiv 1810.04805, section 4.2; windows, training positions and answers are those of the `run_qa` example
of transformers, but for its cut to the 20 best starts and ends: the best span of all is as fast to find.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import tokenizers

from prunetime.core.arrays import Array, Float32Array, Float64Array, Int32Array, Int64Array
from prunetime.core.task import Answer, Task
from prunetime.errors import InputError
from prunetime.inference.inputs import Inputs
from prunetime.inference.ragged import Ragged
from prunetime.inference.tokenize import Texts, Tokenizer

LONGEST_ANSWER = 30
"""In tokens."""

NOT_CONTEXT = (-1, -1)


@dataclass(frozen=True)
class Windows(Inputs):
    """Sequences of `tokens`, each a question with a part of its context.

    Where the task has questions without an answer, the first token of a window stands for that: (0, 0) is what training
    has windows say that lack it.

    - `owner`: the example of each window, [windows], ascending
    - `characters`: of the context that each token stands for, (first, one past the last), [tokens, 2]; `NOT_CONTEXT`
      for other tokens
    - `contexts`: of the examples
    """

    owner: Int64Array
    characters: Int32Array
    contexts: Sequence[str]

    def select(self, examples: Int64Array) -> Windows:
        first, stop = (np.searchsorted(self.owner, examples, side) for side in ("left", "right"))
        windows = np.concatenate([np.arange(*span) for span in zip(first, stop, strict=True)])
        tokens, source = self.tokens.select_tokens(windows)
        owner = np.repeat(np.arange(len(examples)), stop - first)
        contexts = [self.contexts[example] for example in examples]
        return replace(self, tokens=tokens, owner=owner, characters=self.characters[source], contexts=contexts)

    def targets(self, labels: Array) -> Int64Array:
        """The tokens at which the first answer of `labels` (tuples of `Answer`) starts and ends, [windows, 2].

        Tokens are counted from the window's first; where the window lacks a part of the answer, both are 0.
        """
        found = np.zeros((len(self.tokens), 2), np.int64)
        for window, (context_at, owner) in enumerate(zip(self._context_tokens(), self.owner, strict=True)):
            gold: tuple[Answer, ...] = labels[owner]
            if gold:
                found[window] = _positions(self._of_window(self.characters, window), context_at, gold[0])
        return found

    def scores(self, logits: Float32Array) -> Array:
        """The best `Answer` to every question, an object each [examples]; see `best`."""
        return np.fromiter((answers[0] for answers in self.best(logits, 1)), object, len(self.contexts))

    def best(self, logits: Float32Array, count: int) -> list[list[Answer]]:
        """Up to `count` answers to every question, the best first; `logits` [tokens, 2] are of starts and ends.

        They are the spans of context, of at most `LONGEST_ANSWER` tokens, whose two logits have the largest sum, of all
        the question's windows; its score is the product of their softmaxes over the window. Where the task has
        questions without an answer, the empty one is among them: with the least sum of a first token of all windows, as
        in `run_qa` of transformers.
        """
        found: list[list[tuple[float, Answer]]] = [[] for _ in self.contexts]
        none: list[tuple[float, Answer]] = [(np.inf, Answer("", 0, 1.0))] * len(self.contexts)
        for window, (context_at, owner) in enumerate(zip(self._context_tokens(), self.owner, strict=True)):
            of_window = self._of_window(logits, window).astype(np.float64)
            total = np.logaddexp.reduce(of_window, axis=0).sum()
            of_context = of_window[context_at]
            characters = self._of_window(self.characters, window)[context_at]
            for start, end in best_spans(of_context, count):
                logit = float(of_context[start, 0] + of_context[end, 1])
                first, stop = int(characters[start, 0]), int(characters[end, 1])
                answer = Answer(self.contexts[owner][first:stop], first, float(np.exp(logit - total)))
                found[owner].append((logit, answer))
            empty = float(of_window[0].sum())
            if empty < none[owner][0]:
                none[owner] = empty, Answer("", 0, float(np.exp(empty - total)))
        if self.task.unanswerable:
            for answers, nothing in zip(found, none, strict=True):
                answers.append(nothing)
        return [_distinct(answers)[:count] for answers in found]

    def _of_window(self, values: Array, window: int) -> Array:
        return values[self.tokens.offsets[window] : self.tokens.offsets[window + 1]]

    def _context_tokens(self) -> list[slice]:
        found = []
        for window in range(len(self.tokens)):
            (at,) = np.nonzero(self._of_window(self.characters, window)[:, 0] >= 0)
            found.append(slice(int(at[0]), int(at[-1]) + 1))
        return found


def windows(tokenizer: Tokenizer, task: Task, texts: Sequence[Texts]) -> Windows:
    """Makes the windows of pairs of a question and a context.

    Raises InputError for a context without a token, and for a question that leaves a window no more room than what
    windows share.
    """
    left = tokenizer.cuts_left
    cut = [_cut(*pair, task, left) for pair in zip(tokenizer.encode_whole(texts), texts, strict=True)]
    windows = [window for of_example in cut for window in of_example]
    tokens = Ragged.of([ids for ids, _, _ in windows], [types for _, types, _ in windows])
    owner = np.repeat(np.arange(len(cut)), [len(of_example) for of_example in cut])
    characters = np.concatenate([np.empty((0, 2), np.int32), *(characters for _, _, characters in windows)])
    return Windows(task, tokens, owner, characters, [context for _, context in texts])


def best_spans(logits: Float64Array, count: int) -> list[tuple[int, int]]:
    """The first and the last token of up to `count` spans of at most `LONGEST_ANSWER` whose `logits` [tokens, 2], of
    starting at its first and of ending at its last, have the largest sums; of equal ones the earlier first."""
    ends = np.concatenate((logits[:, 1], np.full(LONGEST_ANSWER - 1, -np.inf)))
    sums = (logits[:, :1] + np.lib.stride_tricks.sliding_window_view(ends, LONGEST_ANSWER)).ravel()
    chosen = [int(sums.argmax())] if count == 1 else np.argsort(-sums, kind="stable")[:count].tolist()
    spans = (divmod(each, LONGEST_ANSWER) for each in chosen if sums[each] > -np.inf)
    return [(start, start + further) for start, further in spans]


def _distinct(answers: list[tuple[float, Answer]]) -> list[Answer]:
    """The best first; what windows share is found in both, and counts once."""
    ordered = sorted(answers, key=lambda each: -each[0])
    first = {(answer.text, answer.start): answer for _, answer in reversed(ordered)}
    return sorted(first.values(), key=[answer for _, answer in ordered].index)


_Window = tuple[list[int], list[int], Int32Array]
"""Token ids, types and characters."""


def _cut(encoding: tokenizers.Encoding, texts: Texts, task: Task, left: bool) -> list[_Window]:
    """The windows of a question with its context; with `left` the first is of the context's end."""
    where = f"question {texts[0][:60]!r}"
    of_text = np.array([-1 if text is None else text for text in encoding.sequence_ids])
    (context,) = np.nonzero(of_text == 1)
    if not len(context):
        raise InputError(f"{where}: its context has no token that the model knows of; give it some text")
    first, stop, whole = int(context[0]), int(context[-1]) + 1, len(of_text)
    room, shared = task.max_length - first - (whole - stop), task.doc_stride or 0
    if room <= shared:
        raise InputError(
            f"{where} has {int((of_text == 0).sum())} tokens, so that a window of {task.max_length} has room for "
            f"{max(0, room)} of the context, and windows share {shared}: shorten it, or give a larger --seq-len or a "
            "smaller --doc-stride"
        )
    characters = np.array(encoding.offsets, np.int32)
    characters[of_text != 1] = NOT_CONTEXT
    if left:
        spans = [(max(first, end - room), end) for end in range(stop, min(first + shared, stop - 1), shared - room)]
    else:
        spans = [(at, min(at + room, stop)) for at in range(first, max(first + 1, stop - shared), room - shared)]
    windows = []
    for start, end in spans:
        kept = [*range(first), *range(start, end), *range(stop, whole)]
        ids, types = ([values[i] for i in kept] for values in (encoding.ids, encoding.type_ids))
        windows.append((ids, types, characters[kept]))
    return windows


def _positions(characters: Int32Array, context_at: slice, answer: Answer) -> tuple[int, int]:
    """The tokens of a window at which `answer` starts and ends; (0, 0) where the window lacks a part of it."""
    text = answer.text.rstrip()
    stop = answer.start + len(text)
    start = stop - len(text.lstrip())
    starts, ends = characters[context_at].T
    if starts[0] > start or ends[-1] < stop:
        return 0, 0
    last = int(np.searchsorted(ends, stop))
    first = min(int(np.searchsorted(starts, start, side="right")) - 1, last)
    return context_at.start + first, context_at.start + last
