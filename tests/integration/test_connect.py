"""CONNECT back into the gateway: by HTTP/1.1 and HTTP/2, to binds with and without a port; and what
a proxy of the mesh says before the connections that it hands on.

Source: spec/config.md sections 1.3 and 1.10; spec istio sections 1.4 and 2.2; agentgateway's
connect.rs.
"""

from __future__ import annotations

import socket
import ssl
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hyperframe.frame import DataFrame

from tests.support.authority import Authority
from tests.support.client import fetch
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.h2 import RawH2
from tests.support.octets import read_all
from tests.support.programs import needs_program
from tests.support.upstream import Upstream

PROXY, DENIED, CLEAR, SECURE, SANDWICH, MODE = free_ports(6)
WHO = """'' + source.identity.namespace + '/' + source.identity.serviceAccount + ' '
 + source.address + ' ' + destination.address"""
SPIFFE = b"spiffe://cluster.local/ns/shop/sa/cart"


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authority]:
    folder: Path = tmp_path_factory.mktemp("connect")
    authority = Authority()
    pair = authority.issue(["app.test"])
    (folder / "crt").write_text(pair.cert)
    (folder / "key").write_text(pair.key)
    files = {"cert": str(folder / "crt"), "key": str(folder / "key")}

    def says(body: str) -> dict[str, Any]:
        answer = {"status": 200, "bodyExpression": body}
        return {"routes": [{"policies": {"directResponse": answer}}]}

    with Upstream() as app:
        echo = {"routes": [{"backends": [{"host": app.address}]}]}
        config = {
            "binds": [
                {"port": PROXY, "tunnelProtocol": "connect", "listeners": [says("'own'")]},
                {"port": DENIED, "listeners": [says("'own'")]},
                {"port": CLEAR, "mode": "internal", "listeners": [echo]},
                {
                    "port": SECURE,
                    "listeners": [{"protocol": "HTTPS", "tls": files, **says("'by tls'")}],
                },
                {
                    "mode": "internal",
                    "listeners": [
                        says("'any ' + destination.hostname + ' ' + source.connectHeaders['x-a']")
                    ],
                },
                {"port": SANDWICH, "tunnelProtocol": "proxy", "listeners": [says(WHO)]},
            ],
        }
        with GatewayProcess(config):
            yield authority


def dial(authority: str, port: int = PROXY) -> tuple[bytes, socket.socket]:
    """The head of the answer, and the connection behind it."""
    sock = socket.create_connection(("127.0.0.1", port), 20)
    sock.sendall(f"CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\nx-a: b\r\n\r\n".encode())
    head = b""
    while b"\r\n\r\n" not in head:
        part = sock.recv(1)
        if not part:
            break
        head += part
    return head, sock


REQUEST = b"POST / HTTP/1.1\r\nhost: app.test\r\nconnection: close\r\ncontent-length: 4\r\n\r\nbody"


def test_into_a_bind_without_a_socket(roots: Authority) -> None:
    head, sock = dial(f"app.test:{CLEAR}")
    with sock:
        assert head.startswith(b"HTTP/1.1 200")
        sock.sendall(REQUEST)
        assert read_all(sock).endswith(b"body")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", CLEAR), 20)


def test_into_the_wildcard_bind(roots: Authority) -> None:
    _, sock = dial("somewhere.test:4711")
    with sock:
        sock.sendall(REQUEST)
        assert read_all(sock).endswith(b"any somewhere.test b")


def test_into_a_bind_with_tls(roots: Authority) -> None:
    _, sock = dial(f"app.test:{SECURE}")
    context = ssl.create_default_context(cadata=roots.root)
    with context.wrap_socket(sock, server_hostname="app.test") as inner:
        inner.sendall(REQUEST)
        assert b"by tls" in inner.recv(65536)


def test_tunnels_in_tunnels_have_a_bound(roots: Authority) -> None:
    _, sock = dial(f"a.test:{PROXY}")
    with sock:
        for depth in range(2, 6):
            sock.sendall(
                f"CONNECT a.test:{PROXY} HTTP/1.1\r\nhost: a.test:{PROXY}\r\n\r\n".encode()
            )
            answer = sock.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200" if depth <= 4 else b"HTTP/1.1 400"), depth


@pytest.mark.parametrize(
    ("authority", "port", "status"),
    [("a.test", PROXY, b"400"), ("a.test:443", DENIED, b"405")],
)
def test_refusals(roots: Authority, authority: str, port: int, status: bytes) -> None:
    head, sock = dial(authority, port)
    sock.close()
    assert head.split()[1] == status


def test_other_requests_are_served_as_ever(roots: Authority) -> None:
    assert fetch(PROXY).body == b"own"


def test_by_http2(roots: Authority) -> None:
    with RawH2(PROXY) as client:
        head = [(b":method", b"CONNECT"), (b":authority", f"app.test:{CLEAR}".encode())]
        client.send(client.head(1, head, ends=False), DataFrame(1, REQUEST))
        seen = b""
        while not seen.endswith(b"body"):
            frame = client.read_frame()
            assert frame is not None
            if isinstance(frame, DataFrame):
                seen += frame.data


@needs_program("curl")
def test_curl_uses_it_as_its_proxy(roots: Authority) -> None:
    command = ["curl", "-sS", "--max-time", "20", "--proxytunnel", "-d", "by curl"]
    command += ["-x", f"http://127.0.0.1:{PROXY}", f"http://app.test:{CLEAR}/"]
    assert subprocess.run(command, capture_output=True, check=False).stdout == b"by curl"


def proxy_header(*identities: bytes) -> bytes:
    body = socket.inet_aton("10.0.0.7") + socket.inet_aton("10.1.0.1")
    body += struct.pack("!HH", 5555, 80)
    for identity in identities:
        body += b"\xd0" + struct.pack("!H", len(identity)) + identity
    return b"\r\n\r\n\x00\r\nQUIT\n\x21\x11" + struct.pack("!H", len(body)) + body


@pytest.mark.parametrize(
    ("identities", "ending"),
    [
        ((SPIFFE,), b"shop/cart 10.0.0.7 10.1.0.1"),
        ((SPIFFE, SPIFFE), b""),
        ((b"spiffe://cluster.local/nobody",), b""),
        ((b"\xff\xfe",), b""),
    ],
)
def test_the_sandwich_says_who_the_client_is(
    roots: Authority, identities: tuple[bytes, ...], ending: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", SANDWICH), 20) as sock:
        sock.sendall(proxy_header(*identities) + REQUEST)
        try:
            answer = read_all(sock)
        except ConnectionResetError:
            answer = b""
    assert answer.endswith(ending)
    assert bool(answer) == bool(ending)
