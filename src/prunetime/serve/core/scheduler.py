"""The scheduler chooses which sequences are computed next: one queue of requests, and one thread that runs the engine.

An idle engine takes a request the moment it comes, whatever it is expected to take: a wrong estimate could not be
corrected otherwise. Requests behind it share each batch evenly, so that a long one does not hold up short ones. A
request that would be late behind the others is refused at once. When not all waiting requests can be in time any more,
as many as can be are finished one after another, instead of all of them late.
"""

from __future__ import annotations

import heapq
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from threading import Condition, Thread
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from prunetime.errors import EngineError
from prunetime.inference.ragged import Ragged
from prunetime.serve.core.speed import Speed
from prunetime.serve.errors import RefusedError

LONGEST_SECONDS = 0.02
"""The longest that a batch of several sequences is expected to take, in seconds: requests that arrive meanwhile wait
for it."""

SPARE = 1.5
"""Requests share batches while all would be in time even if the engine took this many times longer than expected."""

OF_BACKGROUND = 8
"""Background work is computed in batches this many times smaller, because a request that arrives waits for the
batch."""


BY_DEADLINE = attrgetter("deadline")


class Runner(Protocol):
    """An object that computes logits, such as `inference.engine.Engine`."""

    def logits(self, batch: Ragged) -> NDArray[np.float32]:
        """Logits [sequences, outputs]; or [tokens, outputs] of a model whose head reads every token."""
        ...


Done = Callable[["Work", Exception | None], None]
"""A function that is called once, from the engine's thread, with a work and the error that ended it, if one did."""


@dataclass(eq=False)
class Work:
    """The sequences of one request, and their logits as far as they are computed. Times are of `time.monotonic`."""

    runner: Runner
    speed: Speed
    tokens: Ragged
    deadline: float
    done: Done
    entered: float = field(default_factory=time.monotonic)
    started: float = 0.0
    compute: float = 0.0
    """The seconds that the engine spent on batches with sequences of this work."""

    background: bool = False
    """Whether the work is computed only while no other work waits."""

    left: bool = False
    """Whether the client has disconnected: the rest is not computed."""

    taken: int = 0
    pieces: list[NDArray[np.float32]] = field(default_factory=list)

    @property
    def logits(self) -> NDArray[np.float32]:
        return self.pieces[0] if len(self.pieces) == 1 else np.concatenate(self.pieces)

    @property
    def tokens_left(self) -> int:
        offsets = self.tokens.offsets
        return int(offsets[-1] - offsets[self.taken])

    @property
    def seconds_left(self) -> float:
        """The seconds that the rest of this work is expected to take alone."""
        return self.speed.of(self.tokens_left)

    def rows_within(self, tokens: int) -> int:
        """How many of the next sequences have at most `tokens` tokens together; at least one."""
        offsets = self.tokens.offsets
        last = int(np.searchsorted(offsets, offsets[self.taken] + tokens, side="right")) - 1
        return max(1, last - self.taken)


@dataclass
class EngineBatch:
    """A batch for one engine: parts (work, first sequence, sequence after the last) and their tokens."""

    parts: list[tuple[Work, int, int]]
    tokens: Ragged
    began: float = 0.0


class Scheduler:
    """Runs works in batches of at most `batch_tokens` (a longer sequence is a batch of its own); at most `queue_tokens`
    wait."""

    def __init__(self, batch_tokens: int, queue_tokens: int) -> None:
        self.batch_tokens, self.queue_tokens = batch_tokens, queue_tokens
        self.queued = 0
        """The number of tokens that wait."""
        self._works: deque[Work] = deque()
        self._running: EngineBatch | None = None
        self._stopping = False
        self._changed = Condition()
        self._thread = Thread(target=self._run, name="prunetime-engine", daemon=True)
        self._thread.start()

    def submit(self, work: Work) -> None:
        """Queues a work. Raises RefusedError where the queue is full, or where works before it would make it late. An
        idle engine takes any work."""
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
            wait = self._expected(work.speed, size) if self._works or self._running else 0.0
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
        """Runs a work in the calling thread if the engine is idle, and returns whether it did. Handing a short work to
        the engine's thread and back can take longer than computing it. The caller's thread must be that of `submit`."""
        with self._changed:
            if self._works or self._running or self._stopping or time.monotonic() > work.deadline:
                return False
            work.taken, work.started = len(work.tokens), time.monotonic()
            batch = self._running = EngineBatch([(work, 0, work.taken)], work.tokens, work.started)
        self._compute(batch)
        return True

    def expected(self, speed: Speed, size: int) -> float:
        """The seconds until a work of `size` tokens would be done if it came now."""
        with self._changed:
            return self._expected(speed, size)

    def forget(self, work: Work) -> None:
        """Marks a work whose client has disconnected."""
        with self._changed:
            work.left = True

    def stop(self, seconds: float) -> None:
        """Stops: new works are refused, and waiting ones computed for at most `seconds`, after which the rest is
        refused."""
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
        """As `expected`. Since works share the engine evenly, no more of another work is computed first than there is
        of the new one."""
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
        """Waits for works and computes one batch; returns False once the scheduler has stopped and nothing waits."""
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

    def _compute(self, batch: EngineBatch) -> None:
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

    def _compose(self, late: list[Work]) -> EngineBatch | None:
        """Composes the next batch: for the engine whose work is first, an even share of each of its works."""
        now = time.monotonic()
        waiting = self._in_time(now, late)
        if not waiting:
            self._works = deque()
            return None
        urgent = [work for work in waiting if not work.background]
        room = self.batch_tokens if urgent else math.ceil(self.batch_tokens / OF_BACKGROUND)
        ordered = urgent or waiting
        shared = _all_in_time(ordered, now)
        if not shared:
            ordered = one_after_another(ordered, now)
        first = ordered[0]
        mine = [work for work in ordered if work.runner is first.runner]
        room = min(room, max(1, first.speed.tokens_within(LONGEST_SECONDS)))
        mine, room = _hurried_first(mine, room, now)
        parts: list[tuple[Work, int, int]] = []
        for quantum in (math.ceil(room / len(mine)), room) if shared else (room,):
            for work in mine:  # in the second round there is for all what others have left of their shares
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
        others = [work for work in waiting if work.runner is not mine[0].runner]
        unfinished = [work for work in waiting if work.runner is mine[0].runner and work.taken < len(work.tokens)]
        touched = {work for work, _, _ in parts}
        self._works = deque([*others, *sorted(unfinished, key=touched.__contains__)])  # each model, each work in turn
        self._running = EngineBatch(parts, _joined(parts), now)
        return self._running

    def _in_time(self, now: float, late: list[Work]) -> list[Work]:
        """Returns the works that can meet their deadlines, and moves the others to `late`. If none can, and only by the
        estimate, the one that would be least late is tried."""
        waiting, too_slow = [], []
        for work in self._works:
            if work.left or now > work.deadline:
                late.append(work)
                self.queued -= work.tokens_left
            elif now + work.seconds_left > work.deadline:
                too_slow.append(work)
            else:
                waiting.append(work)
        if too_slow and not waiting:
            tried = min(too_slow, key=lambda work: work.seconds_left - work.deadline)
            too_slow.remove(tried)
            waiting = [tried]
        for work in too_slow:
            late.append(work)
            self.queued -= work.tokens_left
        return waiting


def _all_in_time(works: Sequence[Work], now: float) -> bool:
    """Whether every work would be in time, with time to spare, if they ran one after another by deadline."""
    end = 0.0
    for work in sorted(works, key=BY_DEADLINE):
        end += SPARE * work.seconds_left
        if now + end > work.deadline:
            return False
    return True


def one_after_another(works: Sequence[Work], now: float) -> list[Work]:
    """Chooses as many works as are expected to be in time, in an order that achieves it; all works where none can be.

    The set is found by taking works by deadline and dropping the longest whenever one would be late (Moore, "An n job,
    one machine sequencing algorithm for minimizing the number of late jobs", 1968). The shortest comes first if those
    with earlier deadlines can wait for it.
    """
    by_deadline = sorted(works, key=BY_DEADLINE)
    kept: list[tuple[float, int]] = []  # a heap of the longest, and of equals the last
    end = now
    for place, work in enumerate(by_deadline):
        heapq.heappush(kept, (-work.seconds_left, -place))
        end += work.seconds_left
        if end > work.deadline:
            end += heapq.heappop(kept)[0]
    if not kept:
        return list(works)
    possible = [by_deadline[place] for place in sorted(-place for _, place in kept)]
    end, slack, first = now, math.inf, possible[0]
    for work in possible:
        if work.seconds_left < min(first.seconds_left, slack):
            first = work
        end += work.seconds_left
        slack = min(slack, work.deadline - end)
    return [first, *(work for work in possible if work is not first)]


def _hurried_first(works: list[Work], room: int, now: float) -> tuple[list[Work], int]:
    """Orders the works of the next batch, with works that cannot wait for a second batch in front, and returns how many
    tokens the batch may have for the first of them to be in time."""
    speed = works[0].speed
    end = now + SPARE * speed.of(room)
    hurried = sorted((work for work in works if work.deadline < end), key=BY_DEADLINE)
    if not hurried:
        return works, room
    first = hurried[0]
    fitting = speed.tokens_within((first.deadline - now) / SPARE)
    rest = [work for work in works if work.deadline >= end]
    return [*hurried, *rest], min(room, max(first.tokens_left, fitting))


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
