"""`frontendPolicies.connect: route`: CONNECT meets routes, their policies and backends.

Source: spec/config.md sections 1.10, 2.2 and 4.4.
"""

from __future__ import annotations

import base64
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hyperframe.frame import DataFrame

from tests.support.gateway import GatewayProcess, free_ports
from tests.support.h2 import RawH2
from tests.support.octets import TcpUpstream, read_all, read_exactly
from tests.support.upstream import Answer, Upstream

BASIC = "Basic " + base64.b64encode(b"ada:password").decode()
HTPASSWD = "ada:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g="
HELD = {
    "authorization": {"rules": [{"deny": "request.body != b''"}]},
    "buffer": {"request": {"maxBytes": 1000}},
    "retry": {"attempts": 1, "codes": [503]},
}


def pong(sock: socket.socket) -> None:
    """Answers with what came, twice, once the other side has said all."""
    data = read_all(sock)
    sock.sendall(data * 2)


@dataclass
class Running:
    port: int
    echo: TcpUpstream
    web: Upstream
    gateway: GatewayProcess

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.echo.port}"

    def connect(
        self, target: str, *fields: str, version: str = "1.1", ahead: bytes = b""
    ) -> socket.socket:
        """A connection over which CONNECT was sent, and what is `ahead` in the same segment."""
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        lines = (f"CONNECT {target} HTTP/{version}", f"host: {target}", *fields, "", "")
        sock.sendall("\r\n".join(lines).encode() + ahead)
        return sock

    def answer(self, target: str, *fields: str) -> tuple[int, str]:
        """Status and body of one that is refused."""
        with self.connect(target, *fields) as sock:
            data = read_all(sock)
        head, _, body = data.partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), body.decode()


def head_of(sock: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        part = read_exactly(sock, 1)
        assert part, data
        data += part
    return data


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    (port,) = free_ports(1)
    with TcpUpstream(pong) as echo, Upstream(lambda seen: Answer(200, [], b"web")) as web:
        target = f"127.0.0.1:{echo.port}"
        location = {"header": {"name": "proxy-authorization", "prefix": "Basic "}}
        who = {"htpasswd": HTPASSWD, "mode": "strict", "authorizationLocation": location}
        dynamic: dict[str, Any] = {"backends": [{"dynamic": {}}]}
        method = [{"method": "CONNECT", "path": {"exact": "/"}}]
        routes = [
            {"name": "fixed", "hostnames": ["fixed.test"], "backends": [{"host": target}]},
            {"name": "locked", "hostnames": ["locked.test"], "policies": {"basicAuth": who}}
            | {"backends": [{"host": target}]},
            {"name": "none", "hostnames": ["refused.test"]}
            | {"policies": {"directResponse": {"status": 403, "body": "not there"}}},
            {"name": "gone", "hostnames": ["gone.test"], "backends": [{"host": "127.0.0.1:1"}]},
            {"name": "egress", "matches": method, "hostnames": ["127.0.0.1", "169.254.169.254"]}
            | dynamic,
            {"name": "forward", "hostnames": ["127.0.0.1"]} | dynamic,
            {"name": "held", "hostnames": ["held.test"], "policies": HELD}
            | {"backends": [{"host": target}]},
            {"name": "web", "hostnames": ["web.test"], "backends": [{"host": web.address}]},
        ]
        config = {
            "binds": [{"port": port, "listeners": [{"routes": routes}]}],
            "frontendPolicies": {"connect": {"mode": "route"}},
        }
        with GatewayProcess(config, workers=1) as gateway:
            yield Running(port, echo, web, gateway)


def test_octets_pass_both_ways_and_half_closes_too(running: Running) -> None:
    for target in (running.target, "fixed.test:443"):
        with running.connect(target) as sock:
            head = head_of(sock)
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"content-length" not in head
            assert b"transfer-encoding" not in head
            data = b"x" * 300_000
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            assert read_all(sock) == data * 2
    running.gateway.wait_metric(
        "agentgateway_requests_total", 1, status="200", method="CONNECT", route="default/egress"
    )


def test_by_http2(running: Running) -> None:
    with RawH2(running.port) as client:
        head = [(b":method", b"CONNECT"), (b":authority", running.target.encode())]
        client.send(client.head(1, head, ends=False), DataFrame(1, b"ab"))
        client.send(DataFrame(1, b"cd", flags=["END_STREAM"]))
        found = client.outcome(1)
        assert (found.status, found.body, found.reset) == (200, b"abcdabcd", None)
        head = [(b":method", b"CONNECT"), (b":authority", b"refused.test:443")]
        client.send(client.head(3, head, ends=False))
        assert client.outcome(3).status == 403


def test_policies_that_hold_bodies_do_not_wait_for_the_tunnels(running: Running) -> None:
    with RawH2(running.port) as client:
        head = [(b":method", b"CONNECT"), (b":authority", b"held.test:443")]
        client.send(client.head(1, head, ends=False))
        client.send(DataFrame(1, b"ab"), DataFrame(1, b"cd", flags=["END_STREAM"]))
        found = client.outcome(1)
        assert (found.status, found.body, found.reset) == (200, b"abcdabcd", None)


def test_what_was_sent_ahead_is_the_targets(running: Running) -> None:
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as sock:
        head = f"CONNECT {running.target} HTTP/1.1\r\nhost: {running.target}\r\n\r\n"
        sock.sendall(head.encode() + b"GET / HTTP/1.1\r\n\r\n")
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock).endswith(b"\r\n\r\n" + b"GET / HTTP/1.1\r\n\r\n" * 2)


def test_policies_of_the_route(running: Running) -> None:
    status, text = running.answer("locked.test:443")
    assert (status, text) == (
        407,
        "basic authentication failure: no basic authentication credentials found",
    )
    with running.connect("locked.test:443", f"proxy-authorization: {BASIC}") as sock:
        assert head_of(sock).startswith(b"HTTP/1.1 200")
    assert running.answer("refused.test:443") == (403, "not there")


def test_targets_that_cannot_be_had(running: Running) -> None:
    assert running.answer("nowhere.test:443") == (404, "route not found")
    status, text = running.answer("gone.test:443")
    assert status == 503
    assert text.startswith("upstream call failed: connect 127.0.0.1:1:")
    for bad in ("/", "fixed.test", "http://fixed.test/", "fixed.test:443/x", ":443"):
        with running.connect(bad, "connection: close") as sock:
            assert int(read_all(sock).split(b" ")[1]) in (400, 404), bad
    # A body that came with the head, one that did not, and one of unknown length.
    for field, body in (
        ("content-length: 5", b"hello"),
        ("content-length: 5", b""),
        ("transfer-encoding: chunked", b"0\r\n\r\n"),
    ):
        with running.connect("fixed.test:443", field, ahead=body) as sock:
            assert read_all(sock).startswith(b"HTTP/1.1 400 "), (field, body)


def test_no_way_to_metadata_services(running: Running) -> None:
    for target in ("169.254.169.254:80", "169.254.169.254:443"):
        status, text = running.answer(target)
        assert status == 403
        assert text == "link-local and metadata addresses are no destinations"


def test_no_way_to_the_gateways_own_admin_service(running: Running) -> None:
    admin = f"127.0.0.1:{running.gateway.admin_port}"
    refusal = (403, "the gateway's own admin service is no destination")
    assert running.answer(admin) == refusal
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as sock:
        head = f"POST http://{admin}/quitquitquit HTTP/1.1\r\nhost: {admin}\r\n"
        sock.sendall(f"{head}content-length: 0\r\nconnection: close\r\n\r\n".encode())
        assert read_all(sock).startswith(b"HTTP/1.1 403 ")


def test_other_requests_are_what_they_were(running: Running) -> None:
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as sock:
        sock.sendall(
            b"GET http://web.test/a HTTP/1.1\r\nhost: web.test\r\nconnection: close\r\n\r\n"
        )
        assert read_all(sock).endswith(b"web")
    assert running.web.seen[-1].target == "/a"
