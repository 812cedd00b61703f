"""What operators say of connections, in what the kernel does with them: `http`, `tcp` of backends,
`frontendPolicies.tcp`."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import fetch
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.processes import wait_until
from tests.support.upstream import Answer, Seen, Upstream

_KEEPALIVE = "02"
"""proc(5), /proc/net/tcp: the second field of `tr`."""


@pytest.fixture(scope="module")
def end() -> Iterator[threading.Event]:
    """Until it is set, the upstream says nothing."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture(scope="module")
def upstream(end: threading.Event) -> Iterator[Upstream]:
    def script(seen: Seen) -> Answer:
        if seen.target == "/late":
            end.wait(60)
        return Answer(200, [], b"ok")

    with Upstream(script) as up:
        yield up
        end.set()


@pytest.fixture(scope="module")
def full() -> Iterator[str]:
    """An address whose server accepts nobody and has nowhere to put more: SYNs are dropped."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        waiting = []
        try:
            while True:
                client = socket.socket()
                waiting.append(client)
                client.settimeout(0.5)
                client.connect(server.getsockname())
        except TimeoutError:
            yield "{}:{}".format(*server.getsockname())
        finally:
            for client in waiting:
                client.close()


@pytest.fixture(scope="module")
def port(upstream: Upstream, full: str) -> Iterator[int]:
    def route(path: str, host: str, **policies: Any) -> dict[str, Any]:
        return {
            "matches": [{"path": {"pathPrefix": path}}],
            "backends": [{"host": host, "policies": policies}],
        }

    [port] = free_ports(1)
    probes = {"time": "50s", "interval": "5s"}
    routes = [
        route("/late", upstream.address, http={"requestTimeout": "300ms"}),
        route("/full", full, tcp={"connectTimeout": "300ms", "keepalives": {}}),
        route("/", upstream.address, tcp={"connectTimeout": "20s", "keepalives": probes}),
    ]
    config = {
        "frontendPolicies": {"tcp": {"keepalives": {"time": "70s", "interval": "7s"}}},
        "binds": [{"port": port, "listeners": [{"routes": routes}]}],
    }
    with GatewayProcess(config):
        yield port


def test_a_call_without_an_answer_in_time(port: int) -> None:
    answer = fetch(port, "/late")
    assert (answer.status, answer.text) == (504, "upstream call timeout")


def test_a_connection_that_cannot_be_made_in_time(port: int) -> None:
    answer = fetch(port, "/full")
    assert answer.status == 503
    assert "timed out" in answer.text


def test_probes_on_both_sides(port: int, upstream: Upstream) -> None:
    """An idle connection has no timer but that of its probes."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        answer = b""
        while not answer.endswith(b"ok"):
            answer += client.recv(4096)
        wait_until(lambda: 60 < probe_seconds(port, client.getsockname()[1]) <= 70)
        kept = upstream.connections[-1].getpeername()[1]
        wait_until(lambda: 40 < probe_seconds(kept, upstream.port) <= 50)


def probe_seconds(local: int, remote: int) -> float:
    """When a connection of this machine is probed next; 0.0 when it is not."""
    lines = [Path("/proc/net", name).read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    for fields in map(str.split, chain(*lines)):
        ports = [int(fields[place].rpartition(":")[2], 16) for place in (1, 2)]
        timer, _, ticks = fields[5].partition(":")
        if ports == [local, remote] and timer == _KEEPALIVE:
            return int(ticks, 16) / 100
    return 0.0
