"""The settings of a server."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path

from prunetime.core.machine import usable_cores
from prunetime.errors import InputError

LOOPBACK = ("127.0.0.1", "::1", "localhost")

HOST_NAME = re.compile(r"[A-Za-z0-9._-]+")

ORIGIN = re.compile(r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?", re.IGNORECASE)


@dataclass(frozen=True)
class ServeSettings:
    """The settings of `prunetime serve`.

    - `models`: (name, artifact) of the models that are loaded at the start - `cascades`: (name, names of models, the
    largest first); the largest that is fast enough answers - `uds`: a unix socket to listen on instead of `host` and
    `port` - `allow_hosts`: host names, besides those of loopback, that requests may be for (`serve.http.origins`) -
    `cors`: origins whose pages may send requests, as SCHEME://HOST[:PORT]; `*`, with keys only, is any - `processes`:
    workers that share the port, the cores, and the limits on queue, caches and connections - `threads`: threads of the
    engine in each process - `batch_tokens`, `queue_tokens`: the most tokens in a batch, and in the queue -
    `max_connections`: the most open connections - `max_body_size` (bytes), `max_body_values` (strings, numbers, lists
    and objects) and `max_client_batch_size` (texts or pairs) limit one request - `max_held_bytes`: the most bytes of
    all bodies that are being read and answered - `timeout`: seconds that an answer may take, unless the client asks for
    less - `read_seconds`: seconds in which a request, head and body, and a TLS handshake must arrive; a client has as
    long to take an answer, and longer for a large one - `cache_bytes`: bytes of tokenised texts to keep, for each
    model; 0 for none - `key_file`: bearer keys, one a line; without it the server is for this machine only -
    `model_root`: the folder from under which requests may load models - `open_metrics`: whether `/metrics` answers
    without a key - `experiments`: a TOML file of experiments - `outcomes`: a file or a PostgreSQL URL for the outcomes
    of experiments - `stop_seconds`: seconds that requests may take at a stop - `drain_seconds`: seconds, after the
    signal to stop, in which the server answers while its readiness check fails - `grpc_port`: the port of `host` for
    gRPC; 0 for any free one, None for no gRPC - `cores`: the cores that all processes together may use
    """

    models: tuple[tuple[str, Path], ...]
    cascades: tuple[tuple[str, tuple[str, ...]], ...] = ()
    host: str = "127.0.0.1"
    port: int = 8080
    uds: Path | None = None
    allow_hosts: tuple[str, ...] = ()
    cors: tuple[str, ...] = ()
    processes: int = 1
    threads: int = 1
    batch_tokens: int = 2_048
    queue_tokens: int = 65_536
    max_connections: int = 4_096
    max_body_size: int = 4 << 20
    max_body_values: int = 65_536
    max_held_bytes: int = 64 << 20
    max_client_batch_size: int = 1_024
    timeout: float = 10.0
    read_seconds: float = 10.0
    cache_bytes: int = 64 << 20
    key_file: Path | None = None
    model_root: Path | None = None
    open_metrics: bool = False
    experiments: Path | None = None
    outcomes: str = "outcomes.sqlite"
    stop_seconds: float = 30.0
    drain_seconds: float = 0.0
    certificate: Path | None = None
    private_key: Path | None = None
    grpc_port: int | None = None
    cores: float = field(default_factory=usable_cores)

    def __post_init__(self) -> None:
        for name in (
            "processes",
            "threads",
            "batch_tokens",
            "queue_tokens",
            "max_connections",
            "max_body_size",
            "max_body_values",
            "max_held_bytes",
            "max_client_batch_size",
        ):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: it must be at least 1")
        for name in ("timeout", "read_seconds", "stop_seconds"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)}: it must be above 0")
        if not 0.0 <= self.drain_seconds < math.inf:
            raise InputError(f"drain_seconds is {self.drain_seconds}: it must be at least 0")
        names = [name for name, _ in (*self.models, *self.cascades)]
        if len(set(names)) != len(names):
            raise InputError(f"two models have the same name: {', '.join(names)}")
        for cascade, members in self.cascades:
            if unknown := [name for name in members if name not in dict(self.models)]:
                raise InputError(f"cascade {cascade}: {', '.join(unknown)} is no model that is given")
        over_tcp = self.uds is None or self.grpc_port is not None
        if over_tcp and self.key_file is None and self.host not in LOOPBACK:
            raise InputError(
                f"without --key-file the server is for this machine only, not for {self.host}: give a file of keys"
            )
        for host in self.allow_hosts:
            if not (HOST_NAME.fullmatch(host) or _is_address(host)):
                raise InputError(f"--allow-host {host}: give a name or an address, without scheme, port and path")
        for origin in self.cors:
            if origin == "*" and self.key_file is None:
                raise InputError("--cors '*' lets any page score: give --key-file, or name the origins")
            if origin != "*" and not ORIGIN.fullmatch(origin):
                raise InputError(f"--cors {origin}: give an origin, such as https://ads.example:8443, without a path")
        if (self.certificate is None) != (self.private_key is None):
            raise InputError("TLS needs both --tls-cert and --tls-key")

    @property
    def of_each(self) -> ServeSettings:
        """The settings of one worker, which gets an even share of the limits."""
        return replace(
            self,
            processes=1,
            cores=self.cores / self.processes,
            queue_tokens=math.ceil(self.queue_tokens / self.processes),
            cache_bytes=math.ceil(self.cache_bytes / self.processes),
            max_connections=math.ceil(self.max_connections / self.processes),
            max_held_bytes=max(self.max_body_size, math.ceil(self.max_held_bytes / self.processes)),
            drain_seconds=0.0,  # the supervisor waits for all
        )


def _is_address(host: str) -> bool:
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
