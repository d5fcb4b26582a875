"""Bearer keys from a file, one a line; lines that begin with # are comments."""

from __future__ import annotations

import hmac
from hashlib import sha256
from pathlib import Path

from prunetime.errors import InputError
from prunetime.serve.errors import RefusedError


class Keys:
    """`reload` reads the file again: a key that is gone from it is refused from then on."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._digests: tuple[bytes, ...] = ()
        self.reload()

    def reload(self) -> None:
        """Raises InputError where the file has no key, and keeps those there were."""
        if self._file is None:
            return
        try:
            lines = [line.strip() for line in self._file.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read the keys in {self._file}: {error}") from error
        found = [line for line in lines if line and not line.startswith("#")]
        if not found:
            raise InputError(f"{self._file} has no key: write one a line")
        self._digests = tuple(sha256(key.encode()).digest() for key in found)

    def check(self, authorization: str | None) -> None:
        """Raises RefusedError where the header `Authorization` has none of the keys, in the same time for each."""
        if self._file is None:
            return
        scheme, _, key = (authorization or "").partition(" ")
        digest = sha256(key.strip().encode()).digest()
        known = [hmac.compare_digest(digest, each) for each in self._digests]  # all of them: no early end
        if scheme.lower() != "bearer" or not any(known):
            raise RefusedError("unauthorized", "give a key: Authorization: Bearer KEY")
