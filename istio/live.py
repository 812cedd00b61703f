"""What is under way at a waypoint, to be judged again when policies or what they bind change.

Source: spec istio sections 1.8 and 4.1.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, final
from weakref import WeakSet

from hbone.aio import Tunnel
from istio.authz import Stage
from istio.judge import Judge
from sidecar.gateway.mesh import Front
from sidecar.http.message import Connection
from sidecar.net.listener import Port

_HANDED: Final = "meshHanded"
"""Where a connection that another proxy handed on keeps what it is judged for."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Live:
    """A tunnel under way."""

    front: Front
    connection: Connection
    stage: Stage
    tunnel: Tunnel


@final
class Lives:
    """All tunnels of one worker, and the connections that other proxies handed on to it."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._tunnels: dict[Tunnel, Live] = {}
        self._ports: WeakSet[Port] = WeakSet()
        """Where connections are served that were handed on."""
        self._received = self._sent = 0
        """Octets of tunnels that have ended."""

    def __len__(self) -> int:
        """Tunnels under way."""
        return len(self._tunnels)

    def octets(self) -> tuple[int, int]:
        """`(received, sent)` of all tunnels, those that have ended too."""
        received = sum(tunnel.received_bytes for tunnel in self._tunnels)
        sent = sum(tunnel.sent_bytes for tunnel in self._tunnels)
        return self._received + received, self._sent + sent

    def put(self, live: Live) -> None:
        """A tunnel was accepted, or is judged otherwise from now on."""
        self._tunnels[live.tunnel] = live

    def end(self, tunnel: Tunnel) -> None:
        """It is over."""
        del self._tunnels[tunnel]
        self._received += tunnel.received_bytes
        self._sent += tunnel.sent_bytes

    def hand(
        self, port: Port | None, front: Front, connection: Connection, stage: Stage
    ) -> Port | None:
        """The port for a connection that was handed on, if policies let it in there."""
        if port is None or not self._judge.permits(front, connection, stage):
            return None
        connection.extra[_HANDED] = front, stage
        self._ports.add(port)
        return port

    def end_denied(self, touched: Collection[str] | None) -> None:
        """End what policies do not let be any more.

        `touched`: of these services and workloads, by key, alone; None: of all.
        """
        for live in list(self._tunnels.values()):
            if self._is_denied(live.front, live.connection, live.stage, touched):
                live.tunnel.abort()

        def is_denied(connection: Connection) -> bool:
            held = connection.extra.get(_HANDED)
            if not isinstance(held, tuple):
                return False
            front, stage = held
            return self._is_denied(front, connection, stage, touched)

        for port in list(self._ports):
            port.cut(is_denied)

    def _is_denied(
        self, front: Front, connection: Connection, stage: Stage, touched: Collection[str] | None
    ) -> bool:
        if touched is not None and f"{front.kind}/{front.name}" not in touched:
            return False
        return not self._judge.permits(front, connection, stage)
