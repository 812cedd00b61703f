"""Certificate revocation lists: which peers, new or connected, are not spoken with any more.

Source: RFC 5280 sections 5 and 6.3; spec istio 1.2.

A certificate whose issuer has no list here is taken as good, as Istio does; OpenSSL's own check
would refuse it, so the lists are looked at here, for every certificate of the verified chain.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, final

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from hbone.aio.peer import Peer
from hbone.errors import CertificateError, RevokedError

_BEGIN: Final = b"-----BEGIN X509 CRL-----"


@final
class RevocationList:
    """Immutable: a new file is a new value. Raises: CertificateError.

    `crl_pem`: one or several lists. `issuers_pem`: the roots, and intermediates if they sign lists;
    a list that none of them signed is refused, for whoever writes the file could else shut out
    anyone, or let anyone in by an empty list that takes the place of a true one.
    """

    __slots__ = ("_revoked",)

    def __init__(self, crl_pem: bytes, issuers_pem: bytes) -> None:
        self._revoked: set[tuple[bytes, int]] = set()
        try:
            issuers = x509.load_pem_x509_certificates(issuers_pem)
            lists = [x509.load_pem_x509_crl(_BEGIN + part) for part in crl_pem.split(_BEGIN)[1:]]
        except ValueError as error:
            raise CertificateError("the revocation list is not PEM") from error
        if not lists:
            raise CertificateError("the revocation list is empty of lists")
        for each in lists:
            if not _is_signed(each, issuers):
                raise CertificateError("no known issuer signed the revocation list")
            issuer = each.issuer.public_bytes()
            self._revoked.update((issuer, entry.serial_number) for entry in each)

    def check(self, peer: Peer) -> None:
        """Raises: RevokedError."""
        for certificate in peer.chain:
            if (certificate.issuer.public_bytes(), certificate.serial_number) in self._revoked:
                raise RevokedError(f"a certificate of {peer.identity} was revoked")


def _is_signed(each: x509.CertificateRevocationList, issuers: Iterable[x509.Certificate]) -> bool:
    for issuer in issuers:
        if issuer.subject != each.issuer:
            continue
        try:
            if each.is_signature_valid(issuer.public_key()):  # type: ignore[arg-type]
                return True
        except (InvalidSignature, TypeError, ValueError):
            continue
    return False
