"""The settings of a server."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path

from prunetime.core.machine import usable_cores
from prunetime.core.options import check, option
from prunetime.errors import InputError

LOOPBACK = ("127.0.0.1", "::1", "localhost")

HOST_NAME = re.compile(r"[A-Za-z0-9._-]+")

ORIGIN = re.compile(r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?", re.IGNORECASE)


@dataclass(frozen=True)
class ServeSettings:
    """The settings of a server, which `prunetime serve --help` explains, besides the `models` (name, artifact) to load.

    One request may have `max_body_size` bytes, `max_body_values` strings, numbers, lists and objects, and
    `max_client_batch_size` texts or pairs. Bodies that are read and answered at the same time have at most
    `max_held_bytes`. Each model keeps `cache_bytes` of tokenised texts. Requests may take `stop_seconds` at a stop. All
    processes together may use `cores`.
    """

    models: tuple[tuple[str, Path], ...]
    cascades: tuple[tuple[str, tuple[str, ...]], ...] = option(
        "NAME=MODEL,MODEL...: a name for several models of one task, the largest first. The largest that is expected "
        "to meet a request's deadline answers it. Use it where load has peaks, and then a smaller model's answer is "
        "better than none. May be repeated.",
        "capacity",
        (),
        flag="cascade",
    )
    host: str = option("Address to listen on. An address beyond this machine needs --key-file.", "network", "127.0.0.1")
    port: int = option("Port to listen on. 0 takes a free one, which is printed.", "network", 8080, least=0, most=65535)
    uds: Path | None = option(
        "Unix socket to listen on instead of --host and --port. Use it behind a proxy on this machine.", "network", None
    )
    allow_hosts: tuple[str, ...] = option(
        "Host name, besides localhost, that requests may be addressed to. Give each name that clients or a proxy use "
        "for this server. May be repeated.",
        "network",
        (),
        flag="allow-host",
    )
    cors: tuple[str, ...] = option(
        "Origin, such as https://ads.example, whose web pages may call the server from a browser. '*' admits every "
        "origin, and needs --key-file. By default there is none. May be repeated.",
        "network",
        (),
    )
    processes: int = option(
        "Number of processes that share the port, the queue, the caches and the connections. For throughput, set it to "
        "the number of cores; each process has its own copy of the models.",
        "capacity",
        1,
        least=1,
    )
    threads: int = option(
        "Threads that compute one batch, in each process. Raise it where a single request must be faster; for "
        "throughput raise --processes.",
        "capacity",
        1,
        least=1,
    )
    batch_tokens: int = option(
        "Tokens that are computed in one batch, at most. Lower it where short requests wait too long for large ones.",
        "capacity",
        2_048,
        least=1,
    )
    queue_tokens: int = option(
        "Tokens that may wait for the engine; requests beyond are refused (429). Raise it for longer bursts, lower it "
        "to refuse earlier.",
        "capacity",
        65_536,
        least=1,
    )
    max_connections: int = 4_096
    max_body_size: int = 4 << 20
    max_body_values: int = 65_536
    max_held_bytes: int = 64 << 20
    max_client_batch_size: int = 1_024
    timeout: float = option(
        "Seconds after which a request is refused, where its client does not ask for less. Set it to the time after "
        "which nobody waits for an answer.",
        "capacity",
        10.0,
    )
    read_seconds: float = option(
        "Seconds that a client has to send a request, and to finish a TLS handshake. Raise it for slow networks.",
        "capacity",
        10.0,
    )
    cache_bytes: int = 64 << 20
    key_file: Path | None = option(
        "File of bearer keys, one a line; each request must carry one of them. SIGHUP reads it again. Without it the "
        "server is for this machine only.",
        "access",
        None,
    )
    model_root: Path | None = option(
        "Folder from under which clients may load models. Without it only the models given here can be loaded again.",
        "access",
        None,
    )
    open_metrics: bool = option("Answer /metrics without a key. Use it where Prometheus has none.", "access", False)
    experiments: Path | None = option(
        "TOML file of experiments, which split the requests of a model among several by a key. By default there is "
        "none.",
        "experiments",
        None,
        flag="experiment",
    )
    outcomes: str = option(
        "Where the outcomes of experiments are stored: a file, or a postgresql:// URL. Use PostgreSQL where several "
        "servers run the same experiment.",
        "experiments",
        "outcomes.sqlite",
    )
    stop_seconds: float = 30.0
    drain_seconds: float = option(
        "Seconds after SIGTERM in which the server answers on while its readiness check fails. Set it to the time "
        "that a load balancer takes to notice.",
        "capacity",
        0.0,
    )
    certificate: Path | None = option(
        "PEM file of the certificate chain, for HTTPS. Needs --tls-key. SIGHUP reads it again.",
        "network",
        None,
        flag="tls-cert",
    )
    private_key: Path | None = option("PEM file of the private key of --tls-cert.", "network", None, flag="tls-key")
    grpc_port: int | None = option(
        "Port of --host for the Open Inference Protocol over gRPC. 0 takes a free one. Without it there is no gRPC.",
        "network",
        None,
        least=0,
        most=65535,
    )
    cores: float = field(default_factory=usable_cores)

    def __post_init__(self) -> None:
        check(self)
        for name in ("connections", "body_size", "body_values", "held_bytes", "client_batch_size"):
            if (limit := getattr(self, f"max_{name}")) < 1:
                raise InputError(f"max_{name} is {limit}: it must be at least 1")
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
