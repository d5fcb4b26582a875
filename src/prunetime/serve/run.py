"""The server process: uvicorn around the application, and what signals do to it."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from prunetime.serve.app import LOG, App
from prunetime.serve.settings import ServeSettings

MOST_CONNECTIONS = 4_096

M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_ARENA_MAX, LARGE_BLOCK = -3, -1, -8, 128 << 10
"""Options of mallopt(3), and bytes."""


def protocol_of(seconds: float) -> type[HttpToolsProtocol]:
    """Closes a connection on which a request takes longer than so many seconds to come: uvicorn would wait."""

    class Impatient(HttpToolsProtocol):
        _late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._late = self.loop.call_later(seconds, transport.close)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            if self._late is None:  # the next one of a kept connection
                self._late = self.loop.call_later(seconds, self.transport.close)

        def on_message_complete(self) -> None:
            self._come()
            super().on_message_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._come()
            super().connection_lost(exc)

        def _come(self) -> None:
            if self._late is not None:
                self._late.cancel()
                self._late = None

    return Impatient


class Server(uvicorn.Server):
    """Stops on SIGTERM and SIGINT once what it has taken on is answered; reads models and keys again on SIGHUP."""

    def __init__(self, app: App, on_ready: Callable[[int | None], None]) -> None:
        settings = app.settings
        super().__init__(
            uvicorn.Config(
                app,
                settings.host,
                settings.port,
                uds=str(settings.uds) if settings.uds else None,
                loop="uvloop",
                http=protocol_of(settings.read_seconds),
                lifespan="on",
                access_log=False,
                log_config=None,
                server_header=False,
                limit_concurrency=MOST_CONNECTIONS,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=int(settings.stop_seconds) + 1,
                ssl_certfile=settings.certificate,
                ssl_keyfile=settings.private_key,
            )
        )
        self._app, self._on_ready = app, on_ready

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but a server that was told to stop, and did, has not failed: the signal is not raised again."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        loop = asyncio.get_running_loop()
        if threading.current_thread() is threading.main_thread():
            loop.add_signal_handler(signal.SIGHUP, lambda: loop.run_in_executor(None, self._reload))
        bound = [server.sockets[0].getsockname() for server in self.servers if server.sockets]
        self._on_ready(bound[0][1] if bound and isinstance(bound[0], tuple) else None)

    def _reload(self) -> None:
        for problem in self._app.reload():
            LOG.error("not reloaded, the old one stays: %s", problem)
        LOG.info("reloaded; serving %s", ", ".join(hosted.label for hosted in self._app.models))


def give_memory_back() -> None:
    """Has glibc return large blocks to the system as they are freed. Else it keeps them once some were (mallopt(3): the
    threshold is dynamic until it is set), and what an unloaded model had would stay."""
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        for option, value in ((M_MMAP_THRESHOLD, LARGE_BLOCK), (M_TRIM_THRESHOLD, LARGE_BLOCK), (M_ARENA_MAX, 1)):
            mallopt(option, value)


def serve(settings: ServeSettings, on_ready: Callable[[App, int | None], None]) -> None:
    """Serves until told to stop. `on_ready` gets the application and the port (None on a unix socket).

    Raises InputError where a model or the key file cannot be used.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.WARNING)
    give_memory_back()
    app = App(settings)
    Server(app, lambda port: on_ready(app, port)).run()
