"""Over TLS, with a certificate that is renewed while the server runs."""

from __future__ import annotations

import signal
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
import trustme
from grpc_client import PAIRS, infer_request, values
from grpc_client import Client as GrpcClient
from served import Served
from waiting import PATIENCE, eventually

from prunetime import Client

Serve = Callable[..., Served]


def issue(authority: trustme.CA, folder: Path) -> tuple[Path, Path]:
    """Files of a new certificate and its key, in place of those there are."""
    made = authority.issue_cert("localhost")
    chain, key = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(b"".join(part.bytes() for part in made.cert_chain_pems))
    key.write_bytes(made.private_key_pem.bytes())
    return chain, key


def serial(port: int, authority: trustme.CA) -> str:
    """Of the certificate that a new connection is shown."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.set_alpn_protocols(["http/1.1", "h2"])  # gRPC takes no connection that does not offer the latter
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        return str(secure.getpeercert()["serialNumber"])


@pytest.mark.parametrize("processes", ["1", "2"])
def test_clients_trust_it_and_a_renewed_certificate_is_used(
    serve: Serve, artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: str
) -> None:
    authority = trustme.CA()
    chain, key = issue(authority, tmp_path)
    words = ("--tls-cert", chain, "--tls-key", key, "--processes", processes, "--grpc-port", "0")
    served = serve(artifacts / "pairs", *words)
    over_grpc = served.grpc_port
    assert f"at https://127.0.0.1:{served.port}" in served.said
    trusted = tmp_path / "authority.pem"
    trusted.write_bytes(authority.cert_pem.bytes())
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    with Client(f"https://localhost:{served.port}") as client:
        assert len(client.rank("red sofa", ["a sofa with red legs", "lamp"])) == 2
    credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    with GrpcClient(over_grpc, credentials) as client:
        assert values(client.ask("ModelInfer", infer_request("pairs", PAIRS)))["score"][0] == [2]
    first = serial(served.port, authority)
    assert serial(over_grpc, authority) == first
    issue(authority, tmp_path)
    served.signal(signal.SIGHUP)
    eventually(lambda: "reloaded" in served.said)
    for _ in range(6):
        assert serial(served.port, authority) != first
        assert serial(over_grpc, authority) != first
    second = serial(served.port, authority)
    issue(authority, tmp_path)
    key.write_text("no key")  # of the new certificate
    served.signal(signal.SIGHUP)
    eventually(lambda: "cannot use the certificate" in served.said)
    assert serial(served.port, authority) == serial(over_grpc, authority) == second
    with GrpcClient(over_grpc, credentials) as client:
        assert values(client.ask("ModelInfer", infer_request("pairs", PAIRS)))["score"][0] == [2]


def test_what_is_no_certificate_is_said_at_once(serve: Serve, artifacts: Path, tmp_path: Path) -> None:
    chain, key = issue(trustme.CA(), tmp_path)
    key.write_bytes(trustme.CA().issue_cert("localhost").private_key_pem.bytes())
    for words, says in (
        (("--tls-cert", chain, "--tls-key", key), "cannot use the certificate"),
        (("--tls-cert", chain, "--tls-key", tmp_path / "none"), "cannot use the certificate"),
        (("--tls-cert", chain), "needs both"),
    ):
        code, said = serve(artifacts / "pairs", *words).stop()
        assert code == 2
        assert says in said
        assert "Traceback" not in said


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_connection_without_a_handshake_is_closed(
    serve: Serve, artifacts: Path, tmp_path: Path, processes: str
) -> None:
    chain, key = issue(trustme.CA(), tmp_path)
    words = ("--tls-cert", chain, "--tls-key", key, "--processes", processes, "--read-seconds", "0.3")
    served = serve(artifacts / "pairs", *words)
    for sent in (b"", b"\x16\x03", b"GET / HTTP/1.1\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE) as silent:
            silent.sendall(sent)
            while silent.recv(100):  # at most an alert
                pass
    assert "Traceback" not in served.said
