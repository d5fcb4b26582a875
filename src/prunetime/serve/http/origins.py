"""Which hosts a server answers to, and which pages of a browser may have it do something.

A browser sends what any page asks of it, to servers of its own machine as well. Three headers, which a page cannot
forge, tell a server whose page it is: `Host`, `Origin` and `Sec-Fetch-Site` (https://fetch.spec.whatwg.org). Programs
that are no browser send neither of the last two.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_address

from prunetime.serve.errors import RefusedError
from prunetime.serve.settings import ServeSettings

AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:@/\[\]]+)(?::\d{1,5})?")
"""A host, as a name or an address, and a port."""

SAFE_METHODS = ("GET", "HEAD")

ASKED_HEADERS = "authorization, content-type, x-request-id, x-request-timeout-ms, x-experiment-key"
TOLD_HEADERS = "retry-after, server-timing, x-request-id, x-prunetime-model, x-prunetime-arm"
"""The headers that pages of `--cors` may send, and may read."""

PREFLIGHT_SECONDS = 600
"""For which a browser may remember what it was told."""

JSON = re.compile(r"application/json\s*(;.*)?", re.IGNORECASE)


class Origins:
    """The hosts and origins that requests may have come to and from.

    Without keys a server answers to its own machine only: a request's host is a loopback name, the address that the
    server listens on, or one of `--allow-host`. Otherwise a page of `evil.example` could have its name resolve to
    127.0.0.1, and would then read all answers (DNS rebinding). With keys, which a browser does not add by itself, every
    host is answered, unless there is an `--allow-host`. A unix socket has no name: every host is answered.

    Pages of the origins of `--cors` may ask as programs do, but for what changes something on a server without keys:
    whoever may only look at such a page is no operator.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self._allowed = frozenset(map(_plain, settings.allow_hosts))
        self._listens_on = _plain(settings.host)
        self._pages, self._has_keys = frozenset(map(str.lower, settings.cors)), settings.key_file is not None
        self._any_host = settings.uds is not None or (settings.key_file is not None and not self._allowed)

    def check_host(self, headers: Mapping[str, str]) -> None:
        """Raises RefusedError where a request is for a host that this server is not."""
        given = headers.get("host")
        if self._any_host or given is None:  # every browser sends one
            return
        host = _host_of(given)
        if host is None or not self._is_ours(host):
            raise RefusedError(
                "forbidden", f"this server is not the host {given[:80]!r}: --allow-host NAME has it answer to a name"
            )

    def check_page(self, headers: Mapping[str, str], method: str, changes: bool = False) -> None:
        """Raises RefusedError where a page of another origin asks for more than to read, or than `--cors` lets it."""
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if method in SAFE_METHODS or site in ("same-origin", "none"):
            return
        if self._may_ask(origin) and (self._has_keys or not changes):
            return
        if site is None and (origin is None or self._is_own(origin, headers.get("host"))):
            return
        raise RefusedError("forbidden", f"pages of {(origin or 'another origin')[:80]} may not ask this server")

    def cross_origin(self, headers: Mapping[str, str]) -> dict[str, str]:
        """The headers of an answer with which a browser gives it to a page of `--cors`; none for other pages."""
        if not self._pages:
            return {}
        vary = {"vary": "origin"}
        origin = headers.get("origin")
        if origin is None or not self._may_ask(origin):
            return vary
        return vary | {"access-control-allow-origin": origin, "access-control-expose-headers": TOLD_HEADERS}

    def preflight(self, headers: Mapping[str, str], method: str) -> dict[str, str] | None:
        """The headers of an answer to the question of a browser whether a page of `--cors` may ask (a preflight); None
        where that is not the question, or the page may not."""
        asked = headers.get("access-control-request-method")
        if method != "OPTIONS" or asked is None or not self._may_ask(headers.get("origin")):
            return None
        return {
            "access-control-allow-methods": "GET, HEAD, POST",
            "access-control-allow-headers": ASKED_HEADERS,
            "access-control-max-age": str(PREFLIGHT_SECONDS),
        }

    def _may_ask(self, origin: str | None) -> bool:
        return origin is not None and ("*" in self._pages or origin.lower() in self._pages)

    def _is_ours(self, host: str) -> bool:
        if host == "localhost" or host == self._listens_on or host in self._allowed:
            return True
        try:
            address = ip_address(host)
        except ValueError:
            return False
        # Nobody else has an address resolve to something: a server of all addresses of its machine answers to each.
        return address.is_loopback or self._listens_on in ("0.0.0.0", "::")

    def _is_own(self, origin: str, host: str | None) -> bool:
        """Whether an origin is this server, as the client calls it, or a name it was told (of a proxy before it)."""
        authority = origin.lower().partition("://")[2]
        return authority != "" and (authority == (host or "").lower() or _host_of(authority) in self._allowed)


def check_media_type(headers: Mapping[str, str]) -> None:
    """Raises RefusedError where a body is of a type that a form of any page can send without being asked: what changes
    something takes JSON."""
    given = headers.get("content-type", "")
    if given and not JSON.fullmatch(given.strip()):
        raise RefusedError(
            "unsupported_type", f"the body is of type {given[:80]!r}: say 'content-type: application/json'"
        )


def _host_of(authority: str) -> str | None:
    """The host of HOST:PORT in its plain form; None where it is none."""
    found = AUTHORITY.fullmatch(authority)
    return _plain(found.group(1)) if found else None


def _plain(host: str) -> str:
    return host.strip("[]").removesuffix(".").lower()
