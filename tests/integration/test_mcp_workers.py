"""What one worker hears, or knew when it was killed, the others act on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tests.support.gateway import GatewayProcess, free_ports
from tests.support.mcp_server import Events, McpClient, McpServer, mcp_config
from tests.support.processes import wait_until
from tests.support.upstream import Upstream

WORKERS = 4
ASKED = 60
"""Connections, so that every worker has some."""


@pytest.fixture
def servers() -> Iterator[tuple[McpServer, McpServer, int]]:
    (port,) = free_ports(1)
    one, two = McpServer("one"), McpServer("two")
    with Upstream(one) as first, Upstream(two) as second:
        targets = ("one", first.address), ("two", second.address)
        config = mcp_config(port, *targets, listCacheTtl="1h")
        with GatewayProcess(config, workers=WORKERS):
            yield one, two, port


def lists(server: McpServer) -> int:
    return sum(call["method"] == "tools/list" for call in server.calls)


def test_lists_change_for_all_workers(servers: tuple[McpServer, McpServer, int]) -> None:
    one, two, port = servers
    client = McpClient(port)
    client.initialize()

    def listed() -> set[str]:
        return {tool["name"] for tool in client.result("tools/list")["tools"]}

    for _ in range(ASKED):
        assert "one_new" not in listed()
    # Each worker has asked once.
    assert 1 < lists(one) <= WORKERS
    assert lists(two) == lists(one)
    with Events(client) as stream:
        one.hear()
        one.tools = (*one.tools, "new")
        one.tell("notifications/tools/list_changed")
        assert stream.next()["method"] == "notifications/tools/list_changed"
        for _ in range(ASKED):
            assert "one_new" in listed()
    assert lists(one) <= 2 * WORKERS
    # Of the other server nothing was dropped.
    assert lists(two) <= WORKERS


def test_sessions_of_a_killed_worker_end_at_the_server() -> None:
    server = McpServer("one")
    (port,) = free_ports(1)
    with Upstream(server) as up:
        config = mcp_config(port, ("one", up.address))
        config["config"] = {"mcp": {"sessionTtl": "2s"}}
        with GatewayProcess(config, workers=2) as gateway:
            clients = [McpClient(port) for _ in range(8)]
            for client in clients:
                client.initialize()
            ended = McpClient(port)
            ended.initialize()
            assert ended.end().status == 200
            victims = gateway.worker_pids()
            for victim in victims:
                os.kill(victim, signal.SIGKILL)
            gateway.wait_replaced(victims)
            wait_until(lambda: not server.sessions)
            # Each of them once.
            assert len(server.ended) == len(set(server.ended)) == 9
