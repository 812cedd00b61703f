"""The ports of a worker, as configurations come and the worker ends."""

from __future__ import annotations

import asyncio
import socket
from types import SimpleNamespace
from typing import Any

from sidecar.gateway.handover import Inherited
from sidecar.gateway.ports import Ports


async def test_a_configuration_that_comes_while_it_drains_opens_nothing() -> None:
    gate: Any = SimpleNamespace(loop=asyncio.get_running_loop())
    ports = Ports(gate, Inherited())
    await ports.drain(0.0, 0.0)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        ports.swap({}, {"bind/late": [sock]}, 1.0)
        assert sock.fileno() == -1
        assert ports.listening() == []
