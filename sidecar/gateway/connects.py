"""CONNECT into the gateway itself: what is inside comes to the bind of the target's port.

Source: spec/config.md sections 1.3 (`tunnelProtocol: connect`) and 1.10 (`connect`).
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final, Protocol, final

from sidecar.errors import RequestError, SidecarError
from sidecar.http.message import Connection, Request, Response
from sidecar.net.bind import CARRYING
from sidecar.net.listener import Port
from sidecar.net.pipe import PipeEnd, PipeTunnel, pipe

_log = logging.getLogger("sidecar.gateway.connects")
_DEPTH: Final = "connectDepth"
_MAX_DEPTH: Final = 4
"""Tunnels in tunnels: each costs us buffers, and a client needs one."""


class ConnectGate(Protocol):
    """What this needs of the worker."""

    loop: asyncio.AbstractEventLoop

    def port_of(self, number: int) -> Port | None:
        """See sidecar.gateway.mesh.MeshGate."""

    def examine(self, bind: str, connection: Connection) -> Awaitable[None] | None:
        """See sidecar.net.bind.Gate."""

    def admit(self, bind: str, connection: Connection) -> bool:
        """See sidecar.net.bind.Gate."""


@final
class Connects:
    """Those of one worker."""

    def __init__(self, gate: ConnectGate, own: Callable[[asyncio.Task[None]], None]) -> None:
        """`own`: takes the tasks that serve them."""
        self._gate = gate
        self._own = own
        self._number = 0

    async def answer(self, request: Request) -> Response:
        """200 and a tunnel. Raises: RequestError 400, 403, 404."""
        host, _, number = request.authority.rpartition(":")
        if not host or not number.isdigit() or not 0 < int(number) < 65536:
            raise RequestError(400, "InvalidRequest", "CONNECT needs host:port", close=True)
        port = self._gate.port_of(int(number))
        if port is None or port.plan.tunnel in CARRYING:
            raise RequestError(404, "NotFound", "no bind for this port", close=True)
        connection = self._described(request, host.strip("[]"), int(number))
        asked = self._gate.examine(port.plan.key, connection)
        if asked is not None:
            await asked
        if not self._gate.admit(port.plan.key, connection):
            raise RequestError(403, "Authorization", "authorization failed", close=True)
        near, far = pipe(self._gate.loop)
        self._own(self._gate.loop.create_task(self._serve(port, connection, far)))
        response = Response(200)
        response.tunnel = PipeTunnel(near)
        return response

    def _described(self, request: Request, host: str, port: int) -> Connection:
        outer = request.connection
        depth = outer.extra.get(_DEPTH)
        depth = depth + 1 if isinstance(depth, int) else 1
        if depth > _MAX_DEPTH:
            raise RequestError(400, "InvalidRequest", "too many tunnels in tunnels", close=True)
        self._number += 1
        # Who the client is stays proved; the server name was that of the tunnel.
        tls = outer.tls
        extra: dict[str, object] = {key: outer.extra[key] for key in _KEPT if key in outer.extra}
        return Connection(
            outer.peer_host,
            outer.peer_port,
            host,
            port,
            outer.raw_peer_host,
            outer.raw_peer_port,
            replace(tls, sni="", alpn="") if tls is not None and tls.peer_certificate else None,
            self._number,
            {
                **extra,
                _DEPTH: depth,
                "hostname": host,
                "connectHeaders": request.headers.copy(),
            },
        )

    async def _serve(self, port: Port, connection: Connection, far: PipeEnd) -> None:
        try:
            await port.serve(connection, far)
        except (SidecarError, OSError, ssl.SSLError) as error:
            _log.debug("a tunnel to port %d ended: %s", port.plan.port, error)
        finally:
            far.abort()


_KEPT: Final = ("peerIdentity", "identity", "workload")
