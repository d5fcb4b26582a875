"""The server process: uvicorn around the application, and what signals do to it."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from prunetime.serve import memory
from prunetime.serve.app import App
from prunetime.serve.listening import listening
from prunetime.serve.models import Entry
from prunetime.serve.settings import ServeSettings
from prunetime.serve.supervisor import supervise


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
    """Stops on SIGTERM and SIGINT once what it has taken on is answered; has all be read again on SIGHUP."""

    def __init__(self, app: App, on_ready: Callable[[], None]) -> None:
        settings, certificate = app.settings, app.certificate
        super().__init__(
            uvicorn.Config(
                app,
                loop="uvloop",
                http=protocol_of(settings.read_seconds),
                lifespan="on",
                access_log=False,
                proxy_headers=False,
                log_config=None,
                server_header=False,
                limit_concurrency=settings.connections,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=int(settings.stop_seconds) + 1,
                ssl_context_factory=(lambda *_: certificate.context) if certificate else None,
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
            loop.add_signal_handler(signal.SIGHUP, self._reload)
        self._on_ready()

    def _reload(self) -> None:
        self._reloading = asyncio.create_task(self._app.fleet.reload())


def make_ready() -> None:
    """The process, before anything else: its log and its memory."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.WARNING)
    memory.give_back_large_blocks()


def serve(settings: ServeSettings, on_ready: Callable[[Sequence[Entry], int | None], None]) -> None:
    """Serves until told to stop. `on_ready` gets what is served, and the port (None on a unix socket).

    Raises InputError where a model, the keys, the certificate or the port cannot be used.
    """
    make_ready()
    with listening(settings) as listener:
        port = None if settings.uds else listener.getsockname()[1]
        if settings.processes > 1:
            supervise(settings, listener, lambda entries: on_ready(entries, port))
        else:
            app = App(settings)
            Server(app, lambda: on_ready([hosted.entry for hosted in app.models], port)).run([listener])
