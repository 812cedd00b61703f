"""How long things may take and how much may be held, beyond what `wire.limits` says.

Source: spec istio 1.5, 1.7 and 1.8.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

from hbone.wire.authority import ILLEGAL_PORTS
from hbone.wire.limits import Limits


@final
@dataclass(frozen=True, slots=True)
class Settings:
    """Of a server or a pool; what concerns one of them says so."""

    limits: Limits = field(default_factory=Limits)
    connect_timeout_seconds: float = 10.0
    """Client: TCP, TLS and the server's settings together."""
    handshake_timeout_seconds: float = 10.0
    """Server: TLS and the client's settings together."""
    answer_timeout_seconds: float = 30.0
    """Client: from CONNECT to its answer. Servers answer after they have dialled the target."""
    idle_release_seconds: float = 300.0
    """Client: a pooled connection unused for so long is closed when its last tunnel ends."""
    max_connections: int = 10_000
    """Server: connections at once; those above are reset as they come."""
    refused_ports: frozenset[int] = ILLEGAL_PORTS
    """Server: targets answered with 503 before the handler sees them."""
    write_buffer_bytes: int = 256 * 1024
    """Of the transport; senders wait above it."""
    unread_output_bytes: int = 4 * 1024 * 1024
    """Beyond the buffer: what a peer that does not read may make us hold before it is cut."""
    keepalive_idle_seconds: int = 180
    """TCP keepalive; the same for its interval."""
    keepalive_probes: int = 9
