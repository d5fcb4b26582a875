"""A request to the service, whichever protocol it came by."""

from __future__ import annotations

import math
import re
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from prunetime.serve.errors import RefusedError

REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")

TIMEOUT = "x-request-timeout-ms"

BackgroundTask = Callable[[], None]
"""A function that is called once the answer to a request is sent."""


@dataclass(kw_only=True)
class ServiceRequest(ABC):
    """A request as the service sees it: its headers and deadline, and what is recorded of it once it is answered."""

    began: float = field(default_factory=time.monotonic)

    max_seconds: float = math.inf
    """The time limit in the request's body, in seconds."""

    background_tasks: list[BackgroundTask] = field(default_factory=list)

    model: str | None = None
    """The model that answered, as NAME/VERSION. `scored_from` is when the service began, and `stages` has the seconds
    of each stage in order."""

    scored_from: float = 0.0
    stages: Mapping[str, float] = field(default_factory=dict)

    @property
    @abstractmethod
    def headers(self) -> Mapping[str, str]:
        """The headers of HTTP, or the metadata of gRPC; names are in lower case."""

    @abstractmethod
    async def listen_for_disconnect(self) -> None:
        """Returns once the client has left."""

    @cached_property
    def id(self) -> str:
        """The client's `x-request-id`, or a new random one where it sent none that can be logged."""
        given = self.headers.get("x-request-id", "")
        return given if REQUEST_ID.fullmatch(given) else secrets.token_hex(8)

    def seconds(self, default: float) -> float:
        """The seconds that the answer may take: the least of the header `x-request-timeout-ms`, the body's limit, and
        `default`."""
        default = min(default, self.max_seconds)
        given = self.headers.get(TIMEOUT)
        if given is None:
            return default
        try:
            found = float(given) / 1e3
        except ValueError:
            found = -1.0
        if not 0.0 < found < float("inf"):
            raise RefusedError("bad_request", f"{TIMEOUT} is {given[:40]!r}: give milliseconds above 0")
        return min(found, default)
