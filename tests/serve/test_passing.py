"""Connections are spread over processes, also where one of them is busy or gone, and none is lost on its way."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

from served import Served
from waiting import PATIENCE, eventually

from prunetime.serve.listening import Acceptor
from prunetime.serve.workers.passing import Dealer, Receiver

Serve = Callable[..., Served]
ALIVE = b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\nx-request-id: %b\r\n\r\n"


def test_kept_connections_are_spread_evenly(serve: Serve, artifacts: Path) -> None:
    """At worst 6 of 8 are of one process: where the other one has not said yet that earlier ones have ended."""
    served = serve(artifacts / "pairs", "--processes", "2")
    trials = 50
    for trial in range(trials):
        with ExitStack() as stack:
            for number in range(8):
                client = stack.enter_context(socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE))
                client.sendall(ALIVE % f"{trial}.{number}".encode())
                assert client.recv(1 << 16).startswith(b"HTTP/1.1 200")
    by_trial: list[Counter[int]] = [Counter() for _ in range(trials)]

    def logged() -> int:
        lines = [json.loads(line) for line in served.said.splitlines() if line.startswith("{")]
        for counts in by_trial:
            counts.clear()
        for line in lines:
            by_trial[int(line["id"].partition(".")[0])][line["process"]] += 1
        return len(lines)

    eventually(lambda: logged() == 8 * trials)
    assert max(max(counts.values()) for counts in by_trial) <= 6


def test_a_process_that_is_killed_gets_no_more(serve: Serve, artifacts: Path) -> None:
    served = serve(artifacts / "pairs", "--processes", "2")
    children = Path(f"/proc/{served.process.pid}/task/{served.process.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)
    eventually(lambda: f"process {children[0]} has ended" in served.said)
    for _ in range(20):
        assert served.get("/v2/health/live").status == 200


class Process:
    """One to which connections are passed, and those that it has; it receives them once it is told to."""

    def __init__(self, dealer: Dealer) -> None:
        supervisor, own = socket.socketpair()
        own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # as little as the kernel allows
        supervisor.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        dealer.add(supervisor)
        self.own, self.taken = own, list[socket.socket]()
        self.receiver = Receiver(own)

    def start(self) -> None:
        self.receiver.start(lambda connection: self.taken.append(connection) or True)

    def end(self, count: int) -> None:
        for _ in range(count):
            self.taken.pop().close()
            self.receiver.ended()

    def close(self) -> None:
        for each in (*self.taken, self.own):
            each.close()


class Room:
    """A listening socket, the dealer of what it accepts, and its clients."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.dealer, self.acceptor = Dealer(), Acceptor(self.listener)
        self.processes: list[Process] = []
        self.clients: list[socket.socket] = []

    def process(self) -> Process:
        self.processes.append(Process(self.dealer))
        return self.processes[-1]

    def connect(self, count: int) -> None:
        for _ in range(count):
            self.clients.append(socket.create_connection(self.listener.getsockname()))


@asynccontextmanager
async def room() -> AsyncIterator[Room]:
    made = Room()
    made.acceptor.start(made.dealer.give)
    yield made
    await made.acceptor.close(PATIENCE)
    made.dealer.close()
    for each in (*made.clients, *made.processes):
        each.close()


async def soon(true: Callable[[], bool]) -> None:
    async def wait() -> None:
        while not true():
            await asyncio.sleep(0.01)

    await asyncio.wait_for(wait(), PATIENCE)


def run(work: Callable[[Room], Awaitable[None]]) -> None:
    async def inside() -> None:
        async with room() as made:
            await work(made)

    asyncio.run(inside())


def test_each_connection_goes_to_the_process_that_has_the_fewest() -> None:
    async def work(made: Room) -> None:
        first, second = made.process(), made.process()
        first.start()
        second.start()
        made.connect(20)
        await soon(lambda: len(first.taken) == len(second.taken) == 10)
        first.end(6)
        await asyncio.sleep(0.01)  # what was said is there to be read when the event loop goes on
        made.connect(6)
        await soon(lambda: len(first.taken) == 10)
        assert len(second.taken) == 10

    run(work)


def test_a_busy_process_is_passed_over_and_no_connection_is_lost() -> None:
    async def work(made: Room) -> None:
        busy, other = made.process(), made.process()
        other.start()
        made.connect(60)
        await soon(
            lambda: len(other.taken) > 30
        )  # more than half: there is no room for more on the way to the busy one
        busy.start()
        await soon(lambda: len(busy.taken) + len(other.taken) == 60)

    run(work)


def test_connections_wait_for_a_process() -> None:
    async def work(made: Room) -> None:
        made.connect(10)
        await asyncio.sleep(0.05)
        only = made.process()
        only.start()
        await soon(lambda: len(only.taken) == 10)
        only.own.close()  # as where it is killed
        made.connect(5)
        another = made.process()
        another.start()
        await soon(lambda: len(another.taken) == 5)

    run(work)


def test_a_process_that_wants_no_more_gets_what_was_passed_before() -> None:
    async def work(made: Room) -> None:
        leaving, staying = made.process(), made.process()
        staying.start()
        made.connect(20)
        await soon(lambda: len(staying.taken) >= 10)
        leaving.start()
        await leaving.receiver.close(PATIENCE)
        assert leaving.receiver.over.is_set()
        before = len(leaving.taken)
        made.connect(10)
        await soon(lambda: len(leaving.taken) + len(staying.taken) == 30)
        assert len(leaving.taken) == before > 0

    run(work)


def test_all_that_waits_is_accepted_at_the_end_and_nobody_else_connects() -> None:
    taken: list[socket.socket] = []

    async def work() -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=512) as listener, ExitStack() as stack:
            address = listener.getsockname()
            acceptor = Acceptor(listener)
            acceptor.start(lambda connection: taken.append(stack.enter_context(connection)) or True)
            for _ in range(200):
                stack.enter_context(socket.create_connection(address))
            closing = asyncio.create_task(acceptor.close(PATIENCE))
            await asyncio.sleep(0)
            late = stack.enter_context(socket.socket())
            late.settimeout(0.05)
            with suppress(OSError):  # it is not answered, and tries again
                late.connect(address)
            await closing
            assert len(taken) == 200
            late.settimeout(PATIENCE)
            new = stack.enter_context(socket.socket())
            assert new.connect_ex(address) != 0

    asyncio.run(work())
