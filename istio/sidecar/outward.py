"""Opens the way that an outgoing connection shall take: TCP, a tunnel, a tunnel in a tunnel.

Source: spec istio 2.1 and 1.1.

There is no other way than the one that was decided: what should have gone through a tunnel and
cannot fails, and never leaves in plaintext.
"""

from __future__ import annotations

from typing import final

from hbone.aio import ByteStream, Pool, PoolKey, Prepare, dial_tcp
from hbone.errors import CertificateError
from istio.sidecar.ways import Transport, Way


@final
class Outward:
    """`pool` and `identity` are those of the current certificate, None and empty without one."""

    def __init__(self, prepare: Prepare, connect_seconds: float) -> None:
        self._prepare = prepare
        self._connect_seconds = connect_seconds
        self.pool: Pool | None = None
        self.identity = ""

    async def open(self, way: Way) -> ByteStream:
        """Raises: HboneError."""
        if way.transport is Transport.PLAIN:
            return await dial_tcp(way.host, way.port, self._connect_seconds, prepare=self._prepare)
        pool, outer = self.pool, way.outer
        if pool is None:
            raise CertificateError("there is no certificate yet")
        assert outer is not None
        key = PoolKey(self.identity, outer.expected, (way.host, way.port))
        tunnel = await pool.connect(key, outer.authority, outer.headers)
        if way.transport is Transport.HBONE:
            return tunnel
        inner = way.inner
        assert inner is not None
        return await pool.connect_inside(
            tunnel, self.identity, inner.expected, inner.authority, inner.headers
        )
