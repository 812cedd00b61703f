"""What Istio's proxies set on their sockets.

Source: spec istio 1.8.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from hbone.aio.settings import Settings


def set_keepalive(transport: asyncio.Transport, settings: Settings) -> None:
    """TCP keepalive and no delay; nothing inside a tunnel or on a Unix socket."""
    sock: Any = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", settings.keepalive_idle_seconds),
        ("TCP_KEEPALIVE", settings.keepalive_idle_seconds),  # macOS's name for it
        ("TCP_KEEPINTVL", settings.keepalive_idle_seconds),
        ("TCP_KEEPCNT", settings.keepalive_probes),
    ):
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
