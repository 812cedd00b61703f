"""CONNECT that met a route: a connection to the route's backend, and octets both ways.

Source: spec/config.md section 1.10 (`connect`, mode route) and 4.4; RFC 9110 section 9.3.6.
"""

from __future__ import annotations

import asyncio
import re
from typing import Final

from sidecar.errors import RequestError, SidecarError
from sidecar.gateway.exchange import Exchange
from sidecar.gateway.plan import Backend
from sidecar.http.message import Request, Response
from sidecar.net.dialled import DialledTunnel

_PORT: Final = re.compile("[1-9][0-9]{0,4}")
_ROUTED: Final = "/"
"""The target that stands for CONNECT's own while routes and policies look at the request; its
authority says where it wants to go."""


def begin(request: Request) -> None:
    """Before routes are chosen. Raises: RequestError 400 for what is no `host:port`."""
    host, _, port = request.authority.rpartition(":")
    if "/" in request.target or not host or not _PORT.fullmatch(port):
        raise RequestError(400, "InvalidRequest", "CONNECT needs host:port", close=True)
    request.target = _ROUTED


async def tunnelled(request: Request, exchange: Exchange, backend: Backend) -> Response:
    """200 and the tunnel. Raises: SidecarError; nothing was sent to the client then."""
    if backend.serve is not None:
        raise RequestError(405, "Internal", "method not allowed", close=True)
    upstream = backend.upstream
    picked = upstream.pick_nowait(request)
    if picked is None:
        picked = await upstream.pick(request)
    exchange.endpoint = picked.label
    clock = exchange.worker.clock.monotonic_ns
    exchange.upstream_started_ns = clock()
    picked.begin()
    tunnel = DialledTunnel(asyncio.get_running_loop())
    failure: SidecarError | None = None
    try:
        await picked.pool.open_stream(lambda: tunnel)
    except SidecarError as error:
        failure = error
        raise
    finally:
        exchange.upstream_ended_ns = clock()
        picked.end(exchange.upstream_ns, None, failure)
    response = Response(200)
    response.tunnel = tunnel
    return response
