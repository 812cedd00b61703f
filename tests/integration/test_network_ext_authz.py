"""frontendPolicies.networkExtAuthz: another service lets connections in, or they are closed.

Source: spec/config.md sections 1.10 and 3.8.
"""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator

import pytest
import yaml

from tests.support.client import fetch
from tests.support.gateway import ROOT, GatewayProcess, free_ports
from tests.support.octets import TcpUpstream
from tests.support.upstream import Answer, Seen, Upstream, echo

PORT, DENIED, TCP, DENIED_TCP, DOWN = free_ports(5)
SECONDS = 20.0


def door(seen: Seen) -> Answer:
    """By the port that was connected to."""
    return Answer(403 if seen.get("x-port") in (str(DENIED), str(DENIED_TCP)) else 200)


def reply(sock: socket.socket) -> None:
    sock.sendall(b"got " + sock.recv(100))
    sock.close()


@pytest.fixture(scope="module")
def asked() -> Iterator[Upstream]:
    with Upstream(door) as made:
        yield made


@pytest.fixture(scope="module")
def gateway(asked: Upstream) -> Iterator[GatewayProcess]:
    with Upstream(echo) as up, TcpUpstream(reply) as octets:
        http_listener = {"routes": [{"backends": [{"host": up.address}]}]}
        tcp_listener = {"protocol": "TCP", "tcpRoutes": [{"backends": [{"host": octets.address}]}]}
        config = {
            "binds": [
                {"port": PORT, "listeners": [http_listener]},
                {"port": DENIED, "listeners": [http_listener]},
                {"port": TCP, "listeners": [tcp_listener]},
                {"port": DENIED_TCP, "listeners": [tcp_listener]},
            ],
            "frontendPolicies": {
                "networkExtAuthz": {
                    "host": asked.address,
                    # The default is 2 s, which a busy machine may take.
                    "policies": {"http": {"requestTimeout": "20s"}},
                    "protocol": {
                        "http": {
                            "path": "'/from/' + source.address",
                            "addRequestHeaders": {
                                ":method": "'POST'",
                                "x-port": "string(destination.port)",
                            },
                        }
                    },
                },
                "connect": {"mode": "tunnel"},
                "networkAuthorization": {"rules": [{"deny": "source.address == '127.0.0.2'"}]},
            },
        }
        with GatewayProcess(config, workers=2) as made:
            yield made


def test_a_connection_is_asked_for_once(gateway: GatewayProcess, asked: Upstream) -> None:
    asked.take()
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=SECONDS)
    for _ in range(3):
        connection.request("GET", "/", headers={"host": "h.test"})
        assert connection.getresponse().read() == b""
    connection.close()
    (one,) = asked.take()
    assert (one.method, one.target, one.get("x-port")) == ("POST", "/from/127.0.0.1", str(PORT))
    assert one.body == b""


def test_who_is_not_let_in_is_not_heard(gateway: GatewayProcess, asked: Upstream) -> None:
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        fetch(DENIED)
    assert fetch(PORT).status == 200


@pytest.mark.parametrize(("port", "expected"), [(TCP, b"got hello"), (DENIED_TCP, b"")])
def test_octets_are_let_in_likewise(port: int, expected: bytes, gateway: GatewayProcess) -> None:
    with socket.create_connection(("127.0.0.1", port), SECONDS) as sock:
        data = b""
        try:
            sock.sendall(b"hello")
            while piece := sock.recv(100):
                data += piece
        except ConnectionError:
            # Closed with octets unread: the kernel says so with a reset.
            assert expected == b""
    assert data == expected


def answered_from(address: str) -> bytes:
    """The beginning of an answer to who connects from there; b"" when the connection is closed."""
    where = (address, 0)
    with socket.create_connection(("127.0.0.1", PORT), SECONDS, source_address=where) as sock:
        try:
            sock.sendall(b"GET / HTTP/1.1\r\nhost: h.test\r\n\r\n")
            return sock.recv(4)
        except ConnectionError:
            return b""


def test_whom_our_rules_keep_out_costs_no_call(gateway: GatewayProcess, asked: Upstream) -> None:
    asked.take()
    assert answered_from("127.0.0.1") == b"HTTP"
    assert len(asked.take()) == 1
    assert answered_from("127.0.0.2") == b""
    assert asked.take() == []


@pytest.mark.parametrize(("port", "status"), [(TCP, b"200"), (DENIED_TCP, b"403")])
def test_a_tunnel_is_asked_for_with_where_it_leads(
    port: int, status: bytes, gateway: GatewayProcess, asked: Upstream
) -> None:
    asked.take()
    with socket.create_connection(("127.0.0.1", PORT), SECONDS) as sock:
        sock.sendall(
            f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n\r\n".encode()
        )
        assert sock.recv(1000).split(b" ")[1] == status
    assert [one.get("x-port") for one in asked.take()] == [str(PORT), str(port)]


def test_the_example_lets_nobody_in_while_the_service_is_down(asked: Upstream) -> None:
    config = yaml.safe_load((ROOT / "deploy/examples/traffic-network-ext-authz.yaml").read_text())
    config["gateways"]["default"]["port"] = DOWN
    policy = config["frontendPolicies"]["networkExtAuthz"]
    policy["host"] = "127.0.0.1:1"
    with Upstream(echo) as up:
        config["routes"][0]["backends"] = [{"host": up.address}]
        with GatewayProcess(config) as made:
            with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
                fetch(DOWN)
            policy["failureMode"] = "allow"
            made.reload(config)
            assert fetch(DOWN).status == 200
            policy["host"] = asked.address
            made.reload(config)
            asked.take()
            assert [fetch(DOWN).status for _ in range(3)] == [200] * 3
            # What was said once holds for the next connections.
            (one,) = asked.take()
            assert (one.target, one.get("x-port")) == ("/connections/127.0.0.1", str(DOWN))


def test_nothing_went_wrong_inside(gateway: GatewayProcess) -> None:
    """Last, so that it has seen what all of the above did."""
    log = gateway.log()
    assert "Traceback" not in log
    assert "never retrieved" not in log
    assert "failed inside the gateway" not in log
