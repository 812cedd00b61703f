"""What becomes of a connection that stops being HTTP: octets pass both ways until both sides end.

Source: RFC 9110 sections 7.8 (upgrade) and 9.3.6 (CONNECT).
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from sidecar.http.message import Tunnel


class NearSide(Protocol):
    """The client's end of a tunnel. It is idle from `touch` on, until octets pass again."""

    transport: asyncio.Transport

    def touch(self) -> None:
        """The tunnel is in use."""

    async def tunnel_read(self) -> bytes:
        """Next octets; b"" when the client will send no more."""

    async def tunnel_write(self, data: bytes) -> None:
        """Send; returns when more may be sent."""


async def join(near: NearSide, far: Tunnel, loop: asyncio.AbstractEventLoop) -> None:
    """Pass octets both ways; returns when both sides are closed, however that came about."""
    up = loop.create_task(_pass_up(near, far))
    transport = near.transport
    try:
        while True:
            near.touch()
            data = await far.read()
            if not data:
                break
            await near.tunnel_write(data)
        if transport.can_write_eof():
            transport.write_eof()
            await up
    finally:
        up.cancel()
        far.close()
        transport.close()


async def _pass_up(near: NearSide, far: Tunnel) -> None:
    while True:
        data = await near.tunnel_read()
        if not data:
            far.write_eof()
            return
        near.touch()
        await far.write(data)
        del data  # a tunnel at rest holds nothing
