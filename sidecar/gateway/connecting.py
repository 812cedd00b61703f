"""How backends are connected to: settings of their pools, and TLS that those of equal configuration
share.

Source: spec/config.md sections 4 and 10.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from hashlib import blake2b
from typing import Any, final

import orjson

from sidecar.config.scalars import duration_seconds
from sidecar.gateway.upstream import PoolKey, Pools
from sidecar.net.dialer import Address
from sidecar.net.pool import Pool, PoolSettings
from sidecar.net.svid import Svids
from sidecar.net.tls_client import ClientTls

Data = Mapping[str, Any]
NamedTls = tuple[str, ClientTls | None]
"""A digest of the configuration, "" for none, and what it makes."""


@final
class Connecting:
    """Pools and TLS of one compilation's backends."""

    def __init__(self, pools: Pools, svids: Svids | None) -> None:
        self._pools = pools
        self._svids = svids
        self._tls: dict[str, ClientTls] = {}

    def tls(self, payload: Data | None, hostname: str) -> NamedTls:
        """`(digest, TLS)`: equal configuration towards an equal name shares contexts."""
        if payload is None:
            return "", None
        text = orjson.dumps([payload, hostname], option=orjson.OPT_SORT_KEYS)
        digest = blake2b(text, digest_size=12).hexdigest()
        tls = self._tls.get(digest)
        if tls is None:
            tls = self._tls[digest] = ClientTls(payload, hostname, svids=self._svids)
        return digest, tls

    def pool(self, address: Address, tls: NamedTls, settings: PoolSettings) -> Pool:
        """Kept over reloads while nothing of it changes."""
        return self._pools.get(PoolKey(address, tls[0], settings), tls[1])


def pool_settings(data: Data, base: PoolSettings | None = None) -> PoolSettings:
    """From `config.backend` or a backend's `tcp`."""
    base = base or PoolSettings()
    dial = base.dial
    keep = data.get("keepalives")
    if keep is not None:
        dial = replace(
            dial,
            keepalive=bool(keep.get("enabled", True)),
            keepalive_time_seconds=_whole(keep.get("time"), dial.keepalive_time_seconds),
            keepalive_interval_seconds=_whole(
                keep.get("interval"), dial.keepalive_interval_seconds
            ),
            keepalive_retries=keep.get("retries") or dial.keepalive_retries,
        )
    connect = data.get("connectTimeout")
    if connect is not None:
        dial = replace(dial, connect_seconds=_seconds(connect))
    idle = data.get("poolIdleTimeout")
    return replace(
        base,
        dial=dial,
        idle_seconds=base.idle_seconds if idle is None else _seconds(idle),
        max_idle=data.get("poolMaxSize") or base.max_idle,
    )


def _seconds(value: Any) -> float:
    """A duration: text, or `{secs, nanos}` as a schema form of the reference has it."""
    if isinstance(value, Mapping):
        return float(value.get("secs", 0)) + float(value.get("nanos", 0)) / 1e9
    return duration_seconds(value)


def _whole(value: Any, default: int) -> int:
    return default if value is None else max(1, round(_seconds(value)))
