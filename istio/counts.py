"""What the mesh in one worker says of itself, as metrics.

Source: spec istio section 1.5 (flags); house style of series (telemetry.metrics).
"""

from __future__ import annotations

from collections import Counter
from typing import Any, final

from istio.upstream import Upstream
from istio.waypoint import Entrance
from sidecar.telemetry.metrics import CONNECT_SECONDS, Registry


@final
class Counts:
    """`before`: of the metrics that these replace: what those counted is counted."""

    def __init__(self, registry: Registry, before: Counts | None) -> None:
        self.registry = registry
        self._seen: dict[tuple[str, str], int] = {} if before is None else before._seen

    def take(self, entrance: Entrance, upstream: Upstream) -> None:
        """Write what is so now."""
        inward, outward = (("direction", "inbound"),), (("direction", "outbound"),)
        registry = self.registry
        connections = sum(server.connections for server in entrance.servers)
        registry.gauge("hbone_connections", inward).set(connections)
        registry.gauge("hbone_connections", outward).set(upstream.connections)
        registry.gauge("hbone_tunnels", inward).set(len(entrance.lives))
        for server in entrance.servers:
            self._add("hbone_tunnels_total", "status", server.answered, id(server))
            self._add("hbone_connection_errors_total", "flag", server.ended, id(server))
            while server.handshakes:
                seconds = server.handshakes.popleft()
                registry.histogram("hbone_handshake_seconds", CONNECT_SECONDS).observe(seconds)
        self._add("hbone_dials_failed_total", "flag", upstream.failed, 0)
        self._count("hbone_upstream_tunnels_total", upstream.opened)
        received, sent = entrance.lives.octets()
        self._count("hbone_received_bytes_total", received)
        self._count("hbone_sent_bytes_total", sent)

    def _add(self, name: str, label: str, counted: Counter[Any], of: int) -> None:
        for value, total in counted.items():
            key = name, f"{label}={value}@{of}"
            more = total - self._seen.get(key, 0)
            if more:
                self._seen[key] = total
                self.registry.counter(name, ((label, str(value)),)).add(more)

    def _count(self, name: str, total: int) -> None:
        more = total - self._seen.get((name, ""), 0)
        if more > 0:
            self._seen[name, ""] = total
            self.registry.counter(name).add(more)
