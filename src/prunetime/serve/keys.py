"""Bearer keys from a UTF-8 file: one a line, without white space around it; lines that begin with # are comments."""

from __future__ import annotations

import hmac
import logging
import re
import stat
from hashlib import sha256
from pathlib import Path

from prunetime.errors import InputError
from prunetime.serve.errors import RefusedError

LOG = logging.getLogger(__name__)

KEY = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
"""A key is printable ASCII, which every client sends unchanged in a header."""

WHITE_SPACE = " \t\r"


class Keys:
    """The digests of the keys in a file. After `reload`, keys that are no longer in the file are refused."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._digests: tuple[bytes, ...] = ()
        self.reload()

    def reload(self) -> None:
        """Reads the file again. Raises InputError, and keeps the old keys, where it has no key or a line that cannot be
        one."""
        if self._file is None:
            return
        try:
            content = self._file.read_bytes().decode("utf-8-sig")
            mode = self._file.stat().st_mode
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read the keys in {self._file}: {error}") from error
        lines = [line.strip(WHITE_SPACE) for line in content.split("\n")]
        found = {number: line for number, line in enumerate(lines, 1) if line and not line.startswith("#")}
        for number, key in found.items():
            if not KEY.fullmatch(key):
                raise InputError(
                    f"line {number} of {self._file} is no key: a header carries letters, digits and signs of ASCII only"
                )
        if not found:
            raise InputError(f"{self._file} has no key: write one a line")
        if mode & stat.S_IROTH:
            LOG.warning("every user of this machine can read the keys in %s: chmod 600 %s", self._file, self._file)
        self._digests = tuple(sha256(key.encode()).digest() for key in found.values())

    def check(self, authorization: str | None) -> None:
        """Raises RefusedError where the header `Authorization` carries none of the keys; takes the same time for each
        key."""
        if self._file is None:
            return
        scheme, _, key = (authorization or "").partition(" ")
        digest = sha256(key.strip(WHITE_SPACE).encode()).digest()
        known = [hmac.compare_digest(digest, each) for each in self._digests]  # all of them: no early end
        if scheme.lower() != "bearer" or not any(known):
            raise RefusedError("unauthorized", "give a key: Authorization: Bearer KEY")
