"""The queue: rows of requests share batches, and nobody is lost, late or in the way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations
from threading import Event

import numpy as np
import pytest
from counted_time import CountedTime
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import PATIENCE

from prunetime.errors import EngineError
from prunetime.inference.ragged import Ragged
from prunetime.serve.core import scheduler as scheduling
from prunetime.serve.core.scheduler import Scheduler, Work, one_after_another
from prunetime.serve.core.speed import Speed
from prunetime.serve.errors import RefusedError


class Summing:
    """Answers each row with the sum of its ids; waits for `go`, so that tests say what is there when a batch ends."""

    def __init__(self, go: bool = True, token_us: float = 0.0) -> None:
        self.go, self.batches = Event(), []
        self.began = Event()
        self.speed = Speed(0.0, token_us)
        if go:
            self.go.set()

    def logits(self, batch: Ragged) -> np.ndarray:
        self.batches.append(batch)
        self.began.set()
        self.go.wait(PATIENCE)
        return np.add.reduceat(batch.ids, batch.offsets[:-1])[:, None].astype(np.float32)


class Failing(Summing):
    def logits(self, batch: Ragged) -> np.ndarray:
        super().logits(batch)
        raise EngineError("numbers overflowed")


class Waiting:
    """A work, and what came of it."""

    def __init__(self, runner: Summing, rows: list[list[int]], seconds: float = 60.0) -> None:
        self.rows, self.over, self.error = rows, Event(), None
        deadline = scheduling.time.monotonic() + seconds
        self.work = Work(runner, runner.speed, Ragged.of(rows), deadline, self._done)

    def _done(self, _: Work, error: Exception | None) -> None:
        assert not self.over.is_set(), "done twice"
        self.error = error
        self.over.set()

    def check(self) -> None:
        assert self.over.wait(PATIENCE)
        assert self.error is None
        assert self.work.logits[:, 0].tolist() == [sum(row) for row in self.rows]


@contextmanager
def scheduler(batch_tokens: int = 64, queue_tokens: int = 10**6) -> Iterator[Scheduler]:
    made = Scheduler(batch_tokens, queue_tokens)
    yield made
    made.stop(PATIENCE)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> CountedTime:
    """What schedulers of the test take for time."""
    counted = CountedTime()
    monkeypatch.setattr(scheduling, "time", counted)
    return counted


def ones(rows: int, length: int = 4) -> list[list[int]]:
    return [[1] * length] * rows


ROWS = st.lists(st.lists(st.integers(1, 1000), min_size=1, max_size=40), min_size=1, max_size=12)


@given(st.lists(ROWS, min_size=1, max_size=10), st.integers(1, 2), st.integers(8, 100))
@settings(max_examples=60, deadline=None)
def test_every_row_is_answered_whatever_shares_its_batch(works: list, models: int, batch_tokens: int) -> None:
    runners = [Summing(go=False) for _ in range(models)]
    with scheduler(batch_tokens) as queue:
        waiting = [Waiting(runners[i % models], rows) for i, rows in enumerate(works)]
        for each in waiting:
            queue.submit(each.work)
        for runner in runners:
            runner.go.set()
        for each in waiting:
            each.check()
        assert queue.queued == 0
    for runner in runners:
        for batch in runner.batches:
            assert len(batch.ids) <= batch_tokens or len(batch) == 1
    rows = sum(len(batch) for runner in runners for batch in runner.batches)
    assert rows == sum(map(len, works))


def test_a_long_request_does_not_hold_up_a_short_one() -> None:
    runner = Summing(go=False)
    with scheduler() as queue:
        long, short = Waiting(runner, ones(1000)), Waiting(runner, ones(1))
        queue.submit(long.work)
        assert runner.began.wait(PATIENCE)
        queue.submit(short.work)
        runner.go.set()
        short.check()
        assert len(runner.batches[1]) > 1  # with rows of the long one beside it
        long.check()


def test_what_would_overfill_the_queue_is_refused_with_when_to_come_again() -> None:
    runner = Summing(go=False, token_us=1000.0)
    with scheduler(queue_tokens=100) as queue:
        first, rest = Waiting(runner, ones(1)), Waiting(runner, ones(20))
        queue.submit(first.work)
        assert runner.began.wait(PATIENCE)
        queue.submit(rest.work)
        for rows in (1, 30):
            other = Waiting(runner, ones(rows, 40 if rows == 1 else 4))
            with pytest.raises(RefusedError, match="80 tokens are waiting") as refused:
                queue.submit(other.work)
            assert refused.value.code == "overloaded"
            assert refused.value.retry_after == pytest.approx(0.08)
        runner.go.set()
        rest.check()


@pytest.mark.usefixtures("clock")
def test_what_cannot_be_done_in_time_is_refused_at_once() -> None:
    runner = Summing(go=False, token_us=10_000.0)
    with scheduler(batch_tokens=400) as queue:
        first = Waiting(runner, ones(10))
        queue.submit(first.work)
        assert runner.began.wait(PATIENCE)
        with pytest.raises(RefusedError, match=r"it would take about \d+ ms") as refused:
            queue.submit(Waiting(runner, ones(10), seconds=0.5).work)
        assert refused.value.code == "deadline"
        queue.submit(Waiting(runner, ones(1), seconds=0.6).work)
        runner.go.set()


def test_what_has_become_late_or_whose_client_has_left_is_not_computed(clock: CountedTime) -> None:
    runner = Summing(go=False)
    with scheduler() as queue:
        first = Waiting(runner, ones(1))
        late, left, good = Waiting(runner, ones(2), seconds=0.05), Waiting(runner, ones(3)), Waiting(runner, ones(4))
        queue.submit(first.work)
        assert runner.began.wait(PATIENCE)
        for each in (late, left, good):
            queue.submit(each.work)
        queue.forget(left.work)
        clock.sleep(0.06)
        runner.go.set()
        good.check()
        assert late.over.wait(PATIENCE)
        assert left.over.wait(PATIENCE)
        assert (late.error.code, left.error.code) == ("deadline", "client_left")
        assert [len(batch) for batch in runner.batches] == [1, 4]


def test_a_failing_engine_fails_its_batch_only() -> None:
    bad, good = Failing(go=False), Summing()
    with scheduler(batch_tokens=8) as queue:
        failed, other = Waiting(bad, ones(10)), Waiting(good, ones(3))
        queue.submit(failed.work)
        assert bad.began.wait(PATIENCE)
        queue.submit(other.work)
        bad.go.set()
        other.check()
        assert failed.over.wait(PATIENCE)
        assert isinstance(failed.error, EngineError)
        assert queue.queued == 0


def test_a_stop_finishes_what_waits_and_refuses_what_comes() -> None:
    runner = Summing()
    queue = Scheduler(16, 10**6)
    waiting = [Waiting(runner, ones(20)) for _ in range(10)]
    for each in waiting:
        queue.submit(each.work)
    queue.stop(PATIENCE)
    for each in waiting:
        each.check()
    with pytest.raises(RefusedError, match="stopping"):
        queue.submit(Waiting(runner, ones(1)).work)


def test_a_stop_refuses_what_takes_too_long() -> None:
    runner = Summing(go=False)
    queue = Scheduler(16, 10**6)
    first, second = Waiting(runner, ones(1)), Waiting(runner, ones(1))
    queue.submit(first.work)
    assert runner.began.wait(PATIENCE)
    queue.submit(second.work)
    queue.stop(0.05)
    assert second.error.code == "stopping"
    runner.go.set()
    first.check()


def test_an_idle_engine_is_used_from_where_the_request_is() -> None:
    runner = Summing()
    with scheduler() as queue:
        now = Waiting(runner, ones(3))
        assert queue.run_now(now.work)
        now.check()
    busy = Summing(go=False)
    with scheduler() as queue:
        first = Waiting(busy, ones(1))
        queue.submit(first.work)
        assert busy.began.wait(PATIENCE)
        assert not queue.run_now(Waiting(busy, ones(1)).work)
        busy.go.set()


@pytest.mark.usefixtures("clock")
def test_the_expected_time_is_what_a_fair_share_takes() -> None:
    runner = Summing(go=False, token_us=1000.0)
    with scheduler() as queue:
        assert queue.expected(runner.speed, 10) == pytest.approx(0.01)
        queue.submit(Waiting(runner, ones(4)).work)  # 16 tokens, running
        assert runner.began.wait(PATIENCE)
        queue.submit(Waiting(runner, ones(100)).work)
        assert queue.expected(runner.speed, 10) == pytest.approx(0.01 + 0.016 + 0.01, abs=1e-4)
        runner.go.set()


class Ticking(Summing):
    """Takes the time of a scripted clock: so much for a batch and for each token, and once in a while a pause more."""

    def __init__(self, clock: CountedTime, fixed_us: float, token_us: float) -> None:
        super().__init__(go=False)
        self.clock, self.speed = clock, Speed(fixed_us, token_us)
        self.costs, self.pauses = (fixed_us, token_us), []

    def logits(self, batch: Ragged) -> np.ndarray:
        found = super().logits(batch)
        fixed_us, token_us = self.costs
        self.clock.spend(fixed_us + token_us * len(batch.ids) + (1e6 * self.pauses.pop() if self.pauses else 0.0))
        return found


def answered(waiting: list[Waiting]) -> int:
    for each in waiting:
        assert each.over.wait(PATIENCE)
    return sum(each.error is None for each in waiting)


@pytest.mark.parametrize("pause", [0.05, 0.3, 5.0])
def test_after_a_pause_of_the_process_requests_are_answered_again(pause: float, clock: CountedTime) -> None:
    runner = Ticking(clock, 500.0, 80.0)
    with scheduler() as queue:

        def two() -> int:
            """How many of two clients are answered, the second one while the first is computed."""
            runner.began.clear()
            runner.go.clear()
            clients = []
            for _ in range(2):
                clients.append(Waiting(runner, ones(1, 30), seconds=0.02))
                try:
                    queue.submit(clients[-1].work)
                except RefusedError:
                    clients.pop()
                assert runner.began.wait(PATIENCE)
            runner.go.set()
            return answered(clients)

        assert [two() for _ in range(20)] == [2] * 20
        for _ in range(3):
            runner.pauses.append(pause)
            two()
            assert [two() for _ in range(10)] == [2] * 10


def test_an_idle_engine_always_tries_and_so_corrects_its_estimate(clock: CountedTime) -> None:
    runner = Ticking(clock, 500.0, 10.0)
    runner.speed = Speed(500.0, 10_000.0)  # measured when the machine was busy
    runner.go.set()
    with scheduler() as queue:
        for _ in range(30):
            one = Waiting(runner, ones(1, 30), seconds=0.02)
            queue.submit(one.work)
            one.check()
        assert runner.speed.of(30) < 0.03  # of 0.3 s


@pytest.mark.parametrize("slower", [2.0, 4.0])
def test_of_more_than_can_be_in_time_the_earliest_are_finished(slower: float, clock: CountedTime) -> None:
    runner = Ticking(clock, 500.0, 100.0)
    with scheduler(batch_tokens=2_048) as queue:
        first = Waiting(runner, ones(1))
        queue.submit(first.work)
        assert runner.began.wait(PATIENCE)
        began = clock.monotonic()
        reranks = [Waiting(runner, ones(80, 30), seconds=10.0) for _ in range(40)]  # 0.24 s each, as expected
        for each in reranks:
            queue.submit(each.work)
        runner.costs = 500.0, slower * 100.0
        runner.go.set()
        ideal = 10.0 / (slower * 0.24)
        assert answered(reranks) >= 0.9 * int(ideal)
        assert clock.monotonic() - began <= 10.5
        in_order = [each.error is None for each in reranks]
        assert in_order == sorted(in_order, reverse=True)


def in_time(order: list[Work]) -> bool:
    end = 0.0
    for work in order:
        end += work.seconds_left
        if end > work.deadline:
            return False
    return True


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 120)), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_as_many_as_can_be_in_time_are_chosen_in_an_order_in_which_they_are(works: list[tuple[int, int]]) -> None:
    speed = Speed(0.0, 1e6)  # a second a token
    made = [Work(Summing(), speed, Ragged.of([[1] * size]), float(deadline), print) for size, deadline in works]
    found = one_after_another(made, 0.0)
    most = max(
        len(some)
        for n in range(len(made) + 1)
        for some in combinations(sorted(made, key=deadline_of), n)
        if in_time(some)
    )
    if most:
        assert len(found) == most
        assert in_time(found)
    else:
        assert found == made


def deadline_of(work: Work) -> float:
    return work.deadline


def test_a_request_in_a_hurry_shares_a_batch_with_no_more_than_it_has_time_for(clock: CountedTime) -> None:
    runner = Ticking(clock, 500.0, 100.0)
    with scheduler(batch_tokens=2_048) as queue:
        first, long = Waiting(runner, ones(1)), Waiting(runner, ones(80, 30), seconds=10.0)
        hurried = Waiting(runner, ones(1, 30), seconds=0.03)
        queue.submit(first.work)
        assert runner.began.wait(PATIENCE)
        for each in (long, hurried):
            queue.submit(each.work)
        runner.go.set()
        hurried.check()
        long.check()
        assert [len(batch.ids) for batch in runner.batches[:2]] == [4, 180]  # of 0.02 s that it spares a third


def test_in_an_overload_a_short_request_goes_before_long_ones_that_can_wait(clock: CountedTime) -> None:
    runner = Ticking(clock, 500.0, 100.0)
    with scheduler(batch_tokens=2_048) as queue:
        first = Waiting(runner, ones(1))
        queue.submit(first.work)
        assert runner.began.wait(PATIENCE)
        reranks = [Waiting(runner, ones(80, 30), seconds=2.0) for _ in range(8)]
        for each in reranks:
            queue.submit(each.work)
        short = Waiting(runner, ones(1, 7), seconds=2.0)
        queue.submit(short.work)
        runner.go.set()
        short.check()
        assert runner.batches[1].lengths[0] == 7
        assert answered(reranks) == 8
