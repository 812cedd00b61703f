"""`x-forwarded-client-cert`: what a proxy says of a certificate, and from whom it is believed.

Source: Envoy's documentation of the field (SANITIZE is its default); spec istio 2.3.

Applications take the field for proof of who calls, so whoever may write it may call in anybody's
name. It is kept on connections whose own certificate the listener has verified, as of another
gateway before this one, and dropped on all others, before any policy sees it. What comes in a
tunnel of the mesh was written by a workload: the certificate there is the tunnel's, and says
nothing of the fields inside. Nor may the clients of a listener with `spiffe` write it: each
workload of the trust domain is one.
"""

from __future__ import annotations

from typing import Final

from sidecar.http.headers import Headers
from sidecar.http.message import Connection

CLIENT_CERT: Final = b"x-forwarded-client-cert"
WORKLOAD: Final = "workload"
"""In `extra` of a connection whose client has shown that it is a workload, and no more."""
_OF_WORKLOADS: Final = frozenset((WORKLOAD, "connectHeaders"))


def drop_unproven(headers: Headers, connection: Connection) -> None:
    """Take the field out of a request's, if this connection may not say it."""
    tls = connection.tls
    if (
        tls is None
        or tls.peer_certificate is None
        or not _OF_WORKLOADS.isdisjoint(connection.extra)
    ):
        headers.remove_all(CLIENT_CERT)
