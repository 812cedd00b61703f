"""Far ends of tunnels."""

from __future__ import annotations

import asyncio
import socket

import pytest

from sidecar.net import dialled
from sidecar.net.dialled import DialledTunnel


class _Noted(asyncio.Protocol):
    """Hands everything on to a tunnel; `lost` is done at the end."""

    def __init__(self, tunnel: DialledTunnel, lost: asyncio.Future[None]) -> None:
        self.tunnel = tunnel
        self.lost = lost

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.tunnel.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.tunnel.connection_lost(exc)
        self.lost.set_result(None)


async def test_a_peer_that_takes_nothing_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialled, "_LAST_SECONDS", 0.01)
    loop = asyncio.get_running_loop()
    lost: asyncio.Future[None] = loop.create_future()
    tunnel = DialledTunnel(loop)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        transport, _ = await loop.create_connection(lambda: _Noted(tunnel, lost), "127.0.0.1", port)
        taken, _ = server.accept()
        with taken:
            while not transport.get_write_buffer_size():
                transport.write(bytes(1 << 20))
            tunnel.close()
            async with asyncio.timeout(20):
                await lost
