"""Backends end to end: where calls go, what fails how, and what is kept out of rotation.

Source: spec/config.md sections 3.11, 4, 10.5, 10.6 and 11.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.client import fetch
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.upstream import Answer, Seen, Upstream

(PORT,) = free_ports(1)


def about(seen: Seen) -> Answer:
    """What the upstream saw of the request."""
    told = {"host": seen.get("host"), "target": seen.target, "method": seen.method}
    return Answer(200, [("content-type", "application/json")], orjson.dumps(told))


def route(path: str, *backends: dict[str, Any], **policies: Any) -> dict[str, Any]:
    return {
        "name": path.strip("/"),
        "matches": [{"path": {"pathPrefix": path}}],
        "policies": policies,
        "backends": list(backends),
    }


def workload(name: str, port: int, **more: Any) -> dict[str, Any]:
    return {
        "uid": name,
        "name": name,
        "namespace": "default",
        "workloadIps": ["127.0.0.1"],
        "protocol": "TCP",
        "services": {"default/model": {8000: port}},
        **more,
    }


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream(about) as made:
        yield made


@pytest.fixture(scope="module")
def unix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = str(tmp_path_factory.mktemp("unix") / "s.sock")
    with Upstream(about, unix=path):
        yield path


@pytest.fixture(scope="module")
def gateway(upstream: Upstream, unix: str) -> Iterator[GatewayProcess]:
    port = upstream.port
    routes = [
        route("/ip", {"host": f"127.0.0.1:{port}"}),
        route("/name", {"host": f"localhost:{port}"}),
        route("/kept", {"host": f"localhost:{port}"}, urlRewrite={"authority": "none"}),
        route("/full", {"host": f"localhost:{port}"}, urlRewrite={"authority": {"full": "x.y:1"}}),
        route("/auto", {"host": f"localhost:{port}"}, urlRewrite={"authority": "auto"}),
        route("/unix", {"host": f"unix:{unix}"}),
        route("/named", {"backend": "shared"}),
        route(
            "/own",
            {"backend": "shared", "policies": {"requestHeaderModifier": {"set": {"x": "2"}}}},
        ),
        route("/absent", {"service": {"name": "default/none", "port": 8000}}),
        route("/empty", {"service": {"name": "default/empty", "port": 8000}}),
        route("/service", {"service": {"name": "default/model", "port": 8000}}),
        route("/dynamic", {"dynamic": {}}),
        route("/computed", {"dynamic": {"target": 'request.headers["x-target"]'}}),
        route("/nodns", {"host": "absent.invalid:80"}),
        route("/refused", {"host": f"127.0.0.1:{free_ports(1)[0]}"}),
        route("/config", {"internal": "/config_dump"}),
    ]
    config = {
        "binds": [{"port": PORT, "listeners": [{"routes": routes}]}],
        "backends": [
            {
                "name": "shared",
                "host": f"127.0.0.1:{port}",
                "policies": {"requestHeaderModifier": {"set": {"x": "1"}}},
            }
        ],
        "services": [
            {"name": n, "namespace": "default", "hostname": n, "vips": [], "ports": {8000: 8000}}
            for n in ("model", "empty")
        ],
        "workloads": [workload("w1", port)],
    }
    with GatewayProcess(config) as process:
        yield process


@pytest.mark.parametrize(
    ("path", "host"),
    [
        ("/ip", "h.test"),
        ("/name", "localhost:{port}"),
        ("/kept", "h.test"),
        ("/full", "x.y:1"),
        ("/auto", "localhost:{port}"),
        ("/unix", "h.test"),
        ("/named", "h.test"),
        ("/service", "h.test"),
    ],
)
@pytest.mark.usefixtures("gateway")
def test_authority_by_kind(path: str, host: str, upstream: Upstream) -> None:
    answer = fetch(PORT, path)
    assert answer.status == 200, answer.text
    assert orjson.loads(answer.body)["host"] == host.format(port=upstream.port)


@pytest.mark.parametrize(
    ("path", "status", "text", "reason"),
    [
        ("/absent", 500, "service not found", "NotFound"),
        ("/empty", 503, "no healthy backends", "NoHealthyBackend"),
        ("/nodns", 503, "backends required DNS resolution which failed", "NoHealthyBackend"),
        ("/refused", 503, "upstream call failed: ", "UpstreamFailure"),
        ("/computed", 503, "processing failed: ", "Internal"),
    ],
)
def test_what_cannot_be_reached(
    path: str, status: int, text: str, reason: str, gateway: GatewayProcess
) -> None:
    answer = fetch(PORT, path)
    assert answer.status == status
    assert answer.text.startswith(text)
    assert answer.get("content-type") == "text/plain"
    gateway.wait_metric("agentgateway_requests_total", 1, route=f"default{path}", reason=reason)


@pytest.mark.usefixtures("gateway")
def test_dynamic_goes_where_the_authority_says(upstream: Upstream) -> None:
    upstream.take()
    target = f"localhost:{upstream.port}"
    assert orjson.loads(fetch(PORT, "/dynamic/x", host=target).body)["host"] == target
    answer = fetch(PORT, "/computed", headers={"x-target": upstream.address})
    assert orjson.loads(answer.body)["host"] == "h.test"
    assert fetch(PORT, "/computed", headers={"x-target": "127.0.0.1:x"}).status == 503
    assert len(upstream.take()) == 2


@pytest.mark.usefixtures("gateway")
def test_the_references_policies_replace_the_named_backends(upstream: Upstream) -> None:
    upstream.take()
    fetch(PORT, "/named")
    fetch(PORT, "/own")
    assert [seen.get("x") for seen in upstream.take()] == ["1", "2"]


def test_internal_is_the_admin_service(gateway: GatewayProcess) -> None:
    """Case 42: it refuses names and origins it does not know, and is reached under its own."""
    answer = fetch(PORT, "/config", host="evil.test")
    assert answer.status == 200
    assert orjson.loads(answer.body)["revision"] >= 1
    assert fetch(gateway.admin_port, "/config_dump", host="evil.test").status == 403
    local = f"localhost:{gateway.admin_port}"
    crossed = fetch(
        gateway.admin_port, "/config_dump", host=local, headers={"origin": "http://evil.test"}
    )
    assert crossed.status == 403
    assert fetch(gateway.admin_port, "/config_dump", host=local).status == 200


def service_config(port: int, workloads: list[dict[str, Any]], **policies: Any) -> dict[str, Any]:
    backend = {"service": {"name": "default/model", "port": 8000}, "policies": policies}
    return {
        "binds": [{"port": port, "listeners": [{"routes": [{"backends": [backend]}]}]}],
        "services": [
            {
                "name": "model",
                "namespace": "default",
                "hostname": "model",
                "vips": [],
                "ports": {8000: 8000},
            }
        ],
        "workloads": workloads,
    }


def test_endpoints_share_and_an_unhealthy_one_is_evicted() -> None:
    port = free_ports(1)[0]
    with (
        Upstream(lambda seen: Answer(200, body=b"good")) as good,
        Upstream(lambda seen: Answer(200, body=b"fair")) as fair,
        Upstream(lambda seen: Answer(500, body=b"bad")) as bad,
    ):
        workloads = [workload(f"w{i}", up.port) for i, up in enumerate((good, fair, bad))]
        eviction = {"duration": "1h", "consecutiveFailures": 3, "restoreHealth": 1.0}
        with GatewayProcess(service_config(port, workloads, health={"eviction": eviction})):
            got = Counter(fetch(port).text for _ in range(120))
            assert got["bad"] <= 3
            assert got["good"] + got["fair"] >= 117
            # Once out it stays out for the hour.
            evicted = len(bad.seen)
            if evicted == 3:
                assert {fetch(port).text for _ in range(40)} <= {"good", "fair"}
                assert len(bad.seen) == 3


def test_all_evicted_falls_back_and_reload_keeps_what_is_known() -> None:
    port = free_ports(1)[0]
    with Upstream(lambda seen: Answer(503, body=b"bad")) as bad:
        health = {"eviction": {"duration": "1h"}}
        config = service_config(port, [workload("w", bad.port)], health=health)
        with GatewayProcess(config) as gateway:
            assert [fetch(port).status for _ in range(3)] == [503, 503, 503]
            assert len(bad.seen) == 3
            config["workloads"] = []
            gateway.reload(config)
            assert fetch(port).text == "no healthy backends"


def test_capacity_zero_is_drained() -> None:
    port = free_ports(1)[0]
    with (
        Upstream(lambda seen: Answer(200, body=b"on")) as on,
        Upstream(lambda seen: Answer(200, body=b"off")) as off,
    ):
        workloads = [workload("on", on.port, capacity=2), workload("off", off.port, capacity=0)]
        with GatewayProcess(service_config(port, workloads)):
            assert {fetch(port).text for _ in range(60)} == {"on"}


def test_a_failed_endpoint_is_retried_on_another() -> None:
    """The retry chooses its endpoint anew (section 3.4)."""
    port, dead = free_ports(2)
    with Upstream(lambda seen: Answer(200, body=b"alive")) as alive:
        workloads = [workload("dead", dead), workload("alive", alive.port)]
        config = service_config(port, workloads, health={"eviction": {"duration": "1h"}})
        retry = {"attempts": 3, "codes": [503]}
        config["binds"][0]["listeners"][0]["routes"][0]["policies"] = {"retry": retry}
        with GatewayProcess(config):
            assert {fetch(port).text for _ in range(30)} == {"alive"}


def test_pool_survives_an_upstream_that_restarts(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    path = str(tmp_path / "up.sock")
    config = {
        "binds": [
            {"port": port, "listeners": [{"routes": [{"backends": [{"host": f"unix:{path}"}]}]}]}
        ]
    }
    with GatewayProcess(config):
        for _ in range(3):
            with Upstream(about, unix=path):
                assert [fetch(port).status for _ in range(3)] == [200, 200, 200]
            Path(path).unlink()
            assert fetch(port).status == 503


def test_connect_is_denied() -> None:
    port = free_ports(1)[0]
    with (
        Upstream(about) as up,
        GatewayProcess(
            {
                "binds": [
                    {
                        "port": port,
                        "listeners": [{"routes": [{"backends": [{"host": up.address}]}]}],
                    }
                ]
            }
        ),
        socket.create_connection(("127.0.0.1", port), 20) as sock,
    ):
        sock.sendall(b"CONNECT a.test:443 HTTP/1.1\r\nhost: a.test:443\r\n\r\n")
        with sock.makefile("rb") as stream:
            whole = stream.read()
        assert whole.startswith(b"HTTP/1.1 405 ")
        assert whole.endswith(b"method not allowed")
        assert up.seen == []
