"""Reads the bodies of requests within limits of time, size and memory, and decodes them beside the event loop."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
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
        self.settings = settings
        self.max_body_size, self._max_body_values = settings.max_body_size, settings.max_body_values
        self._max_held_bytes, self._held = settings.max_held_bytes, 0
        self._read_seconds = settings.read_seconds
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prunetime-bodies")

    async def read(self, scope: Mapping[str, Any], receive: Receive) -> bytes:
        """Reads a body, whose bytes count as held until `release`.

        Raises RefusedError, with nothing held, where the body is too large or too slow, where too many bytes are held,
        and where the client has left.
        """
        parts: list[bytes] = []
        try:
            async for part in self._parts(scope, receive):
                parts.append(part)
                self._held += len(part)
                if self._held > self._max_held_bytes:
                    raise self._too_many_held()
        except BaseException:
            self.release(sum(map(len, parts)))
            raise
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _parts(self, scope: Mapping[str, Any], receive: Receive) -> AsyncIterator[bytes]:
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RefusedError("client_left", "the client has left")
            part = message.get("body", b"")
            size += len(part)
            if size > self.max_body_size:
                raise self.too_large()
            yield part
            if not message.get("more_body"):
                return
            if LATE in scope:
                raise RefusedError(
                    "request_timeout",
                    f"in {self._read_seconds:g} s {size} bytes of the body came: send it faster, or raise "
                    "--read-seconds",
                )

    def release(self, size: int) -> None:
        """Stops counting bytes of a body as held."""
        self._held -= size

    async def decompress(self, body: bytes, encoding: str) -> bytes:
        """Decompresses a body, whose content counts as held from now on in the place of `body`.

        Raises RefusedError, with `body` still held, where the body is damaged, its content too large, or too many bytes
        are held.
        """
        loop = asyncio.get_running_loop()
        content = await loop.run_in_executor(self._thread, decompressed, body, encoding, self.max_body_size)
        more = len(content) - len(body)
        if self._held + more > self._max_held_bytes:
            raise self._too_many_held()
        self._held += more
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
        if self._held + size > self._max_held_bytes:
            raise self._too_many_held()
        self._held += size

    def stop(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def too_large(self) -> RefusedError:
        return RefusedError("too_large", f"the body is larger than the limit of {self.max_body_size} bytes")

    def _too_many_held(self) -> RefusedError:
        message = f"bodies of more than {self._max_held_bytes} bytes are being read and answered"
        return RefusedError("overloaded", message, 1.0)

    def _decode_large(self, body: bytes, kind: type[T]) -> T:
        """Decodes a large body. Values are counted first, because the decoder holds the GIL: for little time where the
        body is text, for a third of a second where it is 1.3 million empty lists."""
        if has_more_values(body, self._max_body_values):
            raise RefusedError(
                "too_large",
                f"the body has more than {self._max_body_values} values (strings, numbers, lists and objects)",
            )
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
