"""Connections that come through a tunnel, served as those a port accepts: TLS, HTTP, relayed TCP.

Source: design section 1; spec/config.md section 10.2; sidecar.net.listener.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from sidecar.http.message import Connection, TlsInfo
from sidecar.net import admission, handshake
from sidecar.net.bind import TCP_IDLE_SECONDS, TlsTerminator
from sidecar.net.native import H1Server
from sidecar.net.stream import ByteStream, StreamTransport, Unread
from sidecar.net.tcp import Relay, RelayedStream
from sidecar.net.tls_stream import TlsStream

if TYPE_CHECKING:
    from sidecar.net.listener import Port


async def serve(port: Port, connection: Connection, stream: ByteStream) -> None:
    """Serve a connection that came through a tunnel, to its end.

    The caller has asked `gate.admit`. Raises: SidecarError, OSError, ssl.SSLError, and what the
    stream raises; it is to be aborted then.
    """
    plan = port.plan
    if plan.tcp_listener:
        await join(port, connection, stream, plan.tcp_listener)
    elif plan.tls is not None:
        await _serve_tls(port, plan.tls, connection, stream)
    else:
        host = port.hosts["http"]
        protocol = H1Server(host, connection, port.gate.loop, host.direct)
        transport = StreamTransport(port.gate.loop, stream, protocol)
        port.gate.connection_opened(plan.key, connection, 0.0)
        await transport.closed


async def _serve_tls(
    port: Port, tls: TlsTerminator, connection: Connection, stream: ByteStream
) -> None:
    plan = port.plan
    async with asyncio.timeout(plan.handshake_seconds):
        hello, early = await admission.read_hello(stream)
    key = tls.listener_for(hello.sni)
    context = None if key is None else tls.context_for(hello.sni)
    stream = Unread(stream, early)
    if key is None or (context is None and key not in plan.passed_through):
        stream.abort()
        return
    connection.extra["listener"] = key
    carried = connection.tls
    if key in plan.passed_through or context is None:
        connection.tls = replace(carried or TlsInfo(), sni=hello.sni)
        await join(port, connection, stream, key)
        return
    inner = TlsStream(stream, context)
    async with asyncio.timeout(plan.handshake_seconds):
        await inner.handshake()
    if key in plan.relayed:
        handshake.check(inner.ssl_object)
        connection.tls = replace(carried or TlsInfo(), sni=hello.sni)
        await join(port, connection, inner, key)
        return
    first = handshake.AfterHandshake(
        connection, hello.sni, port.hosts["https"].protocol_for, keeps=carried
    )
    extra = {"ssl_object": inner.ssl_object}
    transport = StreamTransport(port.gate.loop, inner, first, extra)
    port.gate.connection_opened(plan.key, connection, 0.0)
    await transport.closed


async def join(
    port: Port,
    connection: Connection,
    stream: ByteStream,
    key: str,
    other: Relay | None = None,
) -> None:
    """Relay a stream for a TCP listener, to its end. `other`: dialled already."""
    served: RelayedStream | None = None

    def lost(side: Relay) -> None:
        if served is not None:
            port.connections.forget(served, connection, side.received_bytes, side.sent_bytes)

    side = Relay(port.gate.sweeper, TCP_IDLE_SECONDS, lost)
    transport = StreamTransport(port.gate.loop, stream, side)
    served = RelayedStream(side)
    port.connections.open[served] = connection
    port.gate.connection_opened(port.plan.key, connection, 0.0)
    if other is None:
        await port.gate.relay(port.plan.key, key, connection, side)
    else:
        side.join(other)
    await transport.closed
