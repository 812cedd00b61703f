"""Istio's older TLS (LEGACY_ISTIO_MTLS): straight to the workload's port, with SPIFFE identities.

Source: spec istio sections 1.2 and 2.4 (step 9).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Final, final

from hbone.aio import Credentials, Prepare, RevocationList
from hbone.aio.dial import open_socket
from hbone.aio.peer import Peer, accepts_identities, peer_of
from hbone.errors import CertificateError, RevokedError

_ALPN: Final = "istio"
_SWEEP: Final = 64


@final
class LegacyTls:
    """Dials, and knows whom it is connected with: who is revoked later is cut off then.

    `prepare`: sets options of the sockets before they connect, such as a packet mark.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        credentials: Credentials,
        *,
        prepare: Prepare | None = None,
    ) -> None:
        """Raises: CertificateError."""
        self._loop = loop
        self._prepare = prepare
        self._revoked: RevocationList | None = None
        self._peers: dict[asyncio.Transport, Peer] = {}
        """Of connections, some of which may be over."""
        self._sweep_at = _SWEEP
        self.set_credentials(credentials)

    def set_credentials(self, credentials: Credentials) -> None:
        """For what is dialled from now on. Raises: CertificateError."""
        context = credentials.context(is_server=False)
        context.set_alpn_protocols([_ALPN])
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._context = context
        self._credentials = credentials

    def set_revoked(self, revoked: RevocationList | None) -> None:
        """For what is dialled from now on, and ends connections to servers that are revoked."""
        self._revoked = revoked
        if revoked is None:
            return
        for transport, peer in list(self._peers.items()):
            try:
                revoked.check(peer)
            except RevokedError:
                del self._peers[transport]
                transport.abort()

    async def connect(
        self,
        factory: Callable[[], asyncio.Protocol],
        host: str,
        port: int,
        expected: frozenset[str],
    ) -> asyncio.Transport:
        """A connection to a server that has one of the identities. The time it may take is the
        caller's to limit. Raises: HboneError, OSError (ssl.SSLError is one)."""
        if self._credentials.has_expired:
            raise CertificateError(f"our certificate expired at {self._credentials.not_after}")
        sock = await open_socket(self._loop, host, port, prepare=self._prepare)
        try:
            made = await self._loop.create_connection(
                factory, sock=sock, ssl=self._context, server_hostname=""
            )
        except BaseException:
            sock.close()
            raise
        transport: asyncio.Transport = made[0]
        try:
            peer = peer_of(transport.get_extra_info("ssl_object"))
            accepts_identities(expected)(peer)
            if self._revoked is not None:
                self._revoked.check(peer)
        except BaseException:
            transport.abort()
            raise
        self._note(transport, peer)
        return transport

    def _note(self, transport: asyncio.Transport, peer: Peer) -> None:
        if len(self._peers) >= self._sweep_at:
            # Now and then: a protocol of its own for each, to hear of its end, would cost a call
            # for each read.
            alive = {one: who for one, who in self._peers.items() if not one.is_closing()}
            self._peers = alive
            self._sweep_at = max(_SWEEP, 2 * len(alive))
        self._peers[transport] = peer
