"""Opens TCP connections whose sockets somebody prepares before their first packet leaves.

Source: spec istio 1.10; socket(7) (SO_MARK), ip(7) (IP_TRANSPARENT).

A packet mark or a foreign source address counts from the SYN on, so it must be on the socket before
it connects; `create_connection` gives no chance for that.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TypeVar

_P = TypeVar("_P", bound=asyncio.BaseProtocol)

Prepare = Callable[[socket.socket], None]
"""Sets options of a socket that is neither bound nor connected. Raises: OSError."""


async def open_tcp(
    loop: asyncio.AbstractEventLoop,
    factory: Callable[[], _P],
    host: str,
    port: int,
    *,
    source_ip: str = "",
    prepare: Prepare | None = None,
) -> _P:
    """The protocol of a connection, its addresses tried in their order. Raises: OSError.

    The time it may take is the caller's to limit.
    """
    if prepare is None:
        local = (source_ip, 0) if source_ip else None
        _, protocol = await loop.create_connection(factory, host, port, local_addr=local)
        return protocol
    failure: OSError | None = None
    for family, _, _, _, address in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            prepare(sock)
            if source_ip:
                sock.bind((source_ip, 0))
            await loop.sock_connect(sock, address)
            _, protocol = await loop.create_connection(factory, sock=sock)
        except OSError as error:
            sock.close()
            failure = failure or error
        except BaseException:
            sock.close()
            raise
        else:
            return protocol
    raise failure or OSError(f"{host} has no address")
