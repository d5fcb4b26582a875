"""A worker, run by the supervisor: `python -m prunetime.serve.worker CONNECTIONS CONTROL`, descriptors of two
sockets."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Sequence

import uvloop

from prunetime.serve.app import App
from prunetime.serve.core.models import Entry
from prunetime.serve.run import Server, make_ready
from prunetime.serve.workers.control import Drain, Link, ListModels, Message, StartServing
from prunetime.serve.workers.passing import Receiver


class WorkerProcess:
    """A worker serves the connections that it receives until the supervisor stops or ends."""

    def __init__(self, connections: socket.socket) -> None:
        self._receiver = Receiver(connections)
        self._serving: asyncio.Task[None] | None = None

    async def run(self, control: socket.socket) -> None:
        self._link = await Link.over(control, self._answer)
        await self._link.run()
        if self._serving:
            self._server.should_exit = True
            await self._serving

    async def _answer(self, message: Message) -> Sequence[Entry]:
        match message:
            case StartServing(settings, catalogue, counts):
                return await self._start(App(settings, catalogue, self._link, counts))
            case Drain():
                self._server.drain()
                return []
        return await self._app.local_worker.ask(message)

    async def _start(self, app: App) -> Sequence[Entry]:
        self._app, ready = app, asyncio.Event()
        self._server = Server(app, self._receiver, ready.set)
        self._serving = asyncio.create_task(self._server.serve())
        self._serving.add_done_callback(lambda _: self._link.close())
        await ready.wait()
        self._ending = asyncio.create_task(self._end())
        return await app.local_worker.ask(ListModels())

    async def _end(self) -> None:
        await self._receiver.over.wait()
        self._server.should_exit = True


def main() -> None:
    connections, control = (socket.socket(fileno=int(descriptor)) for descriptor in sys.argv[1:])
    make_ready()
    uvloop.run(WorkerProcess(connections).run(control))


if __name__ == "__main__":
    main()
