"""The ports of a worker: opened before a configuration is accepted, kept across it, drained.

Source: design section 1 (SO_REUSEPORT); spec/config.md section 10.2.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Final, final

from sidecar.errors import ConfigError
from sidecar.gateway.handover import Inherited
from sidecar.gateway.plan import Bind
from sidecar.net.bind import Gate
from sidecar.net.listener import Port

_BACKLOG: Final = 4096
_INNER_MAX: Final = 1024
"""A client of a mesh may call any port of a workload: what nobody is connected through goes."""

Opened = dict[str, Sequence[socket.socket]]
"""The sockets of each bind: one, or more of them after an upgrade to fewer workers."""


@final
class Ports:
    """Keyed by bind. `gate`: what each of them serves for. `inherited`: see `handover`."""

    def __init__(self, gate: Gate, inherited: Inherited) -> None:
        self._gate = gate
        self._inherited = inherited
        self._listening: Opened = {}
        self._open: dict[str, Port] = {}
        self._inner: dict[str, Port] = {}
        """Binds without a socket, and fronts: entered through tunnels alone."""
        self._retiring: set[asyncio.Task[None]] = set()
        self._is_draining = False

    def open(self, changed: Mapping[str, Mapping[str, Any]], *, ipv6: bool) -> Opened:
        """Listening sockets of new binds. Raises ConfigError; then there are none.

        `changed`: new and changed resources, by key.
        """
        opened: Opened = {}
        for key, data in changed.items():
            kind, _, name = key.partition("/")
            port = data["port"] if kind == "bind" and data.get("mode") != "internal" else 0
            if not port or name in self._open:
                continue
            try:
                opened[name] = self._shared(port, ipv6=ipv6)
            except OSError as error:
                close_all(opened)
                raise ConfigError(key, f"port {port}: {refusal_of(error)}") from error
        return opened

    def _shared(self, port: int, *, ipv6: bool) -> Sequence[socket.socket]:
        """Of the older instance, or new ones. Raises: OSError."""
        family, host = _wildcard(ipv6=ipv6)
        taken = self._inherited.take(host, port, is_dual=family == socket.AF_INET6)
        return taken or [listening_socket(port, ipv6=ipv6, shared=True)]

    def listening(self) -> list[socket.socket]:
        """All sockets that are accepted from."""
        return [sock for socks in self._listening.values() for sock in socks]

    def swap(
        self,
        binds: Mapping[str, Bind],
        opened: Opened,
        retire_seconds: float,
    ) -> None:
        """Begin with new ports, change those that stay, close the others.

        `retire_seconds`: how long the connections of a closed one have to end.
        """
        if self._is_draining:
            close_all(opened)  # a configuration that came late: nobody would end what it serves
            return
        wanted = {k: bind for k, bind in binds.items() if bind.plan.port and bind.plan.opens_socket}
        # One that nobody is connected through is made anew when it is asked for.
        self._forget_idle()
        for key in [key for key in self._open if key not in wanted]:
            port = self._open.pop(key)
            del self._listening[key]
            port.drain()
            port.stop_accepting()
            task = self._gate.loop.create_task(_retire(port, retire_seconds))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)
        for key, bind in wanted.items():
            if key in opened:
                port = self._open[key] = Port(bind.plan, self._gate, *opened[key])
                self._listening[key] = opened[key]
                port.start()
            else:
                self._open[key].replace(bind.plan)
        self._inherited.close()  # ports that this configuration has no more

    def enter(self, bind: Bind) -> Port:
        """Where a connection that came through a tunnel is served."""
        port = self._open.get(bind.key) or self._inner.get(bind.key)
        if port is None:
            if len(self._inner) >= _INNER_MAX:
                self._forget_idle()
            port = self._inner[bind.key] = Port(bind.plan, self._gate)
        elif port.plan is not bind.plan:
            port.replace(bind.plan)
        return port

    def _forget_idle(self) -> None:
        self._inner = {key: port for key, port in self._inner.items() if port.connections}

    async def drain(self, minimum_seconds: float, maximum_seconds: float) -> None:
        """Go on accepting for the minimum, then finish what runs; at the maximum, cut it."""
        self._is_draining = True
        for port in (*self._open.values(), *self._inner.values()):
            port.drain()
        if minimum_seconds:
            await asyncio.sleep(minimum_seconds)
        self._listening.clear()
        for port in self._open.values():
            port.stop_accepting()
        loop = self._gate.loop
        ports = (*self._open.values(), *self._inner.values())
        waits = [loop.create_task(port.wait_idle()) for port in ports]
        if waits:
            await asyncio.wait(waits, timeout=max(maximum_seconds - minimum_seconds, 0.0))
        for port in ports:
            port.abort()
        if waits:
            await asyncio.wait(waits, timeout=0.5)
        for task in (*waits, *self._retiring):
            task.cancel()


def close_all(opened: Opened) -> None:
    """Of a configuration that is refused."""
    for socks in opened.values():
        for sock in socks:
            sock.close()


async def _retire(port: Port, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await port.wait_idle()
    port.abort()


def refusal_of(error: OSError) -> str:
    """Why a port cannot be had, in words."""
    if error.errno == errno.EADDRINUSE:
        return "in use by another process"
    if error.errno == errno.EACCES:
        return "permission denied; ports below 1024 need CAP_NET_BIND_SERVICE"
    return f"cannot listen: {error.strerror}"


def listening_socket(port: int, *, ipv6: bool, shared: bool = False) -> socket.socket:
    """A listening socket; `shared` with those of the other workers. Raises OSError."""
    family, host = _wildcard(ipv6=ipv6)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.setblocking(False)
        sock.bind((host, port))
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _wildcard(*, ipv6: bool) -> tuple[socket.AddressFamily, str]:
    """Family and address of all interfaces."""
    if ipv6 and socket.has_dualstack_ipv6():
        return socket.AF_INET6, "::"
    return socket.AF_INET, "0.0.0.0"
