"""Finds out whether the redirect rules take our own packets for the application's.

Source: RFC 5737 (192.0.2.0/24 is nobody's); ip(7), IP_TTL.

If they do, each connection that we make comes back to us, to be made again, without end. So one is
made to an address that is nobody's, and lives for no hop: it can only be accepted here.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Final

from hbone.aio import Prepare

NOBODY: Final = ("192.0.2.1", 9)
_SECONDS: Final = 1.0


async def is_redirected(prepare: Prepare) -> bool:
    """Whether a connection of ours is redirected. To be asked while the listener accepts."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        prepare(sock)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)
        with contextlib.suppress(OSError):  # nobody there, no way there, or no answer in time
            async with asyncio.timeout(_SECONDS):
                await loop.sock_connect(sock, NOBODY)
            return True
    return False
