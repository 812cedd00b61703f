"""Who a fresh connection is from and what it wants, told before any octet of it is served.

Source: spec/config.md sections 2.1 and 10.2; sidecar.net.proxyproto, sidecar.net.clienthello.

Nothing is taken from the socket but the PROXY header itself: what comes ahead of a handshake is
peeked at.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final, TypeVar

from sidecar.http.identity import note_workload
from sidecar.http.message import Connection
from sidecar.net import clienthello, proxyproto
from sidecar.net.stream import ByteStream

_PEEK_BYTES: Final = 18 * 1024
_PROXY_SECONDS: Final = 5.0
_T = TypeVar("_T")


def describe(
    sock: socket.socket,
    address: tuple[str, int],
    number: int,
    keepalive: tuple[int, int, int] | None,
) -> Connection:
    """The connection of an accepted socket, whose options are set. Raises OSError.

    `address`: the peer's, from accept. `number`: the connection's in its port. `keepalive`: seconds
    of idleness, seconds between probes, probes; None for no probes.
    """
    local = sock.getsockname()
    peer = _plain(address[0])
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if keepalive is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, keepalive[0])
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, keepalive[1])
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, keepalive[2])
    return Connection(peer, address[1], _plain(local[0]), local[1], peer, address[1], None, number)


async def take_proxy_header(
    loop: asyncio.AbstractEventLoop,
    sock: socket.socket,
    connection: Connection,
    versions: tuple[int, ...],
    *,
    is_optional: bool,
    trusts_identity: bool = False,
) -> bool:
    """Take the PROXY header off the socket into `connection`; False when it must be closed.

    `trusts_identity`: whether the sender's word proves who the client is, a proxy of the mesh's.
    Raises OSError (TimeoutError among them) and what proxyproto.parse raises.
    """

    def parse(data: bytes) -> proxyproto.ProxyHeader | None:
        return proxyproto.parse(data, versions)

    async with asyncio.timeout(_PROXY_SECONDS):
        header = await _peek(loop, sock, parse)
    if header is None:
        return False
    if header.is_absent:
        return is_optional
    sock.recv(header.size)
    if header.source is not None:
        connection.peer_host, connection.peer_port = header.source
    if header.destination is not None:
        connection.local_host, connection.local_port = header.destination
    if trusts_identity and header.identity:
        note_workload(connection, header.identity)
    return True


async def peek_hello(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, seconds: float
) -> clienthello.ClientHello | None:
    """The ClientHello, left in the socket; None when the peer ends without one.

    Raises OSError (TimeoutError among them) and what clienthello.parse raises.
    """
    async with asyncio.timeout(seconds):
        return await _peek(loop, sock, clienthello.parse)


async def read_hello(stream: ByteStream) -> tuple[clienthello.ClientHello, bytes]:
    """The ClientHello of a connection in a tunnel, and all that was read for it.

    Raises clienthello.HelloError, and what the stream raises. The caller bounds the time.
    """
    data = b""
    while len(data) < _PEEK_BYTES:
        more = await stream.read()
        if not more:
            break
        data += more
        hello = clienthello.parse(data)
        if hello is not None:
            return hello, data
    raise clienthello.HelloError("the connection ended without a ClientHello", is_tls=False)


async def _peek(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, parse: Callable[[bytes], _T | None]
) -> _T | None:
    """Look at octets without taking them until `parse` is satisfied; None at EOF."""
    wanted = 1
    while True:
        # Level-triggered readiness must wait for more than what was seen already.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, wanted)
        await _wait_readable(loop, sock)
        data = sock.recv(_PEEK_BYTES, socket.MSG_PEEK)
        found = parse(data) if data else None
        if found is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
            return found
        if len(data) < wanted or len(data) >= _PEEK_BYTES:
            return None
        wanted = len(data) + 1


async def _wait_readable(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    ready: asyncio.Future[None] = loop.create_future()

    def resolve() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(sock, resolve)
    try:
        await ready
    finally:
        loop.remove_reader(sock)


def _plain(host: str) -> str:
    """An address as the operator writes it: without the IPv6 mapping of a dual-stack socket."""
    host = host.partition("%")[0]
    return host.removeprefix("::ffff:") if "." in host else host
