"""Hostile HTTP/1 through a real gateway with a strict origin behind it: one row a case.

Source: spec hardening section 4.3 A and D; the case's number begins its id.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.gateway import GatewayProcess, free_ports, proxy_config
from tests.support.hostile_http1 import CASES, LARGE, SMUGGLED, Hostile, chunked, get, post
from tests.support.origin import Answer, Client, Origin, Recorded, Stream, answer

ALIVE = get(line=b"GET /alive HTTP/1.1")


class Front:
    """A gateway with one route to one origin."""

    def __init__(self, gateway: GatewayProcess, origin: Origin, port: int) -> None:
        self.gateway = gateway
        self.origin = origin
        self.port = port
        self.workers = gateway.worker_pids()

    def ask(self, data: bytes) -> Answer:
        with Client(self.port) as client:
            return client.ask(data)

    def check_alive(self) -> None:
        """The same worker process serves, and the origin has seen nothing improper."""
        assert self.ask(ALIVE).status == 200
        assert self.origin.requests.pop().target == "/alive"
        assert self.origin.problems == []


def _script(stream: Stream, request: Recorded) -> None:
    stream.send(answer(request.target.encode()))


@pytest.fixture(scope="module", params=["native", "granian"])
def front(request: pytest.FixtureRequest) -> Iterator[Front]:
    """HTTP/1 is served by the same code whatever `config.frontDoor` says; that it is, is tested."""
    port = free_ports(1)[0]
    with Origin(_script) as origin:
        config = {**proxy_config(port, origin.address), "config": {"frontDoor": request.param}}
        yield from _serve(config, origin, port)


def _serve(config: dict[str, Any], origin: Origin, port: int) -> Iterator[Front]:
    with GatewayProcess(config) as gateway:
        front = Front(gateway, origin, port)
        yield front
        assert gateway.worker_pids() == front.workers
        assert "Traceback" not in gateway.log()


@pytest.fixture(autouse=True)
def _fresh(front: Front) -> None:
    front.origin.requests.clear()
    front.origin.heads.clear()


@pytest.mark.parametrize("cut", [0, 1], ids=["whole", "split"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_refused(front: Front, case: Hostile, cut: int) -> None:
    with Client(front.port) as client:
        client.send(case.payload, cut)
        found = client.read()
        assert found.status in case.statuses
        assert found.value("connection") == "close"
        assert client.rest() == b""
    assert front.origin.requests == []
    front.check_alive()


@pytest.mark.parametrize("case", LARGE, ids=lambda case: case.name)
def test_too_large(front: Front, case: Hostile) -> None:
    with Client(front.port) as client:
        client.send(case.payload)
        assert client.read().status in case.statuses
        assert client.rest() == b""
    assert front.origin.requests == []
    front.check_alive()


@pytest.mark.parametrize("cut", [0, 1], ids=["whole", "split"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_nothing_behind_a_refused_request_is_served(front: Front, case: Hostile, cut: int) -> None:
    # The same connection carries a good request after the bad one: it must die with it.
    with Client(front.port) as client:
        client.send(get(line=b"GET /first HTTP/1.1") + case.payload + SMUGGLED, cut)
        assert client.read().body == b"/first"
        assert client.read().status in case.statuses
        assert client.rest() == b""
    assert [request.target for request in front.origin.requests] == ["/first"]
    front.origin.requests.clear()
    front.check_alive()


class TestAccepted:
    """What looks odd and is lawful: forwarded in one reading only."""

    def test_12_get_with_body_keeps_its_length(self, front: Front) -> None:
        head = get(b"Content-Length: %d" % len(SMUGGLED))
        with Client(front.port) as client:
            assert client.ask(head + SMUGGLED).status == 200
            assert client.ask(ALIVE).body == b"/alive"
        first, second = front.origin.requests
        assert (first.body, second.target) == (SMUGGLED, "/alive")
        assert first.values("content-length") == [str(len(SMUGGLED))]

    def test_13_pipelined_middle_invalid(self, front: Front) -> None:
        bad = get(b"Content-Length: +5", line=b"POST /bad HTTP/1.1")
        with Client(front.port) as client:
            client.send(get(line=b"GET /one HTTP/1.1") + bad + get(line=b"GET /three HTTP/1.1"))
            assert client.read().body == b"/one"
            assert client.read().status == 400
            assert client.rest() == b""
        assert [request.target for request in front.origin.requests] == ["/one"]

    def test_14_forbidden_trailers_are_dropped(self, front: Front) -> None:
        body = (
            b"2\r\nxx\r\n0\r\nContent-Length: 9\r\nHost: b\r\nAuthorization: x\r\n"
            b"Transfer-Encoding: chunked\r\nX-Sum: 1\r\n\r\n"
        )
        assert front.ask(chunked(body)).status == 200
        (request,) = front.origin.requests
        assert request.body == b"xx"
        assert request.trailers == [("x-sum", "1")]

    def test_11_short_extension_is_dropped(self, front: Front) -> None:
        assert front.ask(chunked(b"2;a=b\r\nxx\r\n0;c\r\n\r\n")).status == 200
        assert front.origin.requests[0].body == b"xx"

    def test_16_octets_behind_an_upgrade_stay_behind(self, front: Front) -> None:
        upgrade = get(b"Connection: Upgrade", b"Upgrade: x", line=b"GET /up HTTP/1.1")
        with Client(front.port) as client:
            client.send(upgrade + SMUGGLED)
            found = client.read()
            assert (found.body, found.value("connection")) == (b"/up", "close")
            assert client.rest() == b""
        assert [request.target for request in front.origin.requests] == ["/up"]
        front.origin.requests.clear()
        front.check_alive()

    @pytest.mark.parametrize(
        "name", ["authorization", "cookie", "x-forwarded-for", "content-length", "host"]
    )
    def test_17_connection_cannot_strip(self, front: Front, name: str) -> None:
        fields = {
            "authorization": "Bearer t",
            "cookie": "a=b",
            "x-forwarded-for": "192.0.2.1",
            "content-length": "2",
            "host": "a.example",
        }
        lines = [f"{key}: {value}".encode() for key, value in fields.items() if key != "host"]
        assert front.ask(post(f"Connection: {name}".encode(), *lines, body=b"xx")).status == 200
        assert front.origin.requests[0].values(name) == [fields[name]]

    def test_17_hop_by_hop_fields_end_here(self, front: Front) -> None:
        names = [b"Keep-Alive: 5", b"Proxy-Connection: close", b"TE: trailers", b"X-Hop: 1"]
        found = front.ask(get(b"Connection: x-hop, keep-alive", *names, b"Trailer: a"))
        assert found.status == 200
        names_seen = [name for name, _ in front.origin.requests[0].headers]
        assert not {"keep-alive", "proxy-connection", "x-hop", "trailer"} & set(names_seen)

    def test_38_underscored_twin_is_dropped(self, front: Front) -> None:
        assert front.ask(get(b"X_User: root", b"x-user: me", b"content_length: 5")).status == 200
        names = [name for name, _ in front.origin.requests[0].headers]
        assert "x_user" not in names
        assert "content_length" not in names
        assert front.origin.requests[0].values("x-user") == ["me"]

    def test_37_dots_are_resolved_before_forwarding(self, front: Front) -> None:
        assert front.ask(get(line=b"GET /a/../b?c=/../d HTTP/1.1")).body == b"/b?c=/../d"

    @pytest.mark.parametrize("target", [b"http://a.example/x", b"http://A.EXAMPLE/x"])
    def test_36_absolute_form_equal_to_host(self, front: Front, target: bytes) -> None:
        assert front.ask(get(line=b"GET " + target + b" HTTP/1.1")).body == b"/x"
        assert front.origin.requests[0].values("host") == ["a.example"]

    @pytest.mark.parametrize("blank", [b"\r\n", b"\r\n\r\n\r\n"])
    @pytest.mark.parametrize("cut", [0, 1])
    def test_blank_lines_before_a_request(self, front: Front, blank: bytes, cut: int) -> None:
        with Client(front.port) as client:
            client.send(blank + get(), cut)
            assert client.read().status == 200

    def test_http2_preface_after_a_request(self, front: Front) -> None:
        # Behind a proxy that shares connections these octets may be another client's body.
        with Client(front.port) as client:
            assert client.ask(get()).status == 200
            client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
            assert client.read().status == 505
            assert client.rest() == b""
