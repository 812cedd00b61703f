"""Endpoints over several workers: one count of failures, one load, and what the operator sees."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from tests.support.client import fetch
from tests.support.gateway import ROOT, GatewayProcess, free_ports
from tests.support.upstream import Answer, Seen, Upstream

WAIT_SECONDS = 20.0


def workload(name: str, port: int) -> dict[str, Any]:
    return {
        "uid": name,
        "name": name,
        "namespace": "default",
        "workloadIps": ["127.0.0.1"],
        "services": {"default/model": {8000: port}},
    }


def config(port: int, *upstreams: Upstream, **health: Any) -> dict[str, Any]:
    backend = {"service": {"name": "default/model", "port": 8000}}
    if health:
        backend["policies"] = {"health": {"eviction": health}}
    return {
        "binds": [{"port": port, "listeners": [{"routes": [{"backends": [backend]}]}]}],
        "services": [
            {
                "name": "model",
                "namespace": "default",
                "hostname": "model",
                "vips": [],
                "ports": {8000: 1},
            }
        ],
        "workloads": [workload(f"w{n}", one.port) for n, one in enumerate(upstreams)],
    }


def admin(gateway: GatewayProcess, method: str, path: str, **headers: str) -> tuple[int, Any]:
    url = f"http://127.0.0.1:{gateway.admin_port}{path}"
    request = urllib.request.Request(url, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            body = error.read()
            return error.code, json.loads(body) if body[:1] == b"{" else body.decode()


def state(gateway: GatewayProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line's `state`, towards this gateway."""
    address = f"http://127.0.0.1:{gateway.admin_port}"
    return subprocess.run(
        [sys.executable, "-m", "sidecar", "state", *arguments, "--admin", address],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )


def endpoints(gateway: GatewayProcess) -> dict[str, dict[str, Any]]:
    """Rows by the address behind the bar."""
    rows = admin(gateway, "GET", "/state/endpoints")[1]["rows"]
    return {row["label"].partition("|")[2]: row for row in rows}


def wait_endpoint(gateway: GatewayProcess, address: str, **expected: Any) -> dict[str, Any]:
    until = time.monotonic() + WAIT_SECONDS
    while True:
        row = endpoints(gateway).get(address, {})
        if {name: row.get(name) for name in expected} == expected:
            return row
        assert time.monotonic() < until, (row, expected, gateway.log())
        time.sleep(0.02)


def failing(seen: Seen) -> Answer:
    return Answer(500)


@contextmanager
def failing_and_good() -> Iterator[tuple[Upstream, Upstream]]:
    with Upstream(failing) as bad, Upstream() as good:
        yield bad, good


def ask_until(port: int, upstream: Upstream, count: int) -> None:
    """Ask, each time on a connection of its own, until the upstream was asked so often."""
    for _ in range(2000):
        fetch(port)
        if len(upstream.seen) >= count:
            return
    raise AssertionError(len(upstream.seen))


def test_failures_are_counted_over_all_workers_and_a_reset_undoes_the_ejection() -> None:
    (port,) = free_ports(1)
    with (
        failing_and_good() as (bad, good),
        GatewayProcess(
            config(port, bad, good, duration="1h", consecutiveFailures=9), workers=4
        ) as gateway,
    ):
        ask_until(port, bad, 9)
        row = wait_endpoint(gateway, bad.address, timesEjected=1, inFlight=0)
        assert (row["failures"], row["workers"]) == (9, 4)
        assert 3500 < row["ejectedForSeconds"] <= 3600
        # A worker that counted by itself would send it more: nine each.
        assert {fetch(port).status for _ in range(150)} == {200}
        assert len(bad.seen) == 9

        shown = state(gateway, "endpoints")
        assert (shown.returncode, shown.stderr) == (0, "")
        assert bad.address in shown.stdout
        done = state(gateway, "endpoints", "--reset", row["key"])
        assert (done.returncode, done.stdout) == (0, f"endpoints: reset {row['key']}\n")
        ask_until(port, bad, 10)


def test_an_ejection_outlives_its_worker() -> None:
    (port,) = free_ports(1)
    with (
        failing_and_good() as (bad, good),
        GatewayProcess(config(port, bad, good, duration="1h"), workers=1) as gateway,
    ):
        ask_until(port, bad, 1)
        wait_endpoint(gateway, bad.address, timesEjected=1)
        pids = gateway.worker_pids()
        os.kill(pids[0], signal.SIGKILL)
        gateway.wait_replaced(pids)
        assert {fetch(port).status for _ in range(60)} == {200}
        assert len(bad.seen) == 1


def test_what_a_killed_worker_had_in_flight_vanishes() -> None:
    (port,) = free_ports(1)
    go = threading.Event()

    def held(seen: Seen) -> Answer:
        go.wait(60)
        return Answer(200, [], b"ok")

    with ExitStack() as stack:
        upstream = stack.enter_context(Upstream(held))
        gateway = stack.enter_context(GatewayProcess(config(port, upstream), workers=2))
        stack.callback(go.set)
        for _ in range(100):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), 20))
            sock.sendall(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
        row = wait_endpoint(gateway, upstream.address, inFlight=100)
        lost, left = row["inFlightByWorker"]
        assert lost > 0 < left
        processes = gateway.dump()["processes"]
        pid = next(one["pid"] for one in processes if one["role"] == "worker 0")
        os.kill(pid, signal.SIGKILL)
        wait_endpoint(gateway, upstream.address, inFlightByWorker=[0, left])
        gateway.wait_replaced([pid])
        wait_endpoint(gateway, upstream.address, inFlightByWorker=[0, left], workers=2)
        go.set()
        wait_endpoint(gateway, upstream.address, inFlight=0)


def test_an_endpoint_that_goes_frees_its_slot() -> None:
    (port,) = free_ports(1)
    with (
        Upstream() as one,
        Upstream() as other,
        GatewayProcess(config(port, one, other), workers=2) as gateway,
    ):
        assert set(endpoints(gateway)) == {one.address, other.address}
        gateway.reload(config(port, other))
        assert set(endpoints(gateway)) == {other.address}
        assert fetch(port).status == 200
        gateway.wait_metric("agentgateway_shm_slots_used", 1, table="endpoints")
        gateway.reload(config(port, one, other))
        assert set(endpoints(gateway)) == {one.address, other.address}


@pytest.fixture(scope="module")
def idle() -> Iterator[GatewayProcess]:
    (port,) = free_ports(1)
    with (
        Upstream() as one,
        Upstream() as other,
        GatewayProcess(config(port, one, other), workers=2) as gateway,
    ):
        yield gateway


def test_admin_overview(idle: GatewayProcess) -> None:
    status, found = admin(idle, "GET", "/state")
    tables = {one["name"]: one for one in found["tables"]}
    assert status == 200
    assert {"rates", "endpoints"} <= tables.keys()
    assert tables["endpoints"]["used"] == 2
    assert tables["endpoints"]["slots"] >= 4096
    assert tables["endpoints"]["refusals"] == tables["endpoints"]["damaged"] == 0


def test_admin_rows(idle: GatewayProcess) -> None:
    status, found = admin(idle, "GET", "/state/endpoints?limit=1")
    assert (status, len(found["rows"]), found["hasMore"]) == (200, 1, True)
    (row,) = found["rows"]
    status, found = admin(idle, "GET", f"/state/endpoints?prefix={row['key'][:12]}")
    assert (status, found["rows"], found["hasMore"]) == (200, [row], False)
    status, found = admin(idle, "GET", "/state/endpoints?prefix=service/default/model")
    assert len(found["rows"]) == 2
    assert admin(idle, "GET", "/state/endpoints?prefix=nothing")[1]["rows"] == []


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "said"),
    [
        ("GET", "/state/nothing", {}, 404, "no such table; there are rates"),
        ("GET", "/state/endpoints?limit=0", {}, 400, "limit: expected"),
        ("GET", "/state/endpoints?limit=x", {}, 400, "limit: expected"),
        ("GET", "/state/endpoints?limit=10001", {}, 400, "limit: expected"),
        ("POST", "/state/endpoints/xyz/reset", {}, 400, "32 hexadecimal digits"),
        ("POST", f"/state/endpoints/{'AB' * 16}/reset", {}, 400, "32 hexadecimal digits"),
        ("POST", f"/state/endpoints/{'00' * 16}/reset", {}, 404, "no key 0000"),
        ("POST", f"/state/nothing/{'00' * 16}/reset", {}, 404, "no such table"),
        ("GET", f"/state/endpoints/{'00' * 16}/reset", {}, 405, "Not Allowed"),
        ("POST", "/state/endpoints", {}, 405, "Not Allowed"),
        ("GET", "/state", {"origin": "http://evil.test"}, 403, "origin"),
        ("POST", f"/state/rates/{'00' * 16}/reset", {"origin": "http://e.test"}, 403, "origin"),
        ("GET", "/state/rates", {"host": "evil.test"}, 403, "host"),
    ],
)
def test_admin_refusals(
    idle: GatewayProcess, method: str, path: str, headers: dict[str, str], status: int, said: str
) -> None:
    got, body = admin(idle, method, path, **headers)
    assert got == status
    assert said in str(body)


def test_command_line(idle: GatewayProcess) -> None:
    overview = state(idle)
    assert overview.returncode == 0
    assert overview.stdout.splitlines()[0].split()[:3] == ["name", "used", "slots"]
    found = json.loads(state(idle, "endpoints", "--json", "--limit", "1").stdout)
    assert (len(found["rows"]), found["hasMore"]) == (1, True)
    cut = state(idle, "endpoints", "--limit", "1")
    assert "--limit shows more" in cut.stderr
    assert state(idle, "rates").stdout == "nothing\n"
    for status, arguments, said in (
        (2, ["tunnels"], "invalid choice"),
        (1, ["endpoints", "--reset", "00" * 16], "no key"),
    ):
        refused = state(idle, *arguments)
        assert (refused.returncode, refused.stdout) == (status, "")
        assert said in refused.stderr
