"""`tls.mode: dynamicCa`: a gateway that looks into its clients' TLS, directly and behind CONNECT.

Source: spec/config.md sections 1.3, 1.4 and 4.4.
"""

from __future__ import annotations

import socket
import ssl
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.support.authority import Authority
from tests.support.client import fetch
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.octets import read_all, read_exactly
from tests.support.upstream import Answer, Upstream


@dataclass
class Running:
    direct: int
    proxy: int
    trust: ssl.SSLContext
    upstream: Upstream
    gateway: GatewayProcess


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    inner, outer = Authority("upstreams"), Authority("gateway")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "up.pem").write_bytes(inner.issue(["localhost"]).any())
        (folder / "roots.pem").write_text(inner.root)
        (folder / "ca.crt").write_text(outer.root)
        form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / "ca.key").write_bytes(outer.key.private_bytes(*form))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "up.pem")
        upstream = Upstream(lambda seen: Answer(200, [], b"secret"), tls=context)
        direct, proxy = free_ports(2)
        files = {"cert": str(folder / "ca.crt"), "key": str(folder / "ca.key")}
        tls = {"mode": "dynamicCa", **files}
        seen = {"request": {"set": {"x-inspected": "'yes'"}}}
        route = {
            "policies": {"transformations": seen},
            "backends": [
                {"dynamic": {}, "policies": {"backendTLS": {"root": str(folder / "roots.pem")}}}
            ],
        }
        config = {
            "binds": [
                {
                    "port": direct,
                    "listeners": [
                        {
                            "protocol": "HTTPS",
                            "hostname": "*.example.com",
                            "tls": {**tls, "keyExchangeGroups": ["P-256"]},
                            "routes": [{"policies": {"directResponse": {"status": 204}}}],
                        }
                    ],
                },
                {"port": proxy, "tunnelProtocol": "connect", "listeners": []},
                {
                    "mode": "internal",
                    "listeners": [{"protocol": "HTTPS", "tls": tls, "routes": [route]}],
                },
            ]
        }
        trust = ssl.create_default_context(cadata=outer.root)
        with upstream, GatewayProcess(config, workers=1) as gateway:
            yield Running(direct, proxy, trust, upstream, gateway)


def test_every_name_of_the_listener_has_a_certificate(running: Running) -> None:
    for name in ("a.example.com", "b.example.com", "x.y.example.com"):
        assert fetch(running.direct, host=name, tls=running.trust).status == 204
    for name in ("example.org", "example.com"):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            fetch(running.direct, host=name, tls=running.trust)


def test_the_groups_that_were_chosen(running: Running) -> None:
    only = ssl.create_default_context()
    only.check_hostname, only.verify_mode = False, ssl.CERT_NONE
    only.set_ecdh_curve("X25519")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        fetch(running.direct, host="a.example.com", tls=only)
    only.set_ecdh_curve("prime256v1")
    assert fetch(running.direct, host="a.example.com", tls=only).status == 204


def test_tls_behind_connect_is_looked_into(running: Running) -> None:
    target = f"localhost:{running.upstream.port}"
    with socket.create_connection(("127.0.0.1", running.proxy), timeout=20) as sock:
        sock.sendall(f"CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            part = read_exactly(sock, 1)
            assert part, head
            head += part
        assert head.startswith(b"HTTP/1.1 200")
        with running.trust.wrap_socket(sock, server_hostname="localhost") as inside:
            leaf = x509.load_der_x509_certificate(inside.getpeercert(binary_form=True) or b"")
            inside.sendall(
                f"GET /a HTTP/1.1\r\nhost: {target}\r\nconnection: close\r\n\r\n".encode()
            )
            assert read_all(inside).endswith(b"secret")
    assert leaf.issuer.rfc4514_string() == "CN=gateway"
    (seen,) = running.upstream.take()
    assert (seen.target, seen.get("x-inspected")) == ("/a", "yes")
