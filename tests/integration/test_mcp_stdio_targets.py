"""Servers that run as processes: one a session, held by one worker and used through all."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import ROOT, GatewayProcess, free_ports
from tests.support.mcp_server import McpClient, McpServer, mcp_config, messages
from tests.support.processes import wait_until
from tests.support.upstream import Upstream

SCRIPT = str(ROOT / "tests" / "support" / "mcp_stdio.py")


def stdio(name: str, port: int) -> dict[str, Any]:
    """The server; `port` tells its processes from those of other tests."""
    return {"name": name, "stdio": {"cmd": sys.executable, "args": [SCRIPT, f"mine-{port}"]}}


def children(port: int) -> list[int]:
    """Processes of the server, whoever their parent is by now."""
    found = []
    wanted = f"mine-{port}".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if wanted in line.split(b"\0"):
                found.append(int(entry.name))
    return found


@pytest.fixture(scope="module")
def gateway() -> Iterator[tuple[GatewayProcess, int]]:
    (port,) = free_ports(1)
    config = mcp_config(port, stdio("local", port))
    with GatewayProcess(config, workers=3) as process:
        yield process, port
    assert children(port) == []


def test_one_process_a_session_through_all_workers(gateway: tuple[GatewayProcess, int]) -> None:
    _, port = gateway
    client = McpClient(port)
    client.initialize()
    assert len(children(port)) == 1
    for n in range(30):
        assert str(n) in client.text("echo", text=f"v{n}")
    assert len(children(port)) == 1
    other = McpClient(port)
    other.initialize()
    assert len(children(port)) == 2
    for one in (client, other):
        assert one.end().status == 200
    wait_until(lambda: children(port) == [])


def test_modern_clients_share_a_process(gateway: tuple[GatewayProcess, int]) -> None:
    _, port = gateway
    for n in range(12):
        got = McpClient(port).modern("tools/call", "echo", name="echo", arguments={"text": n})
        assert got.status == 200
    # One a worker at most.
    assert 1 <= len(children(port)) <= 3


@pytest.mark.parametrize("times", [1, 2])
def test_killed_owner(times: int) -> None:
    (port,) = free_ports(1)
    with GatewayProcess(mcp_config(port, stdio("local", port)), workers=2) as gateway:
        client = McpClient(port)
        client.initialize()
        for _ in range(times):
            pids = gateway.worker_pids()
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            gateway.wait_replaced(pids)
            for n in range(10):
                assert str(n) in client.text("echo", text=f"v{n}")
        assert len(children(port)) == 1
    assert children(port) == []


def test_killed_process(gateway: tuple[GatewayProcess, int]) -> None:
    _, port = gateway
    before = set(children(port))
    client = McpClient(port)
    client.initialize()
    (mine,) = set(children(port)) - before
    os.kill(mine, signal.SIGKILL)
    wait_until(lambda: mine not in children(port))

    def served() -> bool:
        # It may be started again only after a moment.
        return client.request("tools/call", name="echo", arguments={"text": "x"}).status == 200

    wait_until(served)
    client.end()


def test_beside_a_server_over_http() -> None:
    (port,) = free_ports(1)
    with Upstream(McpServer("far")) as up:
        config = mcp_config(port, stdio("near", port), ("far", up.address))
        with GatewayProcess(config, workers=2):
            client = McpClient(port)
            client.initialize()
            for _ in range(6):
                assert client.text("far_echo") == "far: echo {}"
                assert client.text("near_echo", text="n") == "n"
            # The process knows no list, which is no failure.
            listed = [tool["name"] for tool in client.result("tools/list")["tools"]]
            assert listed[0] == "far_echo"
            assert len(children(port)) == 1
    assert children(port) == []


def test_reloads_leave_the_process() -> None:
    (port,) = free_ports(1)
    config = mcp_config(port, stdio("local", port))
    with GatewayProcess(config, workers=2) as process:
        client = McpClient(port)
        client.initialize()
        before = children(port)
        route = config["binds"][0]["listeners"][0]["routes"][0]
        for n in range(5):
            route["name"] = "route0"
            route["policies"] = {"requestHeaderModifier": {"set": {"x-n": str(n)}}}
            process.reload(config)
            assert "v" in client.text("echo", text="v")
        assert set(before) <= set(children(port))


def test_processes_of_a_target_that_is_gone_end() -> None:
    (port,) = free_ports(1)
    config = mcp_config(port, stdio("local", port), stdio("other", port))
    targets = config["binds"][0]["listeners"][0]["routes"][0]["backends"][0]["mcp"]["targets"]
    with GatewayProcess(config, workers=2) as process:
        client = McpClient(port)
        client.initialize()
        assert len(children(port)) == 2
        del targets[0]
        process.reload(config)
        wait_until(lambda: len(children(port)) == 1)


def test_program_that_is_not_there() -> None:
    (port,) = free_ports(1)
    target = {"name": "none", "stdio": {"cmd": "/nonexistent/program"}}
    with GatewayProcess(mcp_config(port, target)):
        params = {"protocolVersion": "2025-11-25", "capabilities": {}}
        greeting = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
        got = McpClient(port).post(greeting)
        assert got.status in (502, 503)
        assert messages(got)[0]["error"]["code"] == -32603
