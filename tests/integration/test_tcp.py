"""TCP listeners, TLS passthrough and TLS termination in front of TCP routes.

Source: spec/config.md sections 1.2, 1.10 (networkAuthorization), 2.1 and 2.3.
"""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.authority import Authority
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.octets import TcpUpstream, echo, read_all, read_exactly

PLAIN, SECURE, DEAD, BACK, DENIED, FIRST, WEIGHTED = free_ports(7)


class Peers:
    """Certificates, and contexts made of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority()
        (folder / "root").write_text(self.authority.root)

    def files(self, *names: str) -> dict[str, str]:
        pair, stem = self.authority.issue(names), names[0].replace("*", "any")
        paths = {"cert": self.folder / f"{stem}.crt", "key": self.folder / f"{stem}.key"}
        paths["cert"].write_text(pair.cert)
        paths["key"].write_text(pair.key)
        return {name: str(path) for name, path in paths.items()}

    def server(self, *names: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        files = self.files(*names)
        context.load_cert_chain(files["cert"], files["key"])
        return context

    def connect(self, port: int, name: str) -> ssl.SSLSocket:
        context = ssl.create_default_context(cadata=self.authority.root)
        raw = socket.create_connection(("127.0.0.1", port), 20)
        return context.wrap_socket(raw, server_hostname=name)


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Peers:
    return Peers(tmp_path_factory.mktemp("tls"))


def named(name: bytes) -> Any:
    """Serves its own name first, then echoes."""

    def serve(sock: socket.socket) -> None:
        sock.sendall(name)
        echo(sock)

    return serve


def listener(*addresses: str, **more: Any) -> dict[str, Any]:
    backends = [{"host": address} for address in addresses]
    return {"protocol": "TCP", "tcpRoutes": [{"backends": backends, **more}]}


@pytest.fixture(scope="module")
def gateway(peers: Peers) -> Iterator[GatewayProcess]:
    with (
        TcpUpstream() as up,
        TcpUpstream(named(b"exact|"), tls=peers.server("exact.test")) as exact,
        TcpUpstream(named(b"wild|"), tls=peers.server("*.wild.test")) as wild,
        TcpUpstream(named(b"plain|")) as plain,
        TcpUpstream(named(b"a")) as a,
        TcpUpstream(named(b"b")) as b,
    ):
        through = {
            "name": "through",
            "protocol": "TLS",
            "tcpRoutes": [
                {"hostnames": ["exact.test"], "backends": [{"host": exact.address}]},
                {"hostnames": ["*.wild.test"], "backends": [{"host": wild.address}]},
            ],
        }
        ended = {
            "name": "ended",
            "hostname": "ended.test",
            "protocol": "TLS",
            "tls": peers.files("ended.test"),
            "tcpRoutes": [{"backends": [{"host": plain.address}]}],
        }
        to_tls = {"backendTLS": {"root": str(peers.folder / "root"), "hostname": "exact.test"}}
        back = {"host": exact.address, "policies": to_tls}
        config = {
            "binds": [
                {"port": PLAIN, "listeners": [listener(up.address)]},
                {"port": SECURE, "listeners": [through, ended]},
                {"port": DEAD, "listeners": [listener(f"127.0.0.1:{free_ports(1)[0]}")]},
                {
                    "port": BACK,
                    "listeners": [{"protocol": "TCP", "tcpRoutes": [{"backends": [back]}]}],
                },
                {"port": FIRST, "listeners": [listener(plain.address)]},
                {"port": WEIGHTED, "listeners": [listener(a.address, b.address)]},
            ]
        }
        with GatewayProcess(config) as process:
            yield process


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), 20)


def test_octets_both_ways_and_half_close(gateway: GatewayProcess) -> None:
    before = gateway.metric("agentgateway_downstream_connections_total", bind=f"bind/{PLAIN}")
    with connect(PLAIN) as sock:
        sock.sendall(b"one")
        assert read_exactly(sock, 3) == b"one"
        sock.sendall(b"two")
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == b"two"
    labels = {"bind": f"bind/{PLAIN}", "protocol": "tcp"}
    gateway.wait_metric("agentgateway_downstream_connections_total", before + 1, **labels)
    gateway.wait_metric("agentgateway_downstream_received_bytes_total", 6, **labels)
    gateway.wait_metric("agentgateway_downstream_sent_bytes_total", 6, **labels)


@pytest.mark.usefixtures("gateway")
def test_a_server_that_speaks_first() -> None:
    with connect(FIRST) as sock:
        assert read_exactly(sock, 6) == b"plain|"


@pytest.mark.usefixtures("gateway")
def test_much_data_whole_and_in_order() -> None:
    data = bytes(range(256)) * 4096 * 8
    received = bytearray()
    with connect(PLAIN) as sock:
        sock.setblocking(False)
        left = memoryview(data)
        while len(received) < len(data):
            readable, writable, _ = select.select([sock], [sock] if left else [], [], 10)
            assert readable or writable
            if writable:
                left = left[sock.send(left[:65536]) :]
            if readable:
                received += sock.recv(65536)
    assert received == data


@pytest.mark.usefixtures("gateway")
def test_a_client_that_does_not_read_is_waited_for() -> None:
    """What is under way is bounded by buffers, so the sender comes to a stop."""
    with connect(PLAIN) as sock:
        sock.setblocking(False)
        sent, block = 0, bytes(65536)
        while select.select([], [sock], [], 0.5)[1]:
            sent += sock.send(block)
            assert sent < 64 * 1024 * 1024
        sock.setblocking(True)
        sock.shutdown(socket.SHUT_WR)
        assert len(read_all(sock)) == sent


@pytest.mark.usefixtures("gateway")
def test_an_upstream_that_is_down_closes() -> None:
    with connect(DEAD) as sock:
        assert read_all(sock) == b""


@pytest.mark.parametrize(
    ("name", "first"),
    [("exact.test", b"exact|"), ("a.wild.test", b"wild|"), ("ended.test", b"plain|")],
)
@pytest.mark.usefixtures("gateway")
def test_tls_by_server_name(name: str, first: bytes, peers: Peers) -> None:
    """Passed through, the certificate is the upstream's; terminated, it is the listener's."""
    with peers.connect(SECURE, name) as sock:
        certificate: Any = sock.getpeercert()
        expected = "*.wild.test" if "wild" in name else name
        assert certificate["subjectAltName"] == (("DNS", expected),)
        sock.sendall(b"ping")
        assert read_exactly(sock, len(first) + 4) == first + b"ping"


@pytest.mark.usefixtures("gateway")
def test_no_route_for_a_name_closes(peers: Peers) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        peers.connect(SECURE, "other.test").close()


@pytest.mark.usefixtures("gateway")
def test_upstream_tls_behind_a_plain_port() -> None:
    with connect(BACK) as sock:
        sock.sendall(b"x")
        assert read_exactly(sock, 7) == b"exact|x"


@pytest.mark.usefixtures("gateway")
def test_weights() -> None:
    seen = set()
    for _ in range(60):
        with connect(WEIGHTED) as sock:
            seen.add(read_exactly(sock, 1))
    assert seen == {b"a", b"b"}


def test_network_authorization_closes_the_connection() -> None:
    deny = [{"deny": 'cidr("127.0.0.0/8").containsIP(source.address)'}]
    with TcpUpstream(named(b"in")) as up:
        config = {
            "frontendPolicies": {"networkAuthorization": {"rules": deny}},
            "binds": [{"port": DENIED, "listeners": [listener(up.address)]}],
        }
        with GatewayProcess(config) as gateway:
            with connect(DENIED) as sock:
                assert read_all(sock) == b""
            assert up.open == []
            config["frontendPolicies"] = {
                "networkAuthorization": {"rules": [f"destination.port == {DENIED}"]}
            }
            gateway.reload(config)
            with connect(DENIED) as sock:
                assert read_exactly(sock, 2) == b"in"


def test_a_drain_waits_for_a_relayed_connection_and_then_cuts_it() -> None:
    port = free_ports(1)[0]
    with TcpUpstream() as up:
        config = {
            "config": {"connectionTerminationDeadline": "3s"},
            "binds": [{"port": port, "listeners": [listener(up.address)]}],
        }
        with GatewayProcess(config) as gateway, connect(port) as sock:
            sock.sendall(b"a")
            assert sock.recv(1) == b"a"
            gateway.process.terminate()
            gateway.wait_not_ready()
            sock.sendall(b"b")
            assert sock.recv(1) == b"b"
            assert read_all(sock) == b""
            assert gateway.process.wait(20) == 0


def test_a_reload_keeps_relayed_connections() -> None:
    port = free_ports(1)[0]
    with TcpUpstream(named(b"1")) as one, TcpUpstream(named(b"2")) as two:
        config = {"binds": [{"port": port, "listeners": [listener(one.address)]}]}
        with GatewayProcess(config) as gateway, connect(port) as old:
            assert old.recv(1) == b"1"
            gateway.reload({"binds": [{"port": port, "listeners": [listener(two.address)]}]})
            with connect(port) as new:
                assert new.recv(1) == b"2"
            old.sendall(b"still")
            assert read_exactly(old, 5) == b"still"
