"""Keeps web pages away from an operator's door.

A page the operator visits can make the browser call a port of the same machine, also under a name
of its own that it lets resolve to 127.0.0.1 (DNS rebinding). On a loopback address only loopback
names are answered, and everywhere an `Origin` must be the page's own.

Source: hardening case 42 (DNS rebinding; on by default); spec/config.md section 8.4 for the
origins of the user interface's development servers.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import final

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

DEVELOPMENT_ORIGINS = ("http://localhost:3000", "http://localhost:19000")


@final
class OriginGuard:
    """ASGI middleware. `checks_host`: the server is bound to a loopback address."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        checks_host: bool,
        origins: Iterable[str] = DEVELOPMENT_ORIGINS,
    ) -> None:
        self._app = app
        self._checks_host = checks_host
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403, or pass the request on."""
        if scope["type"] == "http":
            refusal = self._refusal(scope["headers"])
            if refusal:
                await PlainTextResponse(refusal, 403)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, headers: Iterable[tuple[bytes, bytes]]) -> str:
        hosts: list[str] = []
        origins: list[str] = []
        for name, value in headers:
            if name == b"host":
                hosts.append(value.decode("latin-1").lower())
            elif name == b"origin":
                origins.append(value.decode("latin-1").lower())
        if self._checks_host and (len(hosts) != 1 or not is_loopback(host_name(hosts[0]))):
            return "host not allowed\n"
        own = {f"{scheme}://{host}" for scheme in ("http", "https") for host in hosts}
        if any(origin not in own and origin not in self._origins for origin in origins):
            return "origin not allowed\n"
        return ""


def host_name(authority: str) -> str:
    """`[::1]:80` → `::1`, `localhost:80` → `localhost`; "" for what is neither."""
    if authority.startswith("["):
        host, bracket, port = authority[1:].partition("]")
        return host if bracket and (not port or port[0] == ":") else ""
    host, _, port = authority.partition(":")
    return host if not port or port.isdigit() else ""


def is_loopback(host: str) -> bool:
    """Whether a name or address means this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
