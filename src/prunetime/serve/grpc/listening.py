"""The port that gRPC listens on."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from prunetime.errors import InputError
from prunetime.serve.settings import ServeSettings


@contextmanager
def held_port(settings: ServeSettings) -> Iterator[int | None]:
    """Reserves the port for gRPC that all processes share; None where the settings have none.

    gRPC cannot take an open socket, so each process opens its own, with SO_REUSEPORT. A bound socket that does not
    listen reserves the port meanwhile, and finds a free one.

    Raises InputError where the port cannot be had, or gRPC is not installed.
    """
    host, port = settings.host, settings.grpc_port
    if port is None:
        yield None
        return
    if not (find_spec("grpc") and find_spec("grpc_health")):
        raise InputError("--grpc-port: gRPC is not installed: pip install 'prunetime[grpc]'")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family) as free:  # without SO_REUSEPORT: another server may have it
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            free.bind((host, port))
            port = free.getsockname()[1]
        held = socket.socket(family)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((host, port))
    except OSError as error:
        raise InputError(f"cannot listen on {host}:{port} for gRPC: {error}") from error
    with held:
        yield port
