"""Which endpoint a picker's choice comes to. Source: spec/config.md section 3.11."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.errors import RequestError, UpstreamError
from sidecar.gateway.inference import literal
from sidecar.gateway.plan import Backend
from sidecar.http.message import Request
from sidecar.net.dialer import Address
from tests.sidecar.gateway.test_backends import SERVICE, backend_of, document, workload
from tests.support.compiled import InProcess, ask_for

A, B = ("10.0.0.1", 9000), ("10.0.0.2", 9000)


def made(**routing: Any) -> InProcess:
    backend = {
        "service": {"name": "ns/m", "port": 8000},
        "policies": {
            "inferenceRouting": {"endpointPicker": {"host": "10.0.0.9:9002"}, **routing},
            "health": {"eviction": {"duration": "1h", "consecutiveFailures": 1}},
        },
    }
    both = [workload("a", "10.0.0.1"), workload("b", "10.0.0.2")]
    return InProcess(document(backend, services=[SERVICE], workloads=both))


def asking(*chosen: tuple[str, int]) -> Request:
    """A request for which a picker made this choice."""
    request = ask_for()
    if chosen:
        request.state["endpoint picker's choice"] = chosen
    return request


async def called(backend: Backend, *chosen: tuple[str, int]) -> str:
    request = asking(*chosen)
    picked = await backend.upstream.pick(request)
    assert request.state["inferencepool"] == {"selectedEndpoint": picked.label}
    return picked.label


async def eject(backend: Backend, place: tuple[str, int]) -> None:
    picked = await backend.upstream.pick(asking(place))
    picked.begin()
    picked.end(1, None, UpstreamError(503, "UpstreamFailure", "connection refused"))


async def test_the_first_that_may_be_called() -> None:
    async with made() as gateway:
        backend = await backend_of(gateway)
        assert await called(backend, B, A) == "10.0.0.2:9000"
        assert await called(backend, ("10.0.0.3", 9000), A) == "10.0.0.1:9000"
        await eject(backend, B)
        assert await called(backend, B, A) == "10.0.0.1:9000"
        assert await called(backend, B) == "10.0.0.2:9000"
        await eject(backend, A)
        assert await called(backend, B, A) == "10.0.0.2:9000"


@pytest.mark.parametrize("chosen", [(), (("10.0.0.3", 9000),), (("10.0.0.1", 9001),)])
async def test_none_of_the_service(chosen: tuple[tuple[str, int], ...]) -> None:
    async with made() as gateway:
        backend = await backend_of(gateway)
        with pytest.raises(UpstreamError, match="no healthy backends: ") as caught:
            await called(backend, *chosen)
    assert (caught.value.status, caught.value.code) == (503, "NoHealthyBackend")


async def test_any_address() -> None:
    async with made(destinationMode="passthrough") as gateway:
        backend = await backend_of(gateway)
        assert await called(backend, ("10.0.0.3", 80), A) == "10.0.0.3:80"
        # What is known of an endpoint counts here too.
        await eject(backend, A)
        assert await called(backend, A, ("10.0.0.3", 80)) == "10.0.0.3:80"
        assert await called(backend, ("169.254.169.254", 80), B) == "10.0.0.2:9000"
        with pytest.raises(UpstreamError, match="none of the service"):
            await called(backend, ("169.254.169.254", 80))
        with pytest.raises(RequestError, match="admin service"):
            await called(backend, ("127.0.0.1", 15000))


async def test_without_a_choice_the_gateway_makes_one() -> None:
    async with made(failureMode="failOpen") as gateway:
        backend = await backend_of(gateway)
        assert {await called(backend) for _ in range(40)} == {"10.0.0.1:9000", "10.0.0.2:9000"}
        assert await called(backend, B) == "10.0.0.2:9000"
        # A choice that is refused stays refused.
        with pytest.raises(UpstreamError):
            await called(backend, ("10.0.0.3", 9000))


def test_addresses_in_any_spelling() -> None:
    assert literal(Address("fe00:0:0::1", 80)) == ("fe00::1", 80)
    assert literal(Address("uid", 80, hop="DOUBLE_HBONE")) == ("uid", 80)
