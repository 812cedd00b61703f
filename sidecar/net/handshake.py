"""What a finished TLS handshake told: kept with the connection, and followed (ALPN).

Source: RFC 7301 (ALPN); spec/config.md section 2.1.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from typing import cast, final

from sidecar.http.client_cert import WORKLOAD
from sidecar.http.identity import IdentityError, forget_identity, identity_of
from sidecar.http.message import Connection, TlsInfo
from sidecar.net.tls_context import ListenerContext

_log = logging.getLogger("sidecar.net.handshake")


def note(
    connection: Connection,
    transport: asyncio.BaseTransport,
    sni: str,
    keeps: TlsInfo | None = None,
) -> TlsInfo:
    """Keep what the handshake told with the connection. Raises IdentityError: a certificate that
    no rule can read lets nobody in, nor one that the listener's own check refuses.

    `keeps`: of the tunnel that the connection came through, if any. Whom that has proved stays the
    client as long as the inner handshake proves nobody.
    """
    ssl_object: ssl.SSLObject = transport.get_extra_info("ssl_object")
    check(ssl_object)
    shown = ssl_object.getpeercert(binary_form=True)
    tls = connection.tls = TlsInfo(
        sni,
        ssl_object.selected_alpn_protocol() or "",
        ssl_object.version() or "",
        shown or (None if keeps is None else keeps.peer_certificate),
    )
    if shown:
        forget_identity(connection)
    if shown and checks(ssl_object):
        connection.extra[WORKLOAD] = True
    who = identity_of(connection)
    if who is not None and who.spiffe_id is not None:
        connection.extra["identity"] = who.spiffe_id
    return tls


def checks(ssl_object: ssl.SSLObject) -> bool:
    """Whether the listener's clients are workloads of a trust domain (`tls.spiffe`)."""
    context = ssl_object.context
    return isinstance(context, ListenerContext) and context.check_peer is not None


def check(ssl_object: ssl.SSLObject) -> None:
    """What the listener asks of a client beyond OpenSSL's checks. Raises: IdentityError."""
    context = ssl_object.context
    if isinstance(context, ListenerContext) and context.check_peer is not None:
        try:
            context.check_peer(ssl_object)
        except ssl.SSLCertVerificationError as error:
            raise IdentityError(str(error)) from error


@final
class AfterHandshake(asyncio.Protocol):
    """Hands a TLS connection to the protocol that ALPN chose, as soon as it is up.

    `protocol_for(connection, alpn)`: makes that protocol; `alpn` is "" when none was agreed on.
    """

    def __init__(
        self,
        connection: Connection,
        sni: str,
        protocol_for: Callable[[Connection, str], asyncio.Protocol],
        keeps: TlsInfo | None = None,
    ) -> None:
        self._connection = connection
        self._sni = sni
        self._protocol_for = protocol_for
        self._keeps = keeps

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The handshake is done."""
        connection = self._connection
        try:
            tls = note(connection, transport, self._sni, self._keeps)
        except IdentityError as error:
            _log.debug("connection from %s: %s", connection.peer_host, error)
            cast("asyncio.Transport", transport).abort()
            return
        protocol = self._protocol_for(connection, tls.alpn)
        cast("asyncio.Transport", transport).set_protocol(protocol)
        protocol.connection_made(transport)
