"""Requests and answers over ASGI, and the way from a path to what answers it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgspec

from prunetime.serve.core.request import ServiceRequest
from prunetime.serve.errors import Code, Failure, FailureBody, RefusedError
from prunetime.serve.http.bodies import Bodies, Receive, T
from prunetime.serve.http.compression import check_encoding

AsgiScope = Mapping[str, Any]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]

JSON = "application/json"

ARRIVED = "prunetime.arrived"
"""The key of an ASGI scope with the time, of `time.monotonic`, at which the head of its request had come
(`connection`)."""


@dataclass(frozen=True)
class Response:
    """What goes back: a `body` of `kind`, and headers."""

    body: bytes
    status: int = 200
    kind: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
        """`content`, of structs, lists and numbers, as JSON."""
        return cls(msgspec.json.encode(content), status, JSON, headers or {})

    async def send(self, send: Send, more: Mapping[str, str]) -> None:
        named = {"content-type": self.kind, "content-length": str(len(self.body)), **more, **self.headers}
        headers = [(name.encode(), value.encode()) for name, value in named.items()]  # UTF-8, as those of requests
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


def encoded_list(items: Iterable[Any]) -> Any:
    """JSON that can stand in the place of a list of `items`, which are encoded one by one: all together would keep the
    interpreter from the other threads, for 40 ms where they are embeddings of 1,000 texts."""
    return msgspec.Raw(b"[" + b",".join(map(msgspec.json.encode, items)) + b"]")


@dataclass
class Request(ServiceRequest):
    """A request over HTTP; `path` holds the named parts of its path."""

    scope: AsgiScope
    receive: Receive
    bodies: Bodies
    path: dict[str, str] = field(default_factory=dict)
    _held: int = 0

    @cached_property
    def headers(self) -> dict[str, str]:
        return {name.decode("latin-1"): value.decode("latin-1") for name, value in self.scope["headers"]}

    async def body(self) -> bytes:
        """The body, decompressed. Raises RefusedError where it is too large, too slow, damaged or in an unknown
        encoding, where the client has left, and where something is asked for outside of it."""
        if query := self.scope.get("query_string"):
            name = query.decode("latin-1").partition("=")[0][:80]
            raise RefusedError("bad_request", f"the query of the URL is not read: put {name!r} into the body")
        encoding = self.headers.get("content-encoding", "identity").strip().lower()
        check_encoding(encoding)
        if int(self.headers.get("content-length", "0")) > self.bodies.max_body_size:
            raise self.bodies.too_large()
        found = await self.bodies.read(self.scope, self.receive)
        self._held += len(found)
        if encoding == "identity":
            return found
        content = await self.bodies.decompress(found, encoding)
        self._held += len(content) - len(found)
        return content

    def close(self) -> None:
        """Has the body not count among those that are held."""
        self.bodies.release(self._held)
        self._held = 0

    async def json(self, kind: type[T]) -> T:
        """The body as a `kind`; raises RefusedError where it is none, and as `body` does."""
        return await self.bodies.decode(await self.body(), kind)

    async def listen_for_disconnect(self) -> None:
        """Returns once the client has left."""
        while (await self.receive())["type"] != "http.disconnect":
            pass


Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Route:
    """A method and a path, with its named parts in braces, and what answers there.

    `open` ones answer without a key; those that `changes` something take no body that a form could send (`origins`)."""

    method: str
    path: str
    answer: Handler
    open: bool = False
    summary: str = ""
    takes: Any = None
    gives: Any = None
    refuses: tuple[Code, ...] = ()
    failure: type[FailureBody] = Failure
    body_may_be_empty: bool = False
    changes: bool = False


class Router:
    """Finds the route of a request: fixed paths by name, the others by pattern."""

    def __init__(self, routes: list[Route]) -> None:
        self.routes = routes
        self._fixed = {(route.method, route.path): route for route in routes if "{" not in route.path}
        self._patterns = [(re.compile(_pattern(route.path)), route) for route in routes if "{" in route.path]

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        """The route and the named parts of the path; raises RefusedError where there is none."""
        method = "GET" if method == "HEAD" else method
        if route := self._fixed.get((method, path)):
            return route, {}
        others = {route.method for route in self._fixed.values() if route.path == path}
        for pattern, route in self._patterns:
            if match := pattern.fullmatch(path):
                if route.method == method:
                    return route, match.groupdict()
                others.add(route.method)
        if others:
            allowed = sorted(others | {"HEAD"} if "GET" in others else others)
            message = f"{path[:200]} takes {', '.join(allowed)}, not {method}"
            raise RefusedError("method_not_allowed", message, allowed=allowed)
        raise RefusedError("not_found", f"there is nothing at {path[:200]}")


def _pattern(path: str) -> str:
    parts = re.split(r"{(\w+)}", path)
    return "".join(f"(?P<{part}>[^/]+)" if index % 2 else re.escape(part) for index, part in enumerate(parts))
