"""The TLS certificate of a server, which is read again after a renewal."""

from __future__ import annotations

import ssl
from pathlib import Path

from prunetime.errors import InputError
from prunetime.serve.settings import ServeSettings


class Certificate:
    """A certificate with its private key. All HTTPS connections share `context`; new ones use the pair that was read
    last. `content` has the bytes of chain and key for gRPC, which makes a context of its own."""

    def __init__(self, chain: Path, private_key: Path) -> None:
        self._files = chain, private_key
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.reload()

    @classmethod
    def of(cls, settings: ServeSettings) -> Certificate | None:
        """Reads the certificate of the settings; None where they have none."""
        if settings.certificate is None or settings.private_key is None:
            return None
        return cls(settings.certificate, settings.private_key)

    def reload(self) -> None:
        """Reads both files again. Raises InputError, and keeps the old pair, where they are no certificate and its
        key."""
        try:
            # Elsewhere first: half of a pair that does not fit would stay in the context.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*self._files)
        except OSError as error:  # ssl.SSLError is one
            chain, private_key = self._files
            raise InputError(f"cannot use the certificate {chain} with the key {private_key}: {error}") from error
        self.context.load_cert_chain(*self._files)
        chain, private_key = self._files
        self.content = chain.read_bytes(), private_key.read_bytes()
