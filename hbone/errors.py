"""What goes wrong in HBONE: one root, and a stable `flag` a log or a metric may carry.

Source: spec istio sections 1.5 and 1.8 (response flags of the access log).
"""

from __future__ import annotations

from typing import ClassVar, final


class HboneError(Exception):
    """Root. `flag` is a label that does not change between versions; "-" for none."""

    flag: ClassVar[str] = "-"


@final
class WireError(HboneError):
    """The connection must end: GOAWAY with `code` was queued. `reason` is a stable label."""

    flag = "H2_FAILURE"

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{reason} (HTTP/2 error {code})")
        self.code = code
        self.reason = reason


@final
class CertificateError(HboneError):
    """Our own certificate, key, roots or revocation list cannot be used: the operator's fault."""

    flag = "IDENTITY_ERROR"


@final
class PeerRejectedError(HboneError):
    """The peer's certificate proves no identity that is accepted here."""

    flag = "IDENTITY_ERROR"


@final
class RevokedError(HboneError):
    """The peer's certificate, or one of its issuers', was revoked."""

    flag = "CERT_REVOKED"


@final
class HandshakeError(HboneError):
    """TLS did not come about; on a client, maybe because the server refused its certificate."""

    flag = "TLS_FAILURE"


@final
class ProtocolMismatchError(HboneError):
    """TLS stands and the peer does not speak HTTP/2 over it."""

    flag = "H2_HANDSHAKE_FAILURE"


@final
class ConnectFailedError(HboneError):
    """No TCP connection to the peer."""

    flag = "CONNECT"


@final
class ConnectTimeoutError(HboneError):
    """Nobody answered in time: where TCP itself hangs, a NetworkPolicy is the usual cause."""

    flag = "NETWORK_POLICY"


@final
class TunnelRefusedError(HboneError):
    """The peer answered CONNECT with `status`, which was not 200."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the peer refused the tunnel with status {status}")
        self.status = status
        self.is_denied = status == 401
        """Istio's answer for a policy that denies."""


@final
class TunnelResetError(HboneError):
    """The tunnel's stream was reset, by either side. `code`: RFC 9113 section 7."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the tunnel was reset with HTTP/2 error {code}")
        self.code = code


@final
class TunnelUnprocessedError(HboneError):
    """The peer never looked at this CONNECT: it may be tried again on another connection."""


@final
class ConnectionLostError(HboneError):
    """The connection under the tunnel ended before the tunnel did."""
