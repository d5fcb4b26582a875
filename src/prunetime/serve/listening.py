"""The socket that a server listens on."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prunetime.errors import InputError
from prunetime.serve.settings import ServeSettings

BACKLOG = 2_048
"""Connections that wait to be accepted."""


@contextmanager
def listening(settings: ServeSettings) -> Iterator[socket.socket]:
    """Of a port, or of a unix socket, which is taken away at the end; raises InputError where it cannot be had."""
    try:
        made = _unix(settings.uds) if settings.uds else _port(settings.host, settings.port)
    except OSError as error:
        raise InputError(f"cannot listen on {settings.uds or f'{settings.host}:{settings.port}'}: {error}") from error
    with made:
        try:
            yield made
        finally:
            if settings.uds:
                settings.uds.unlink(missing_ok=True)


def _port(host: str, port: int) -> socket.socket:
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


def _unix(path: Path) -> socket.socket:
    if path.is_socket():
        with socket.socket(socket.AF_UNIX) as other:
            if other.connect_ex(str(path)) == 0:
                raise OSError("another server listens there")
        path.unlink()  # of one that was killed
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    made.listen(BACKLOG)
    return made
