"""The server process: uvicorn with the application, and its signal handlers."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import uvicorn

from prunetime.serve import memory
from prunetime.serve.app import App
from prunetime.serve.core.models import Entry
from prunetime.serve.grpc.listening import held_port
from prunetime.serve.http.connection import Connection, Connections
from prunetime.serve.listening import Acceptor, listening
from prunetime.serve.settings import ServeSettings
from prunetime.serve.supervisor import supervise
from prunetime.serve.workers.control import Reload
from prunetime.serve.workers.passing import Receiver

OnReady = Callable[[Sequence[Entry], int | None, int | None], None]
"""A callback with the served models, the HTTP port (None on a unix socket) and the gRPC port (None without gRPC)."""

SWITCH_SECONDS = 0.001
"""The interpreter's switch interval: how long a tokenising thread holds the GIL when the event loop wants it. Python's
default is 5 ms, which a request can wait several times."""

CLOSE_SECONDS = 5.0
"""The time in which all connections from before a stop are accepted."""

QUIET_SECONDS = 1.0
"""How long an idle connection stays open at a stop, for a request that is on its way."""

POLL_SECONDS = 0.02


class Server(uvicorn.Server):
    """A server that stops on SIGTERM or SIGINT after answering the requests it has, or at once on a second signal, and
    that reloads models, keys and certificates on SIGHUP."""

    def __init__(self, app: App, source: Acceptor | Receiver, on_ready: Callable[[], None]) -> None:
        settings = app.settings
        super().__init__(
            uvicorn.Config(
                app,
                loop="uvloop",
                http=Connection,
                ws="none",
                lifespan="on",
                access_log=False,
                proxy_headers=False,
                log_config=None,
                server_header=False,
                timeout_keep_alive=75,
            )
        )
        self.connections = self.server_state = Connections(
            settings.max_connections, settings.read_seconds, source.ended
        )
        self._app, self._source, self._on_ready = app, source, on_ready
        self._arriving: set[asyncio.Task[None]] = set()
        self._signals = 0

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handles signals as uvicorn does, but does not raise them again: a server that was told to stop, and did, has
        not failed."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, *_: Any) -> None:
        self._signals += 1
        self.should_exit, self.force_exit = True, self._signals > 1

    async def startup(self, sockets: Any = None) -> None:  # noqa: ARG002 (uvicorn gives it)
        await self.lifespan.startup()
        loop = asyncio.get_running_loop()
        if threading.current_thread() is threading.main_thread():
            loop.add_signal_handler(signal.SIGHUP, self._reload)
        self._source.start(self._take)
        self.started = True
        self._on_ready()

    def drain(self) -> None:
        """Makes the readiness check fail and every answer close its connection, so that clients go elsewhere."""
        self._app.service.draining = True
        self.connections.drain()

    async def shutdown(self, sockets: Any = None) -> None:  # noqa: ARG002 (uvicorn gives it)
        """Serves on for `drain_seconds`, answers the requests that have come by then, and ends."""
        self.drain()
        await self._while(lambda: True, self._app.settings.drain_seconds)
        if self._app.grpc:  # at the same time as HTTP; the application waits for it
            self._stopping = asyncio.create_task(self._app.grpc.stop())
        await self._source.close(CLOSE_SECONDS)
        await self._while(self._has_connections, QUIET_SECONDS)
        await self._while(self._has_requests, self._app.settings.stop_seconds)
        self.connections.abort()
        for task in self.connections.tasks:
            task.cancel()
        await self.lifespan.shutdown()
        if threading.current_thread() is threading.main_thread():  # gRPC keeps the loop, which would keep all models
            asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)

    async def _while(self, true: Callable[[], bool], seconds: float) -> None:
        """Waits while `true()`, at most `seconds`, or until a second signal."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while loop.time() < until and not self.force_exit and true():
            await asyncio.sleep(POLL_SECONDS)

    def _has_connections(self) -> bool:
        return bool(self._arriving or self.connections.connections or self.connections.tasks)

    def _has_requests(self) -> bool:
        self.connections.close_silent()
        return self._has_connections()

    def _take(self, accepted: socket.socket) -> bool:
        task = asyncio.get_running_loop().create_task(self._connect(accepted))
        self._arriving.add(task)
        task.add_done_callback(self._arriving.discard)
        return True

    async def _connect(self, accepted: socket.socket) -> None:
        """Serves an accepted connection, after its TLS handshake if there is one."""
        certificate = self._app.certificate
        of_tls: dict[str, Any] = {}
        if certificate:
            of_tls = {"ssl": certificate.context, "ssl_handshake_timeout": self._app.settings.read_seconds}
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._connection, accepted, **of_tls)
        except OSError:  # no handshake, or not in time
            accepted.close()
            self._source.ended()

    def _connection(self) -> Connection:
        return Connection(self.config, self.connections, self.lifespan.state, asyncio.get_running_loop())

    def _reload(self) -> None:
        self._reloading = asyncio.create_task(self._app.pool.ask(Reload()))


def make_ready() -> None:
    """Sets up the process: its log, memory, file descriptors and threads."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # What no line says is not looked up (https://docs.python.org/3/howto/logging.html#optimization).
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.WARNING)
    memory.give_back_large_blocks()
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    sys.setswitchinterval(SWITCH_SECONDS)


def serve(settings: ServeSettings, on_ready: OnReady) -> None:
    """Serves until a signal stops it.

    Raises InputError where a model, the keys, the certificate or the port cannot be used.
    """
    make_ready()
    with listening(settings) as listener, held_port(settings) as grpc_port:
        port = None if settings.uds else listener.getsockname()[1]
        settings = replace(settings, grpc_port=grpc_port)
        if settings.processes > 1:
            supervise(settings, listener, lambda entries: on_ready(entries, port, grpc_port))
        else:
            app = App(settings)
            Server(
                app,
                Acceptor(listener),
                lambda: on_ready([loaded.entry for loaded in app.models], port, grpc_port),
            ).run()
