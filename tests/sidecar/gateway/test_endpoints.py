"""What a worker knows of its endpoints over reloads, and what it shares of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from shm.endpoints import EndpointTable, Row, Slot
from shm.stripe import Stripe
from sidecar.errors import UpstreamError
from sidecar.gateway.balanced import BalancedUpstream
from sidecar.gateway.endpoints import Endpoints, Place
from sidecar.http.headers import Headers
from sidecar.http.message import Response
from sidecar.net.dialer import Address
from sidecar.routing.balance import LocalState
from tests.sidecar.gateway.test_backends import SERVICE, backend_of, document, workload
from tests.support.compiled import InProcess, ask_for
from tests.support.endpoints import table

A = Place("ns/m", 80, Address("10.0.0.1", 8080))
B = Place("ns/m", 80, Address("10.0.0.2", 8080))
HEALTH = {"eviction": {"duration": "1h", "consecutiveFailures": 4}}
SERVED = document(
    {"service": {"name": "ns/m", "port": 8000}, "policies": {"health": HEALTH}},
    services=[SERVICE],
    workloads=[workload("a", "10.0.0.1"), workload("b", "10.0.0.2")],
)


@pytest.fixture
def shared() -> Iterator[EndpointTable]:
    with table() as made:
        yield made


def members(*places: Place) -> Any:
    def listed(service: str, port: int) -> list[tuple[Address, int]] | None:
        found = [place.address for place in places if place[:2] == (service, port)]
        return [(address, 1) for address in found] or None

    return listed


def labels(shared: EndpointTable) -> dict[bytes, Row]:
    return {row.label: row for row in shared.rows()}


def break_stripe(stripe: Stripe) -> None:
    """Leave the lock to a repair that must fail."""
    pid = os.fork()
    if pid == 0:
        with stripe:
            stripe._words[0] = 99
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)


def break_all(shared: EndpointTable) -> None:
    for stripe in shared._table.stripes:
        break_stripe(stripe)


def test_an_endpoint_is_the_same_wherever_it_is_asked_for() -> None:
    endpoints = Endpoints()
    first = endpoints.get(A, 1)
    assert first.key == "service/ns/m:80|10.0.0.1:8080"
    assert endpoints.get(A, 1) is first
    assert endpoints.get(B, 1) is not first
    assert endpoints.get(A, 5) is first
    assert first.capacity == 5


def test_what_goes_from_the_configuration_frees_its_slot(shared: EndpointTable) -> None:
    endpoints = Endpoints(shared.column(0))
    endpoints.begin_round()
    gone, kept = endpoints.get(A, 1), endpoints.get(B, 1)
    endpoints.end_round(members(A, B))
    assert set(labels(shared)) == {A.label.encode(), B.label.encode()}
    gone.state.begin()
    gone.state.begin()
    gone.state.latency_seconds = 0.25
    endpoints.begin_round()
    # Nobody asked for B either, but its service still has it: a route may come back to it.
    endpoints.end_round(members(B))
    assert set(labels(shared)) == {B.label.encode()}
    assert isinstance(gone.state, LocalState)
    assert gone.state.load() == (1.0, 0.25, 2)
    gone.state.end()
    assert gone.state.in_flight == 1
    assert isinstance(kept.state, Slot)
    endpoints.begin_round()
    assert endpoints.get(A, 1) is not gone
    assert endpoints.get(B, 1) is kept


def test_a_successor_takes_over_and_drops_what_it_does_not_want(shared: EndpointTable) -> None:
    before = Endpoints(shared.column(0))
    before.get(A, 1)
    before.get(B, 1).state.update(lambda standing: standing._replace(failures=3))
    after = Endpoints(shared.column(0))
    after.begin_round()
    assert after.get(B, 1).state.is_troubled
    after.end_round(members(B))
    assert set(labels(shared)) == {B.label.encode()}


def test_a_full_table_shares_nothing_and_refuses_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with table(endpoints=1, columns=1) as small:
        endpoints = Endpoints(small.column(0))
        found = [endpoints.get(A._replace(port=port), 1) for port in range(small.stats().slots + 9)]
        assert sum(isinstance(one.state, LocalState) for one in found) > 0
        assert small.stats().refusals > 0
    assert caplog.text.count("the table of endpoints is full") == 1


async def test_a_table_that_cannot_be_used_fails_no_request(
    shared: EndpointTable, caplog: pytest.LogCaptureFixture
) -> None:
    endpoints = Endpoints(shared.column(0))
    async with InProcess(SERVED, draw=0.0, endpoints=endpoints) as gateway:
        upstream = (await backend_of(gateway)).upstream
        picked = await upstream.pick(ask_for())
        picked.begin()
        break_all(shared)
        picked.end(1, Response(500), None)
        assert "not shared any more" in caplog.text
        # The outcome that could not be recorded is lost; from now on this worker counts alone.
        for _ in range(4):
            assert (await upstream.pick(ask_for())) is picked
            picked.begin()
            picked.end(1, Response(500), None)
        assert (await upstream.pick(ask_for())).label == "10.0.0.2:9000"


async def test_an_ejection_that_ends_while_the_table_is_broken(shared: EndpointTable) -> None:
    endpoints = Endpoints(shared.column(0))
    async with InProcess(SERVED, draw=0.0, endpoints=endpoints) as gateway:
        upstream = (await backend_of(gateway)).upstream
        assert isinstance(upstream, BalancedUpstream)
        for place in [Place("ns/m", 8000, Address(f"10.0.0.{n}", 9000)) for n in (1, 2)]:
            state = endpoints.get(place, 1).state
            state.update(lambda standing: standing._replace(ejected_until_ns=1))
        break_all(shared)
        assert (await upstream.pick(ask_for())).label == "10.0.0.1:9000"


async def test_two_workers_eject_together(shared: EndpointTable) -> None:
    first, second = (Endpoints(shared.column(number)) for number in range(2))
    async with (
        InProcess(SERVED, draw=0.0, endpoints=first) as one,
        InProcess(SERVED, draw=0.0, endpoints=second) as other,
    ):
        upstreams = [(await backend_of(gateway)).upstream for gateway in (one, other)]
        for turn in range(4):
            picked = await upstreams[turn % 2].pick(ask_for())
            assert picked.label == "10.0.0.1:9000"
            picked.begin()
            picked.end(1, None, UpstreamError(503, "UpstreamFailure", "x"))
        for upstream in upstreams:
            assert (await upstream.pick(ask_for())).label == "10.0.0.2:9000"
        one.apply({**SERVED, "workloads": [workload("b", "10.0.0.2")]})
        other.apply({**SERVED, "workloads": [workload("b", "10.0.0.2")]})
        (left,) = shared.rows()
        assert (left.label, left.users) == (b"service/ns/m:8000|10.0.0.2:9000", 2)


async def test_answers_that_name_no_number_are_failures_like_others(shared: EndpointTable) -> None:
    async with InProcess(SERVED, draw=0.0, endpoints=Endpoints(shared.column(0))) as gateway:
        upstream = (await backend_of(gateway)).upstream
        picked = await upstream.pick(ask_for())
        for value in (b"9" * 5000, b"-1", b"x"):
            picked.begin()
            picked.end(1, Response(500, Headers([(b"grpc-status", value)])), None)
        (row,) = [row for row in shared.rows() if row.standing.failures]
        assert (row.standing.failures, sum(row.in_flight)) == (3, 0)
