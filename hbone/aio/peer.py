"""Who is at the other end: the identities of a certificate that TLS has verified.

Source: spec istio 1.2; RFC 5280 section 4.2.1.6.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, final

from cryptography import x509

from hbone.errors import PeerRejectedError
from hbone.wire.identity import Identity, parse_identity


@final
@dataclass(frozen=True, slots=True)
class Peer:
    """`identity`: the one it acts as, the first of its certificate's."""

    identity: Identity
    identities: frozenset[str]
    """Every SPIFFE identity of the certificate, as URIs."""
    not_after: datetime
    chain: tuple[x509.Certificate, ...] = field(repr=False, compare=False)
    """As verified, leaf first, root last."""


Accepts = Callable[[Peer], None]
"""Raises PeerRejectedError or RevokedError for a peer that is not to be spoken with."""


def uris_of(certificate: x509.Certificate) -> list[str]:
    """The URIs among its alternative names. Raises: ValueError for a malformed extension."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    except (x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise ValueError("alternative names of a form nobody knows") from error
    return names.value.get_values_for_type(x509.UniformResourceIdentifier)


def peer_of(tls: ssl.SSLObject) -> Peer:
    """After the handshake. Raises: PeerRejectedError for a certificate without an identity."""
    try:
        chain = tuple(x509.load_der_x509_certificate(der) for der in _chain_of(tls))
        found = [(uri, parse_identity(uri)) for uri in uris_of(chain[0])]
    except ValueError as error:
        raise PeerRejectedError("the peer's certificate cannot be read") from error
    identities = [(uri, identity) for uri, identity in found if identity is not None]
    if not identities:
        raise PeerRejectedError("the peer's certificate has no SPIFFE identity")
    return Peer(
        identities[0][1],
        frozenset(uri for uri, _ in identities),
        chain[0].not_valid_after_utc,
        chain,
    )


def _chain_of(tls: ssl.SSLObject) -> list[bytes]:
    # Public from Python 3.13 on; before, the same under the inner object.
    get: Any = getattr(tls, "get_verified_chain", None)
    if get is not None:
        return list(get())
    inner: Any = getattr(tls, "_sslobj", None)
    get = getattr(inner, "get_verified_chain", None)
    if get is not None:
        return [ssl.PEM_cert_to_DER_cert(certificate.public_bytes()) for certificate in get()]
    leaf = tls.getpeercert(True)
    if leaf is None:
        raise PeerRejectedError("the peer has no certificate")
    return [leaf]


def accepts_trust_domains(domains: frozenset[str] | None) -> Accepts:
    """A server's rule; None for any domain that the roots vouch for."""

    def check(peer: Peer) -> None:
        if domains is not None and peer.identity.trust_domain not in domains:
            raise PeerRejectedError(f"trust domain {peer.identity.trust_domain} is foreign")

    return check


def accepts_identities(expected: frozenset[str]) -> Accepts:
    """A client's rule: one of the certificate's identities is among these; nobody is among none."""

    def check(peer: Peer) -> None:
        if not expected & peer.identities:
            raise PeerRejectedError(f"{peer.identity} is not who was to be reached")

    return check
