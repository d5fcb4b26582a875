"""Which rows are computed next: one queue of ragged requests, one thread that runs the engine.

An idle engine takes a request the moment it comes. Behind it requests wait together and share what comes next fairly,
so that a long one does not hold up short ones. What cannot be answered in time is refused at once.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Condition, Thread
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from prunetime.errors import EngineError
from prunetime.runtime.ragged import Ragged
from prunetime.serve.errors import RefusedError

Logits = NDArray[np.float32]

LEARNED = 0.1
"""The weight of a new batch in the running mean of microseconds a token."""

OF_BACKGROUND = 8
"""A batch of background work is so many times smaller, for what comes next waits for it."""


class Runner(Protocol):
    """What computes the rows of a model, such as `runtime.engine.Engine`."""

    def logits(self, batch: Ragged) -> Logits:
        """[rows, outputs], or [tokens, outputs] of a model that reads every token's row."""
        ...


@dataclass
class Speed:
    """How long a batch takes: `fixed_us` and `token_us` for every token."""

    fixed_us: float
    token_us: float

    def of(self, tokens: int) -> float:
        """Seconds."""
        return (self.fixed_us + self.token_us * tokens) / 1e6

    def learn(self, tokens: int, seconds: float) -> None:
        seen = max(0.0, 1e6 * seconds - self.fixed_us) / tokens
        self.token_us += LEARNED * (seen - self.token_us)


@dataclass(eq=False)
class Work:
    """The rows of one request, and what became of them: `done` is called once, from the engine's thread, with what was
    computed and an error or None. Times are those of `time.monotonic`."""

    runner: Runner
    speed: Speed
    tokens: Ragged
    deadline: float
    done: Callable[[Work, Exception | None], None]
    entered: float = field(default_factory=time.monotonic)
    started: float = 0.0
    compute: float = 0.0
    """Seconds in the engine, in batches that had rows of it."""

    background: bool = False
    """Whether it is computed only when nothing else waits."""

    left: bool = False
    """Whether the client has gone: what is not computed yet will not be."""

    taken: int = 0
    pieces: list[Logits] = field(default_factory=list)

    @property
    def logits(self) -> Logits:
        return self.pieces[0] if len(self.pieces) == 1 else np.concatenate(self.pieces)

    @property
    def tokens_left(self) -> int:
        offsets = self.tokens.offsets
        return int(offsets[-1] - offsets[self.taken])

    def rows_within(self, tokens: int) -> int:
        """How many of the next rows have at most so many tokens together; at least one."""
        offsets = self.tokens.offsets
        last = int(np.searchsorted(offsets, offsets[self.taken] + tokens, side="right")) - 1
        return max(1, last - self.taken)


@dataclass
class Batch:
    """Rows of several works, of one model: (work, first row, row after the last)."""

    parts: list[tuple[Work, int, int]]
    tokens: Ragged
    began: float = 0.0


class Scheduler:
    """Runs works in batches of at most `batch_tokens` (a longer row is a batch of its own), at most `queue_tokens`
    waiting."""

    def __init__(self, batch_tokens: int, queue_tokens: int) -> None:
        self.batch_tokens, self.queue_tokens = batch_tokens, queue_tokens
        self.queued = 0
        """Tokens that wait."""
        self._works: deque[Work] = deque()
        self._running: Batch | None = None
        self._stopping = False
        self._changed = Condition()
        self._thread = Thread(target=self._run, name="prunetime-engine", daemon=True)
        self._thread.start()

    def submit(self, work: Work) -> None:
        """Takes the work on. Raises RefusedError where the queue is full, or its deadline cannot be kept."""
        size = len(work.tokens.ids)
        with self._changed:
            if self._stopping:
                raise RefusedError("stopping", "the server is stopping", 1.0)
            if self.queued and self.queued + size > self.queue_tokens:
                wait = self._seconds_of(self._works)
                raise RefusedError(
                    "overloaded",
                    f"{self.queued} tokens are waiting, and {size} more would be over the limit of {self.queue_tokens}",
                    wait,
                )
            wait = self._expected(work.speed, size)
            if time.monotonic() + wait > work.deadline:
                raise RefusedError(
                    "deadline",
                    f"it would take about {1e3 * wait:.0f} ms, longer than the request may take",
                    self._seconds_of(self._works),
                )
            self._works.append(work)
            self.queued += size
            self._changed.notify()

    def run_now(self, work: Work) -> bool:
        """Runs the work in the calling thread, which is that of `submit`, where the engine has nothing else to do: a
        handover to its own thread and back takes longer than much of a short request."""
        with self._changed:
            late = time.monotonic() + work.speed.of(len(work.tokens.ids)) > work.deadline
            if self._works or self._running or self._stopping or late:
                return False
            work.taken, work.started = len(work.tokens), time.monotonic()
            batch = self._running = Batch([(work, 0, work.taken)], work.tokens, work.started)
        self._compute(batch)
        return True

    def expected(self, speed: Speed, size: int) -> float:
        """Seconds until a work of `size` tokens that came now would be done."""
        with self._changed:
            return self._expected(speed, size)

    def forget(self, work: Work) -> None:
        """The client of `work` has left."""
        with self._changed:
            work.left = True

    def stop(self, seconds: float) -> None:
        """Refuses what comes, computes what waits, for at most so many seconds; the rest is refused as well."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(seconds)
        with self._changed:
            rest, self._works = list(self._works), deque()
            self.queued = 0
        for work in rest:
            work.done(work, RefusedError("stopping", "the server is stopping", 1.0))

    def _expected(self, speed: Speed, size: int) -> float:
        """Works share the engine evenly, so that of each that waits no more is computed first than there is of it."""
        seconds = speed.of(size)
        if self._running:
            first = self._running.parts[0][0]
            seconds += max(0.0, self._running.began + first.speed.of(len(self._running.tokens.ids)) - time.monotonic())
        for other in self._works:
            if other.background:
                continue
            seconds += other.speed.token_us * min(size, other.tokens_left) / 1e6
        return seconds

    @staticmethod
    def _seconds_of(works: Sequence[Work]) -> float:
        return sum(work.speed.token_us * work.tokens_left for work in works) / 1e6

    def _run(self) -> None:
        while self._take_turn():  # in a frame of its own: while it waits, nothing holds what was computed last
            pass

    def _take_turn(self) -> bool:
        """Computes the next batch, once there is one; False where there will be none."""
        late: list[Work] = []
        with self._changed:
            while not (batch := self._compose(late)) and not late:
                if self._stopping:
                    return False
                self._changed.wait()
        for work in late:
            work.done(work, _too_late(work))
        if batch:
            self._compute(batch)
        return True

    def _compute(self, batch: Batch) -> None:
        runner, speed = batch.parts[0][0].runner, batch.parts[0][0].speed
        error: Exception | None = None
        logits: Any = None
        try:
            logits = runner.logits(batch.tokens)
        except (EngineError, MemoryError) as problem:
            error = problem
        seconds = time.monotonic() - batch.began
        speed.learn(len(batch.tokens.ids), seconds)
        finished, at = [], 0
        of_tokens = logits is not None and len(logits) != len(batch.tokens)
        with self._changed:
            self._running = None
            for work, first, last in batch.parts:
                offsets = work.tokens.offsets
                size = int(offsets[last] - offsets[first]) if of_tokens else last - first
                if logits is not None:
                    work.pieces.append(logits[at : at + size])
                at += size
            for work in dict.fromkeys(work for work, _, _ in batch.parts):
                work.compute += seconds
                if error is not None and work in self._works:  # its other rows
                    self._works.remove(work)
                    self.queued -= work.tokens_left
                if error is not None or work.taken == len(work.tokens):
                    finished.append(work)
        for work in finished:
            work.done(work, error)

    def _compose(self, late: list[Work]) -> Batch | None:
        """The next batch: of the model whose work has waited longest, as much of each of its works as is its share."""
        now = time.monotonic()
        waiting: list[Work] = []
        for work in self._works:
            if work.left or now + work.speed.of(work.tokens_left) > work.deadline:
                late.append(work)
                self.queued -= work.tokens_left
            else:
                waiting.append(work)
        if not waiting:
            self._works = deque()
            return None
        urgent = [work for work in waiting if not work.background]
        room = self.batch_tokens if urgent else math.ceil(self.batch_tokens / OF_BACKGROUND)
        runner = (urgent or waiting)[0].runner
        mine = [work for work in urgent or waiting if work.runner is runner]
        share = math.ceil(room / len(mine))
        parts: list[tuple[Work, int, int]] = []
        for quantum in (share, room):  # what others leave of their shares is there for all
            for work in mine:
                if work.taken == len(work.tokens) or room <= 0:
                    continue
                rows = work.rows_within(min(quantum, room))
                size = int(work.tokens.offsets[work.taken + rows] - work.tokens.offsets[work.taken])
                if size > room and parts:
                    continue
                parts.append((work, work.taken, work.taken + rows))
                work.taken += rows
                work.started = work.started or now
                room -= size
                self.queued -= size
        rest = [work for work in mine if work.taken < len(work.tokens)]
        others = [work for work in waiting if work not in mine]
        untouched = [work for work in rest if not work.taken]
        self._works = deque([*others, *untouched, *(work for work in rest if work.taken)])
        self._running = Batch(parts, _joined(parts), now)
        return self._running


def _joined(parts: list[tuple[Work, int, int]]) -> Ragged:
    work, first, last = parts[0]
    if len(parts) == 1 and first == 0 and last == len(work.tokens):
        return work.tokens
    return Ragged.joined([work.tokens.part(first, last) for work, first, last in parts])


def _too_late(work: Work) -> RefusedError:
    if work.left:
        return RefusedError("client_left", "the client has left")
    return RefusedError(
        "deadline", "the request has waited longer than it may take", work.speed.of(len(work.tokens.ids))
    )
