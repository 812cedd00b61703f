"""Backends of a snapshot: what each kind of reference becomes."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.errors import UpstreamError
from sidecar.gateway.backends import Discovery
from sidecar.gateway.balanced import BalancedUpstream
from sidecar.gateway.matching import version_for
from sidecar.gateway.plan import Backend
from sidecar.http.message import Response
from sidecar.net.dialer import Address
from tests.support.compiled import InProcess, ask_for

SERVICE: dict[str, Any] = {
    "name": "m",
    "namespace": "ns",
    "hostname": "m",
    "vips": [],
    "ports": {8000: 9000},
}


def workload(uid: str, ip: str, **more: Any) -> dict[str, Any]:
    return {
        "uid": uid,
        "name": uid,
        "namespace": "ns",
        "workloadIps": [ip],
        "services": {"ns/m": {8000: 9000}},
        **more,
    }


def document(backend: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"binds": [{"port": 8080, "listeners": [{"routes": [{"backends": [backend]}]}]}], **more}


async def backend_of(gateway: InProcess) -> Backend:
    listener = gateway.gateway.binds["bind/8080"].listener_of(ask_for())
    request = ask_for()
    found = listener.routes.match(
        "h.test", "/", "GET", request.headers, "", scheme="http", authority="h.test"
    )
    assert found is not None
    backend: Backend = found[0].payload.backends[0]
    return backend


@pytest.mark.parametrize(
    ("reference", "label", "kind", "auto_host", "default"),
    [
        ({"host": "10.0.0.1:80"}, "10.0.0.1:80", "static", "", "10.0.0.1:80"),
        ({"host": "a.test:80"}, "a.test:80", "static", "a.test", "a.test"),
        ({"host": "a.test:81"}, "a.test:81", "static", "a.test:81", "a.test:81"),
        (
            {"host": "a.test:443", "policies": {"backendTLS": {"insecure": True}}},
            "a.test:443",
            "static",
            "a.test",
            "a.test",
        ),
        ({"host": "unix:/run/x.sock"}, "unix:/run/x.sock", "static", "", "localhost"),
        ({"dynamic": {}}, "dynamic", "dynamic", "", ""),
        ({"service": {"name": "ns/m", "port": 8000}}, "service/ns/m:8000", "service", "", "m"),
        ({"backend": "shared"}, "10.0.0.2:80", "static", "", "10.0.0.2:80"),
        ({"internal": "forward"}, "internal", "static", "localhost", "127.0.0.1:15000"),
    ],
)
async def test_kinds(
    reference: dict[str, Any], label: str, kind: str, auto_host: str, default: str
) -> None:
    shared = [{"name": "shared", "host": "10.0.0.2:80"}]
    made = document(reference, backends=shared, services=[SERVICE])
    async with InProcess(made) as gateway:
        backend = await backend_of(gateway)
    assert (backend.label, backend.kind) == (label, kind)
    assert (backend.auto_host, backend.default_authority) == (auto_host, default)
    assert backend.cel(None)["type"] == kind


@pytest.mark.parametrize(
    ("policies", "version", "scheme", "headers", "expected"),
    [
        ({}, "HTTP/1.1", "http", {}, "h1"),
        ({}, "HTTP/2.0", "http", {}, "h2"),
        ({}, "HTTP/2.0", "https", {}, "h1"),
        ({}, "HTTP/2.0", "https", {"content-type": "application/grpc"}, "h2"),
        ({"http": {"version": "HTTP/2.0"}}, "HTTP/1.1", "http", {}, "h2"),
        ({"http": {"version": "HTTP/1.1"}}, "HTTP/2.0", "http", {}, "h1"),
        ({"backendTLS": {"insecure": True}}, "HTTP/1.1", "http", {}, "auto"),
    ],
)
async def test_version(
    policies: dict[str, Any], version: str, scheme: str, headers: dict[str, str], expected: str
) -> None:
    """Spec/config.md section 3.11."""
    async with InProcess(document({"host": "10.0.0.1:80", "policies": policies})) as gateway:
        backend = await backend_of(gateway)
    request = ask_for(headers=headers, version=version, scheme=scheme)
    assert version_for(backend, request) == expected
    request.upgrade = "websocket"
    assert version_for(backend, request) == "h1"


async def test_internal_path_keeps_the_query() -> None:
    async with InProcess(document({"internal": "/config_dump"})) as gateway:
        backend = await backend_of(gateway)
        request = ask_for("/x?y=1")
        for hook, _ in backend.chain.request_hooks:
            hook(request)
    assert request.target == "/config_dump?y=1"


async def test_eviction_is_kept_over_a_reload() -> None:
    health = {"eviction": {"duration": "1h", "consecutiveFailures": 1}}
    made = document(
        {"service": {"name": "ns/m", "port": 8000}, "policies": {"health": health}},
        services=[SERVICE],
        workloads=[workload("a", "10.0.0.1"), workload("b", "10.0.0.2")],
    )
    async with InProcess(made) as gateway:

        async def labels() -> set[str]:
            upstream = (await backend_of(gateway)).upstream
            assert isinstance(upstream, BalancedUpstream)
            return {(await upstream.pick(ask_for())).label for _ in range(50)}

        assert await labels() == {"10.0.0.1:9000", "10.0.0.2:9000"}
        upstream = (await backend_of(gateway)).upstream
        bad = next(
            picked
            for picked in [await upstream.pick(ask_for()) for _ in range(50)]
            if picked.label == "10.0.0.1:9000"
        )
        bad.begin()
        bad.end(1_000_000, Response(500), None)
        assert await labels() == {"10.0.0.2:9000"}
        gateway.apply({**made, "frontendPolicies": {"http": {"maxBufferSize": 1}}})
        assert await labels() == {"10.0.0.2:9000"}


async def test_a_cancelled_call_says_nothing_of_its_endpoint() -> None:
    health = {"eviction": {"duration": "1h"}}
    made = document(
        {"service": {"name": "ns/m", "port": 8000}, "policies": {"health": health}},
        services=[SERVICE],
        workloads=[workload("a", "10.0.0.1")],
    )
    async with InProcess(made) as gateway:
        upstream = (await backend_of(gateway)).upstream
        picked = await upstream.pick(ask_for())
        for error in (None, None):
            picked.begin()
            picked.end(1, None, error)
        assert (await upstream.pick(ask_for())) is picked
        picked.begin()
        picked.end(1, None, UpstreamError(503, "UpstreamFailure", "x"))
        # The only one, though evicted, is better than none.
        assert (await upstream.pick(ask_for())) is picked


def test_discovery() -> None:
    services = {"ns/m": {"ports": {"80": 8080}}}
    workloads: dict[str, dict[str, Any]] = {
        "a": {"ips": ["10.0.0.1"], "capacity": 2, "services": {"ns/m": {"80": 81}}},
        "b": {"ips": ["10.0.0.2"], "services": {"ns/m": {}}},
        "c": {"ips": ["10.0.0.3"], "services": {"ns/other": {}}},
        "d": {"ips": ["10.0.0.4"], "status": "Unhealthy", "services": {"ns/m": {}}},
    }
    discovery = Discovery(services, workloads)
    assert discovery.endpoints("ns/m", 80) == [
        (Address("10.0.0.1", 81), 2),
        (Address("10.0.0.2", 8080), 1),
    ]
    assert discovery.endpoints("ns/m", 99) == []
    assert discovery.endpoints("ns/none", 80) is None
