"""Compressed bodies of requests and responses: gzip and deflate."""

from __future__ import annotations

import zlib

from prunetime.serve.errors import RefusedError

ENCODINGS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""The values of `Content-Encoding` (RFC 9110, 8.4.1) with zlib's window bits for them; deflate is the zlib format."""

LEVEL = 1
"""The fastest level: more work hardly makes numbers smaller."""


def check_encoding(encoding: str) -> None:
    """Raises RefusedError for a body in an encoding that is not read."""
    if encoding not in ("identity", *ENCODINGS):
        raise RefusedError(
            "unsupported_encoding",
            f"a body in {encoding[:40]} is not read: send it as it is, or in {' or '.join(ENCODINGS)}",
        )


def decompressed(body: bytes, encoding: str, limit: int) -> bytes:
    """Decompresses a body. Raises RefusedError where it is damaged, or its content larger than `limit` bytes."""
    if encoding not in ENCODINGS:
        return body
    reader = zlib.decompressobj(ENCODINGS[encoding])
    try:
        content = reader.decompress(body, limit + 1)
    except zlib.error as error:
        raise RefusedError("bad_request", f"the body is not in {encoding}: {error}") from None
    if len(content) > limit:
        raise RefusedError("too_large", f"the body in {encoding} holds more than the limit of {limit} bytes")
    if not reader.eof:
        raise RefusedError("bad_request", f"the body in {encoding} breaks off")
    if reader.unused_data:
        raise RefusedError("bad_request", f"the body in {encoding} goes on after its end")
    return content


def compressed(content: bytes, encoding: str) -> bytes:
    """Compresses `content` with one of `ENCODINGS`."""
    writer = zlib.compressobj(LEVEL, zlib.DEFLATED, ENCODINGS[encoding])
    return writer.compress(content) + writer.flush()


def accepted_encoding(header: str) -> str | None:
    """The first of `ENCODINGS` that `Accept-Encoding` names with a weight above 0; None where there is none."""
    for part in header.lower().replace(" ", "").split(","):
        encoding, _, weight = part.partition(";q=")
        if encoding in ENCODINGS and (not weight or weight.strip("0.")):
            return encoding
    return None
