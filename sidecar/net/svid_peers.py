"""Whether the certificate of a peer is an SVID, and vouched for by its own trust domain's bundle.

Source: SPIFFE: X509-SVID.md section 5; SPIFFE_Trust_Domain_and_Bundle.md section 5.

OpenSSL has verified signatures, dates and usages against all bundles of a context together. One of
several bundles could so vouch for names of another: which root the chain ends in is looked at here.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final, final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from sidecar.http.spiffe_id import svid_id, trust_domain_of

_DER: Final = 2
"""`_ssl.ENCODING_DER`."""
_PASSED_MAX: Final = 10_000


@final
class PeerCheck:
    """For one context, so that a rotation forgets what was found with the bundles before it."""

    __slots__ = ("_anchors", "_now_ns", "_passed")

    def __init__(self, bundles: Mapping[str, str], now_ns: Callable[[], int]) -> None:
        """`bundles`: by trust domain, those that the context has. `now_ns()`: since 1970."""
        self._anchors = {
            domain: _ders(text) if len(bundles) > 1 else frozenset[bytes]()
            for domain, text in bundles.items()
        }
        self._now_ns = now_ns
        self._passed: dict[bytes, None] = {}
        """Digests of leaves whose chains were good, the oldest first."""

    def peer(self, ssl_object: ssl.SSLObject) -> str:
        """The SPIFFE ID of a finished handshake. Raises: ssl.SSLCertVerificationError."""
        der = ssl_object.getpeercert(binary_form=True)
        if der is None:
            raise _refused("the peer has shown no certificate")
        try:
            leaf = x509.load_der_x509_certificate(der)
            spiffe_id = svid_id(leaf)
        except ValueError as error:
            raise _refused(f"the certificate of the peer is no SVID: {error}") from error
        domain = trust_domain_of(spiffe_id) or ""
        anchors = self._anchors.get(domain)
        if anchors is None:
            raise _refused(f"the peer's trust domain {domain} is not trusted here")
        # A session that is resumed was verified when it began, and may last longer than the leaf.
        if leaf.not_valid_after_utc <= datetime.fromtimestamp(self._now_ns() / 1e9, UTC):
            raise _refused("the certificate of the peer has expired")
        if anchors:
            self._check_anchor(ssl_object, der, domain, anchors)
        return spiffe_id

    def _check_anchor(
        self, ssl_object: ssl.SSLObject, der: bytes, domain: str, anchors: frozenset[bytes]
    ) -> None:
        digest = sha256(der).digest()
        chain = verified_chain(ssl_object)
        # Of a resumed session there is no chain; it can only be one of this context.
        if not chain and digest in self._passed:
            return
        if not chain or chain[-1] not in anchors:
            raise _refused(f"the bundle of {domain} does not vouch for the peer's certificate")
        self._passed[digest] = None
        if len(self._passed) > _PASSED_MAX:
            del self._passed[next(iter(self._passed))]


def verified_chain(ssl_object: ssl.SSLObject) -> list[bytes]:
    """DER of the chain as OpenSSL has verified it, leaf first; empty for a resumed session."""
    public = getattr(ssl_object, "get_verified_chain", None)
    if public is not None:  # from Python 3.13 on
        return [bytes(one) for one in public()]
    inner: Any = ssl_object._sslobj  # type: ignore[attr-defined] # 3.11 and 3.12 have it there
    return [one.public_bytes(_DER) for one in inner.get_verified_chain() or ()]


def _ders(pem: str) -> frozenset[bytes]:
    found = x509.load_pem_x509_certificates(pem.encode())
    return frozenset(one.public_bytes(Encoding.DER) for one in found)


def _refused(why: str) -> ssl.SSLCertVerificationError:
    return ssl.SSLCertVerificationError(1, why)
