"""The certificate of a server, which is read again when it has been renewed."""

from __future__ import annotations

import ssl
from pathlib import Path

from prunetime.errors import InputError
from prunetime.serve.settings import ServeSettings


class Certificate:
    """`context` is that of all connections; new ones are made with what was read last. `content` is the same for gRPC,
    which makes a context of its own: the bytes of the chain and of the private key."""

    def __init__(self, chain: Path, private_key: Path) -> None:
        self._files = chain, private_key
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.reload()

    @classmethod
    def of(cls, settings: ServeSettings) -> Certificate | None:
        """None where they have none."""
        if settings.certificate is None or settings.private_key is None:
            return None
        return cls(settings.certificate, settings.private_key)

    def reload(self) -> None:
        """Raises InputError where the two files are no certificate and its key, and keeps what there was."""
        try:
            # Elsewhere first: half of a pair that does not fit would stay in the context.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*self._files)
        except OSError as error:  # ssl.SSLError is one
            chain, private_key = self._files
            raise InputError(f"cannot use the certificate {chain} with the key {private_key}: {error}") from error
        self.context.load_cert_chain(*self._files)
        chain, private_key = self._files
        self.content = chain.read_bytes(), private_key.read_bytes()
