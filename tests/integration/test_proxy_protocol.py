"""PROXY protocol on HTTP, TLS and TCP ports: who the client is, and what is refused.

Source: spec/config.md section 1.10 (`proxyProtocol`); haproxy's proxy-protocol.txt.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.authority import Authority
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.octets import TcpUpstream, read_all, read_exactly

# ssl.wrap_socket forgets to close its half-made socket when the peer resets before the handshake.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning"
)
SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
REQUEST = b"GET / HTTP/1.1\r\nhost: h.test\r\nconnection: close\r\n\r\n"
V1 = b"PROXY TCP4 203.0.113.7 198.51.100.2 5555 443\r\n"
WHO = """toJson({"a": source.address, "p": source.port, "ra": source.rawAddress,
 "d": destination.address, "dp": destination.port})"""


def v2(source: str, target: str, ports: tuple[int, int], *, local: bool = False) -> bytes:
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    body = socket.inet_pton(family, source) + socket.inet_pton(family, target)
    body += struct.pack("!HH", *ports) + b"\x04\x00\x01\x00"
    kind = 0x21 if family is socket.AF_INET6 else 0x11
    return SIGNATURE + bytes((0x20 if local else 0x21, kind)) + struct.pack("!H", len(body)) + body


V2 = v2("203.0.113.8", "198.51.100.3", (6666, 8443))
V2_IPV6 = v2("2001:db8::1", "2001:db8::2", (7777, 443))
BODY = {"status": 200, "bodyExpression": WHO}
Ports = dict[str, int]


@pytest.fixture(scope="module", params=["v1", "v2", "all", "optional"])
def ports(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """`(kind, authority, {protocol: port})` of a gateway."""
    folder: Path = tmp_path_factory.mktemp("tls")
    authority = Authority()
    pair = authority.issue(["h.test"])
    (folder / "crt").write_text(pair.cert)
    (folder / "key").write_text(pair.key)
    http, tls, tcp = free_ports(3)
    kind = request.param
    policy = {"version": "all", "mode": "optional"} if kind == "optional" else {"version": kind}
    routes = {"routes": [{"policies": {"directResponse": BODY}}]}
    files = {"cert": str(folder / "crt"), "key": str(folder / "key")}
    with TcpUpstream() as up:
        config = {
            "frontendPolicies": {"proxyProtocol": policy},
            "binds": [
                {"port": http, "listeners": [routes]},
                {"port": tls, "listeners": [{"protocol": "HTTPS", "tls": files, **routes}]},
                {
                    "port": tcp,
                    "listeners": [
                        {"protocol": "TCP", "tcpRoutes": [{"backends": [{"host": up.address}]}]}
                    ],
                },
            ],
        }
        with GatewayProcess(config):
            yield kind, authority, {"http": http, "tls": tls, "tcp": tcp}


@contextlib.contextmanager
def closed_is_fine() -> Iterator[None]:
    """However the end of the connection shows; a connection that stays open does not pass."""
    try:
        yield
    except TimeoutError:
        raise
    except OSError:
        return


def ask(port: int, header: bytes, tls: ssl.SSLContext | None = None) -> dict[str, Any] | None:
    """What the gateway says of the client; None when it closed the connection."""
    whole = b""
    with contextlib.ExitStack() as stack, closed_is_fine():
        sock: socket.socket = stack.enter_context(socket.create_connection(("127.0.0.1", port), 20))
        sock.sendall(header)
        if tls is not None:
            sock = stack.enter_context(tls.wrap_socket(sock, server_hostname="h.test"))
        sock.sendall(REQUEST)
        whole = read_all(sock)
    body: dict[str, Any] | None = orjson.loads(whole.partition(b"\r\n\r\n")[2]) if whole else None
    return body


V1_SEEN = {"a": "203.0.113.7", "p": 5555, "ra": "127.0.0.1", "d": "198.51.100.2", "dp": 443}
V2_SEEN = {"a": "203.0.113.8", "p": 6666, "ra": "127.0.0.1", "d": "198.51.100.3", "dp": 8443}


@pytest.mark.parametrize("scheme", ["http", "tls"])
@pytest.mark.parametrize(
    ("header", "versions", "seen"), [(V1, {"v1"}, V1_SEEN), (V2, {"v2"}, V2_SEEN)], ids=["v1", "v2"]
)
def test_the_header_names_the_client(
    header: bytes, versions: set[str], seen: dict[str, Any], scheme: str, ports: Any
) -> None:
    kind, authority, numbers = ports
    tls = ssl.create_default_context(cadata=authority.root) if scheme == "tls" else None
    expected = seen if kind in versions | {"all", "optional"} else None
    assert ask(numbers[scheme], header, tls) == expected


def test_ipv6_and_local(ports: Any) -> None:
    kind, _, numbers = ports
    answer = ask(numbers["http"], V2_IPV6)
    local = ask(numbers["http"], v2("10.0.0.1", "10.0.0.2", (1, 2), local=True))
    if kind == "v1":
        assert answer is None
        assert local is None
    else:
        assert answer is not None
        assert local is not None
        assert (answer["a"], answer["p"]) == ("2001:db8::1", 7777)
        # LOCAL is the proxy itself, checking health: its addresses do not count.
        assert local["a"] == "127.0.0.1"


def test_without_a_header(ports: Any) -> None:
    kind, authority, numbers = ports
    tls = ssl.create_default_context(cadata=authority.root)
    for answer in (ask(numbers["http"], b""), ask(numbers["tls"], b"", tls)):
        if kind == "optional":
            assert answer is not None
            assert answer["a"] == "127.0.0.1"
        else:
            assert answer is None


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY TCP4 203.0.113.7 198.51.100.2 5555\r\n",
        b"PROXY TCP4 999.0.0.1 198.51.100.2 5555 443\r\n",
        b"PROXY TCP4 203.0.113.7 198.51.100.2 5555 443" + b" " * 100 + b"\r\n",
        SIGNATURE + b"\x31\x11\x00\x0c" + bytes(12),
        SIGNATURE + b"\x21\x11\x00\x04" + bytes(4),
    ],
    ids=["v1-short", "v1-address", "v1-long", "v2-version", "v2-short"],
)
def test_a_malformed_header_closes(header: bytes, ports: Any) -> None:
    assert ask(ports[2]["http"], header) is None


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
def test_split_at_every_octet(header: bytes, ports: Any) -> None:
    kind, _, numbers = ports
    if kind != "all":
        pytest.skip("one configuration is enough for this")
    for cut in range(1, len(header)):
        with socket.create_connection(("127.0.0.1", numbers["http"]), 20) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(header[:cut])
            sock.sendall(header[cut:] + REQUEST)
            assert read_all(sock).startswith(b"HTTP/1.1 200 "), cut


def test_nothing_of_it_reaches_a_tcp_upstream(ports: Any) -> None:
    kind, _, numbers = ports
    header = V1 if kind == "v1" else V2
    with socket.create_connection(("127.0.0.1", numbers["tcp"]), 20) as sock:
        sock.sendall(header + b"payload")
        assert read_exactly(sock, 7) == b"payload"
