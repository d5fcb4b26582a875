"""Requests and responses over ASGI, and the router."""

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
"""The key in the ASGI scope of the time (`time.monotonic`) at which the request's head had arrived (`connection`)."""


@dataclass(frozen=True)
class Response:
    """A response: a `body` of media type `kind`, and headers."""

    body: bytes
    status: int = 200
    kind: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
        """A JSON response of `content` (structs, lists and numbers)."""
        return cls(msgspec.json.encode(content), status, JSON, headers or {})

    async def send(self, send: Send, more: Mapping[str, str]) -> None:
        named = {"content-type": self.kind, "content-length": str(len(self.body)), **more, **self.headers}
        headers = [(name.encode(), value.encode()) for name, value in named.items()]  # UTF-8, as those of requests
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


def encoded_list(items: Iterable[Any]) -> Any:
    """Encodes a list item by item: encoding it at once would hold the GIL for 40 ms where items are embeddings of 1,000
    texts."""
    return msgspec.Raw(b"[" + b",".join(map(msgspec.json.encode, items)) + b"]")


@dataclass
class Request(ServiceRequest):
    """A request over HTTP; `path` has the named parts of its path."""

    scope: AsgiScope
    receive: Receive
    bodies: Bodies
    path: dict[str, str] = field(default_factory=dict)
    _held: int = 0

    @cached_property
    def headers(self) -> dict[str, str]:
        return {name.decode("latin-1"): value.decode("latin-1") for name, value in self.scope["headers"]}

    async def body(self) -> bytes:
        """Reads the body, decompressed. Raises RefusedError where it is too large, too slow, damaged or in an unknown
        encoding, where the client has left, and where the URL has a query."""
        if query := self.scope.get("query_string"):
            name = query.decode("latin-1").partition("=")[0][:80]
            raise RefusedError("bad_request", f"the query of the URL is not read: put {name!r} into the body")
        encoding = self.headers.get("content-encoding", "identity").strip().lower()
        check_encoding(encoding)
        if int(self.headers.get("content-length", "0")) > self.bodies.settings.max_body_size:
            raise self.bodies.too_large()
        found = await self.bodies.read(self.scope, self.receive)
        self._held += len(found)
        if encoding == "identity":
            return found
        content = await self.bodies.decompress(found, encoding)
        self._held += len(content) - len(found)
        return content

    def close(self) -> None:
        """Releases the body's bytes."""
        self.bodies.release(self._held)
        self._held = 0

    async def json(self, kind: type[T]) -> T:
        """Reads the body as JSON of type `kind`. Raises RefusedError where it is none, and as `body` does."""
        return await self.bodies.decode(await self.body(), kind)

    async def listen_for_disconnect(self) -> None:
        """Returns once the client has left."""
        while (await self.receive())["type"] != "http.disconnect":
            pass


Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Route:
    """A route: a method, a path with named parts in braces, and the endpoint that answers there.

    An `open` route answers without a key; one that `changes` something takes no body that a form could send
    (`origins`).
    """

    method: str
    path: str
    endpoint: Endpoint
    open: bool = False
    summary: str = ""
    takes: Any = None
    gives: Any = None
    refuses: tuple[Code, ...] = ()
    failure: type[FailureBody] = Failure
    body_may_be_empty: bool = False
    changes: bool = False


def get(path: str, endpoint: Endpoint, gives: Any, summary: str, *refuses: Code, **more: Any) -> Route:
    """A route of the method GET; `gives` is the type of its JSON, `more` other fields of `Route`."""
    return Route("GET", path, endpoint, summary=summary, gives=gives, refuses=refuses, **more)


def post(path: str, endpoint: Endpoint, takes: Any, gives: Any, summary: str, *refuses: Code, **more: Any) -> Route:
    """A route of the method POST, as `get`; `takes` is the type of its body's JSON."""
    return Route("POST", path, endpoint, takes=takes, gives=gives, summary=summary, refuses=refuses, **more)


def not_here(method: str, path: str, code: Code, why: str) -> Route:
    """A route that only says why there is nothing."""

    async def refuse(_: Request) -> Response:
        raise RefusedError(code, why)

    return Route(method, path, refuse, summary="Not here: the answer says why.", refuses=(code,))


class Router:
    """A router finds the route of a request: fixed paths by name, the others by pattern."""

    def __init__(self, routes: list[Route]) -> None:
        self.routes = routes
        self._fixed = {(route.method, route.path): route for route in routes if "{" not in route.path}
        self._patterns = [(re.compile(_pattern(route.path)), route) for route in routes if "{" in route.path]

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        """Returns the route and the named parts of the path. Raises RefusedError where there is none."""
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
