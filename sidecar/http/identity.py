"""Who a peer is, by its certificate.

Source: RFC 5280 sections 4.1.2.4 and 4.2.1.6; SPIFFE X.509-SVID section 2; spec config section 7.2
(`source.*`).

A certificate is read here only after the TLS handshake has verified it. This is the one reader:
listeners, backends' `subjectAltNames` and expressions all use it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final, final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from sidecar.errors import SidecarError
from sidecar.http.message import Connection

_WORKLOAD: Final = re.compile(r"spiffe://([^/?#]+)/ns/([^/?#]+)/sa/([^/?#]+)")
_EXTRA: Final = "peerIdentity"


class IdentityError(SidecarError):
    """A certificate that OpenSSL took and that cannot be read nevertheless."""


@final
@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """What a certificate says. Absent parts are None.

    `subject` and `issuer`: `C=DE, O=Example, CN=x`, in the order of the certificate.
    `spiffe_id`: its one `spiffe://` name; None when there are several, which is no valid SVID.
    `trust_domain`, `namespace`, `service_account`: of an ID of the form `spiffe://T/ns/N/sa/S`.
    """

    spiffe_id: str | None
    trust_domain: str | None
    namespace: str | None
    service_account: str | None
    subject: str
    subject_cn: str | None
    issuer: str
    subject_alt_names: tuple[str, ...]


_UNSHOWN: Final = PeerIdentity(None, None, None, None, "", None, "", ())


def identity(der: bytes) -> PeerIdentity:
    """The identity in a DER certificate. Raises: IdentityError."""
    certificate = _load(der)
    names = _alt_names(certificate)
    spiffe = [name for name in names if name.startswith("spiffe://")]
    spiffe_id = spiffe[0] if len(spiffe) == 1 else None
    workload = None if spiffe_id is None else _WORKLOAD.fullmatch(spiffe_id)
    domain, namespace, account = (None, None, None) if workload is None else workload.groups()
    try:
        common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        subject, issuer = _name_text(certificate.subject), _name_text(certificate.issuer)
    except ValueError as exc:
        raise IdentityError("the certificate of the peer cannot be read") from exc
    return PeerIdentity(
        spiffe_id,
        domain,
        namespace,
        account,
        subject,
        _text(common[0].value) if common else None,
        issuer,
        names,
    )


def identity_of(connection: Connection) -> PeerIdentity | None:
    """That of a connection's client; None without a certificate. Raises: IdentityError.

    Read once a connection and kept in its `extra`: it costs tens of microseconds.
    """
    found = connection.extra.get(_EXTRA)
    if isinstance(found, PeerIdentity):
        return found
    der = connection.tls.peer_certificate if connection.tls is not None else None
    if der is None:
        return None
    made = identity(der)
    connection.extra[_EXTRA] = made
    return made


def forget_identity(connection: Connection) -> None:
    """What was kept is no longer so: another certificate was shown."""
    connection.extra.pop(_EXTRA, None)


def note_workload(connection: Connection, spiffe_id: str, der: bytes | None = None) -> None:
    """A tunnel or the proxy before us has proved who the client is.

    `spiffe_id`: the identity it acts as. `der`: the certificate that says so, if we have seen it.
    Raises: IdentityError.
    """
    workload = _WORKLOAD.fullmatch(spiffe_id)
    if workload is None:
        raise IdentityError("the client's identity is no workload's")
    who = identity(der) if der is not None else _UNSHOWN
    domain, namespace, account = workload.groups()
    connection.extra[_EXTRA] = replace(
        who,
        spiffe_id=spiffe_id,
        trust_domain=domain,
        namespace=namespace,
        service_account=account,
    )
    connection.extra["identity"] = spiffe_id


def subject_alt_names(der: bytes) -> tuple[str, ...]:
    """DNS names, URIs, IP and mail addresses of a DER certificate. Raises: IdentityError."""
    return _alt_names(_load(der))


def pem(der: bytes) -> str:
    """The certificate as PEM text. Raises: IdentityError."""
    return _load(der).public_bytes(Encoding.PEM).decode()


def _load(der: bytes) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(der)
    except ValueError as exc:
        raise IdentityError("the certificate of the peer cannot be read") from exc


def _alt_names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as exc:
        raise IdentityError("the certificate of the peer cannot be read") from exc
    textual = (x509.DNSName, x509.UniformResourceIdentifier, x509.IPAddress, x509.RFC822Name)
    return tuple(str(name.value) for name in extension.value if isinstance(name, textual))


def _name_text(name: x509.Name) -> str:
    return ", ".join(part.rfc4514_string() for part in name.rdns)


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")
