"""One of several processes that serve together: `python -m prunetime.serve.worker LISTENER CONTROL`, two descriptors of
sockets that the supervisor has opened."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Sequence

import uvloop

from prunetime.serve.app import App
from prunetime.serve.control import Catalogue, Link, Load, Message, Note, Reload, Start, Unload
from prunetime.serve.models import Entry
from prunetime.serve.run import Server, make_ready


class Member:
    """The fleet, as one of its processes sees it: the supervisor asks them all."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def load(self, name: str, folder: str, keep: bool) -> Entry:
        (loaded,) = await self._link.ask(Load(name, folder, keep))
        return loaded

    async def unload(self, name: str, version: str | None) -> Sequence[Entry]:
        return await self._link.ask(Unload(name, version))

    async def reload(self) -> None:
        await self._link.ask(Reload())

    async def note(self) -> None:
        await self._link.ask(Note())


class Worker:
    """Serves on `listener` from when it is told to start, until it is told to stop or there is no supervisor."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._app: App | None = None
        self._serving: asyncio.Task[None] | None = None

    async def run(self, control: socket.socket) -> None:
        self._link = await Link.over(control, self._answer)
        await self._link.run()
        if self._serving:
            self._server.should_exit = True
            await self._serving

    async def _answer(self, message: Message) -> Sequence[Entry]:
        if isinstance(message, Start):
            self._app = App(message.settings, message.catalogue, Member(self._link))
            ready = asyncio.Event()
            self._server = Server(self._app, ready.set)
            self._serving = asyncio.create_task(self._server.serve([self._listener]))
            self._serving.add_done_callback(lambda _: self._link.close())
            await ready.wait()
            message = Catalogue()
        assert self._app
        return await self._app.here.ask(message)


def main() -> None:
    listener, control = (socket.socket(fileno=int(descriptor)) for descriptor in sys.argv[1:])
    make_ready()
    uvloop.run(Worker(listener).run(control))


if __name__ == "__main__":
    main()
