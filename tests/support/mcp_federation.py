"""A gateway before several MCP servers of tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from tests.support.gateway import GatewayProcess, free_ports
from tests.support.mcp_server import McpClient, McpServer, mcp_config
from tests.support.upstream import Upstream

Setting = tuple[McpClient, dict[str, McpServer], GatewayProcess]


@contextmanager
def federation(*servers: McpServer, workers: int = 2, **more: Any) -> Iterator[Setting]:
    with ExitStack() as stack:
        targets = [(one.name, stack.enter_context(Upstream(one)).address) for one in servers]
        (port,) = free_ports(1)
        config = mcp_config(port, *targets, **more)
        gateway = stack.enter_context(GatewayProcess(config, workers=workers))
        try:
            yield McpClient(port), {one.name: one for one in servers}, gateway
        finally:
            for one in servers:
                one.released.set()
                for listener in one.listeners:
                    listener.put(None)


def names(result: dict[str, Any], key: str = "tools", name: str = "name") -> list[str]:
    return [item[name] for item in result[key]]
