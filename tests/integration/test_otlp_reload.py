"""Exports of spans over many reloads: each takes the place of the one before, and leaves nothing.

Source: spec/config.md section 9.3; spec hardening section 4.3 F 59.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.sidecar.telemetry.collectors import GrpcCollector, HttpCollector
from tests.support.client import fetch
from tests.support.gateway import GatewayProcess, free_ports, proxy_config
from tests.support.octets import TcpUpstream
from tests.support.processes import open_files, threads, wait_until
from tests.support.upstream import Answer, Upstream

RELOADS = 50
WARM = 3


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream(lambda seen: Answer(200, body=b"ok")) as made:
        yield made


def traced(config: dict[str, Any], collector: str, protocol: str, number: int) -> dict[str, Any]:
    """A tracing policy that is another one each time."""
    policy = {
        "host": collector,
        "protocol": protocol,
        "randomSampling": "true",
        "resources": {"number": str(number)},
    }
    return {**config, "frontendPolicies": {"tracing": policy}}


def numbers(collector: GrpcCollector | HttpCollector) -> set[int]:
    """The reloads whose spans have arrived."""
    found = set()
    with collector.received.mutex:
        received = list(collector.received.queue)
    for request, _ in received:
        for one in request.resource_spans:
            for item in one.resource.attributes:
                if item.key == "number":
                    found.add(int(item.value.string_value))
    return found


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_threads_and_files_do_not_grow(protocol: str, upstream: Upstream) -> None:
    [port] = free_ports(1)
    plain = proxy_config(port, upstream.address)
    collector: GrpcCollector | HttpCollector
    collector = GrpcCollector() if protocol == "grpc" else HttpCollector()
    try:
        config = traced(plain, collector.address, protocol, 0)
        with GatewayProcess(config) as gateway:
            [worker] = gateway.worker_pids()
            base = (0, 0)
            for number in range(1, RELOADS + 1):
                assert fetch(port).status == 200
                gateway.reload(traced(plain, collector.address, protocol, number))
                if number == WARM:
                    wait_until(lambda: numbers(collector) >= set(range(WARM)))
                    base = threads(worker), open_files(worker)
            # Not one span was lost on the way from one export to the next.
            wait_until(lambda: numbers(collector) == set(range(RELOADS)), "spans")
            wait_until(lambda: threads(worker) <= base[0] + 1, "threads")
            wait_until(lambda: open_files(worker) <= base[1] + 2, "files")
            assert gateway.worker_pids() == [worker]
            assert gateway.metric("agentgateway_telemetry_dropped_total", kind="span") == 0
    finally:
        collector.close()


def swallow(sock: socket.socket) -> None:
    """Take what comes and say nothing."""
    while sock.recv(65536):
        pass


def test_a_collector_that_never_answers_gathers_no_threads(upstream: Upstream) -> None:
    [port] = free_ports(1)
    plain = proxy_config(port, upstream.address)
    with TcpUpstream(swallow) as stuck:
        config = traced(plain, stuck.address, "http", 0)
        with GatewayProcess(config) as gateway:
            [worker] = gateway.worker_pids()
            before = threads(worker)
            for number in range(1, 6):
                assert fetch(port).status == 200
                gateway.reload(traced(plain, stuck.address, "http", number))
            # An export whose collector is stuck ends with the try that is under way (10 s).
            wait_until(lambda: threads(worker) <= before + 1, "threads")
            lost = "agentgateway_telemetry_dropped_total"
            wait_until(lambda: gateway.metric(lost, kind="span") == 2 * 5, lost)
            assert fetch(port).status == 200
