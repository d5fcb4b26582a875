"""Checks the host of a request, and the web page that sends it.

A browser sends requests for any page, also to servers of its own machine. Three headers that a page cannot forge say
whose page it is: `Host`, `Origin` and `Sec-Fetch-Site` (https://fetch.spec.whatwg.org). Other programs send neither of
the last two.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_address

from prunetime.serve.errors import RefusedError
from prunetime.serve.settings import ServeSettings

AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:@/\[\]]+)(?::\d{1,5})?")
"""A host (name or address) with a port."""

SAFE_METHODS = ("GET", "HEAD")

ASKED_HEADERS = "authorization, content-type, x-request-id, x-request-timeout-ms, x-experiment-key"
TOLD_HEADERS = "retry-after, server-timing, x-request-id, x-prunetime-model, x-prunetime-arm"
"""The headers that pages of `--cors` may send and read."""

PREFLIGHT_SECONDS = 600
"""How long a browser may cache the answer to a preflight."""

JSON = re.compile(r"application/json\s*(;.*)?", re.IGNORECASE)


class Origins:
    """The hosts that requests may be for, and the origins that they may come from.

    Without keys a server answers to its own machine only: a request's host is a loopback name, the address that the
    server listens on, or one of `--allow-host`. Otherwise `evil.example` could resolve to 127.0.0.1, and its page would
    read all answers (DNS rebinding). With keys, which a browser does not add by itself, every host is answered unless
    there is an `--allow-host`. A unix socket has no name: every host is answered.

    Pages of `--cors` may send the requests that programs may, except those that change something on a server without
    keys: a visitor of such a page is no operator.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self._allowed = frozenset(map(_plain, settings.allow_hosts))
        self._listens_on = _plain(settings.host)
        self._pages, self._has_keys = frozenset(map(str.lower, settings.cors)), settings.key_file is not None
        self._any_host = settings.uds is not None or (settings.key_file is not None and not self._allowed)

    def check_host(self, headers: Mapping[str, str]) -> None:
        """Raises RefusedError where a request is for a host other than this server."""
        given = headers.get("host")
        if self._any_host or given is None:  # every browser sends one
            return
        host = _host_of(given)
        if host is None or not self._is_ours(host):
            raise RefusedError(
                "forbidden", f"this server is not the host {given[:80]!r}: --allow-host NAME has it answer to a name"
            )

    def check_page(self, headers: Mapping[str, str], method: str, changes: bool = False) -> None:
        """Raises RefusedError where a page of another origin asks for more than reading, or than `--cors` permits."""
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if method in SAFE_METHODS or site in ("same-origin", "none"):
            return
        if self._may_ask(origin) and (self._has_keys or not changes):
            return
        if site is None and (origin is None or self._is_own(origin, headers.get("host"))):
            return
        raise RefusedError("forbidden", f"pages of {(origin or 'another origin')[:80]} may not ask this server")

    def cross_origin(self, headers: Mapping[str, str]) -> dict[str, str]:
        """The response headers that let a page of `--cors` read the answer; none for other pages."""
        if not self._pages:
            return {}
        vary = {"vary": "origin"}
        origin = headers.get("origin")
        if origin is None or not self._may_ask(origin):
            return vary
        return vary | {"access-control-allow-origin": origin, "access-control-expose-headers": TOLD_HEADERS}

    def preflight(self, headers: Mapping[str, str], method: str) -> dict[str, str] | None:
        """The response headers for a CORS preflight of a page of `--cors`; None for other requests and pages."""
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
        """Whether an origin is this server, by the name that the client used or a proxy's."""
        authority = origin.lower().partition("://")[2]
        return authority != "" and (authority == (host or "").lower() or _host_of(authority) in self._allowed)


def check_media_type(headers: Mapping[str, str]) -> None:
    """Raises RefusedError for a body of a type that a form of any page can send: routes that change something take
    JSON."""
    given = headers.get("content-type", "")
    if given and not JSON.fullmatch(given.strip()):
        raise RefusedError(
            "unsupported_type", f"the body is of type {given[:80]!r}: say 'content-type: application/json'"
        )


def _host_of(authority: str) -> str | None:
    """The host of HOST:PORT, normalised; None where it is none."""
    found = AUTHORITY.fullmatch(authority)
    return _plain(found.group(1)) if found else None


def _plain(host: str) -> str:
    return host.strip("[]").removesuffix(".").lower()
