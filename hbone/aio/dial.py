"""Opens TCP connections whose sockets somebody prepares before their first packet leaves.

Source: spec istio 1.10; socket(7) (SO_MARK), ip(7) (IP_TRANSPARENT).

A packet mark or a foreign source address counts from the SYN on, so it must be on the socket before
it connects; `create_connection` gives no chance for that.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

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
    """The protocol of a connection. Raises: OSError. See `open_socket`."""
    sock = await open_socket(loop, host, port, source_ip=source_ip, prepare=prepare)
    try:
        _, protocol = await loop.create_connection(factory, sock=sock)
    except BaseException:
        sock.close()
        raise
    return protocol


async def open_socket(
    loop: asyncio.AbstractEventLoop,
    host: str,
    port: int,
    *,
    source_ip: str = "",
    prepare: Prepare | None = None,
) -> socket.socket:
    """A connected socket, the addresses tried in their order. Raises: OSError.

    The time it may take is the caller's to limit.
    """
    failure: OSError | None = None
    for family, _, _, _, address in await _addresses(loop, host, port):
        sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            sock.setblocking(False)
            if prepare is not None:
                prepare(sock)
            if source_ip:
                sock.bind((source_ip, 0))
            await loop.sock_connect(sock, address)
        except OSError as error:
            sock.close()
            failure = failure or error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure or OSError(f"{host} has no address")


async def _addresses(loop: asyncio.AbstractEventLoop, host: str, port: int) -> Sequence[Any]:
    kind, numeric = socket.SOCK_STREAM, socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    try:
        try:
            # No lookup: it would wait behind those of names that nobody answers.
            return socket.getaddrinfo(host, port, type=kind, flags=numeric)
        except socket.gaierror:
            return await loop.getaddrinfo(host, port, type=kind)
    except UnicodeError as error:
        raise OSError(errno.EINVAL, "no name that can be looked up") from error
