"""Reads the bodies of requests within limits of time, size and memory, and decodes them beside the event loop."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import msgspec

from prunetime.serve.errors import RefusedError
from prunetime.serve.http.compression import decompressed
from prunetime.serve.settings import ServeSettings

T = TypeVar("T")
Receive = Callable[[], Awaitable[Mapping[str, Any]]]

LATE = "prunetime.late"
"""The key in the ASGI scope of a request that has not arrived in time (`connection`)."""

AT_ONCE_BYTES = 16 << 10
"""The largest body, in bytes, that is decoded on the event loop: another thread would take longer to start."""

SHOWN_CHARACTERS = 300
"""The most characters of a decoder's message that a refusal shows: it may quote the body."""


class Bodies:
    """The reader of all bodies of a process, which share a limit of bytes that are held in memory."""

    def __init__(self, settings: ServeSettings) -> None:
        self.settings, self._held = settings, 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prunetime-bodies")

    async def read(self, scope: Mapping[str, Any], receive: Receive) -> bytes:
        """Reads a body, whose bytes count as held until `release`.

        Raises RefusedError, with nothing held, where the body is too large or too slow, where too many bytes are held,
        and where the client has left.
        """
        parts: list[bytes] = []
        size = 0
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise RefusedError("client_left", "the client has left")
                part = message.get("body", b"")
                if size + len(part) > self.settings.max_body_size:
                    raise self.too_large()
                self.hold(len(part))
                size += len(part)
                parts.append(part)
                if not message.get("more_body"):
                    return b"".join(parts)
                if LATE in scope:
                    came = f"in {self.settings.read_seconds:g} s {size} bytes of the body came"
                    raise RefusedError("request_timeout", f"{came}: send it faster, or raise --read-seconds")
        except BaseException:
            self.release(size)
            raise

    def release(self, size: int) -> None:
        """Stops counting bytes of a body as held."""
        self._held -= size

    async def decompress(self, body: bytes, encoding: str) -> bytes:
        """Decompresses a body, whose content counts as held from now on in the place of `body`.

        Raises RefusedError, with `body` still held, where the body is damaged, its content too large, or too many bytes
        are held.
        """
        loop = asyncio.get_running_loop()
        content = await loop.run_in_executor(self._thread, decompressed, body, encoding, self.settings.max_body_size)
        self.hold(len(content) - len(body))
        return content

    async def decode(self, body: bytes, kind: type[T]) -> T:
        """Decodes JSON of type `kind`. Raises RefusedError where the body is none, or has too many values."""
        large = len(body) > AT_ONCE_BYTES
        return await self.parse(body, partial(self._decode_large if large else decoded, kind=kind))

    async def parse(self, body: bytes, parser: Callable[[bytes], T]) -> T:
        """Parses a body, in another thread where it is large."""
        if len(body) <= AT_ONCE_BYTES:
            return parser(body)
        return await asyncio.get_running_loop().run_in_executor(self._thread, parser, body)

    def hold(self, size: int) -> None:
        """Counts bytes of a body as held until `release`; raises RefusedError where too many are."""
        if self._held + size > self.settings.max_held_bytes:
            message = f"bodies of more than {self.settings.max_held_bytes} bytes are being read and answered"
            raise RefusedError("overloaded", message, 1.0)
        self._held += size

    def stop(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def too_large(self) -> RefusedError:
        return RefusedError("too_large", f"the body is larger than the limit of {self.settings.max_body_size} bytes")

    def _decode_large(self, body: bytes, kind: type[T]) -> T:
        """Decodes a large body. Values are counted first, because the decoder holds the GIL: for little time where the
        body is text, for a third of a second where it is 1.3 million empty lists."""
        limit = self.settings.max_body_values
        if has_more_values(body, limit):
            kinds = "strings, numbers, lists and objects"
            raise RefusedError("too_large", f"the body has more than {limit} values ({kinds})")
        return decoded(body, kind)


def has_more_values(body: bytes, limit: int) -> bool:
    """Whether a JSON text has more than `limit` strings and commas (outside of strings) together. The count stops at
    the limit.

    A JSON text has at most one value more than commas, but for lists and objects that are alone in theirs, of which the
    decoder's limit of nesting leaves few.
    """
    if b"\\" in body:
        body = body.replace(rb"\\", b"").replace(rb"\"", b"")  # what is left of quotes begins or ends a string
    found, start = 0, 0
    while found <= limit:
        opening = body.find(b'"', start)
        found += body.count(b",", start, len(body) if opening < 0 else opening)
        if opening < 0:
            break
        found += 1
        start = body.find(b'"', opening + 1) + 1
        if not start:  # a string that does not end: no JSON
            break
    return found > limit


def decoded(body: bytes, kind: type[T]) -> T:
    """Decodes JSON of type `kind`. Raises RefusedError where the body is none."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise _unusable(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RefusedError("bad_request", f"the body is no JSON: {str(error)[:SHOWN_CHARACTERS]}") from None


def converted(content: Any, kind: type[T]) -> T:
    """Converts decoded JSON to type `kind`. Raises RefusedError where it is none."""
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise _unusable(error) from None


def _unusable(error: msgspec.ValidationError) -> RefusedError:
    message = str(error)[:SHOWN_CHARACTERS]
    return RefusedError("unusable", message, field=_field(message))


def _field(message: str) -> str | None:
    """The field that a msgspec error is about: an unknown, missing or invalid one."""
    found = re.search(r"field `(\w+)`", message) or re.search(r"`\$\.(\w+)", message)
    return found[1][:80] if found else None
