"""What expressions see of a client certificate.

Source: spec/config.md section 7.2, `source.*`; SPIFFE ID, section 2; RFC 4514.
"""

from __future__ import annotations

import re
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

_ISTIO: Final = re.compile(r"spiffe://([^/]+)/ns/([^/]+)/sa/([^/]+)")


def certificate_fields(der: bytes) -> dict[str, object]:
    """`source.*` fields of a verified certificate; empty when it cannot be read."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        names = _alternative_names(certificate)
        issuer, subject = certificate.issuer, certificate.subject
        fields: dict[str, object] = {
            "subjectAltNames": names,
            "issuer": issuer.rfc4514_string(),
            "subject": subject.rfc4514_string(),
            "certificate": certificate.public_bytes(Encoding.PEM).decode(),
        }
    except ValueError:
        return {}
    common = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if common:
        fields["subjectCn"] = str(common[0].value)
    spiffe = next((name for name in names if name.startswith("spiffe://")), None)
    if spiffe is not None:
        fields["spiffeId"] = spiffe
        if match := _ISTIO.fullmatch(spiffe):
            keys = ("trustDomain", "namespace", "serviceAccount")
            fields["identity"] = dict(zip(keys, match.groups(), strict=True))
    return fields


def _alternative_names(certificate: x509.Certificate) -> list[str]:
    """In the certificate's order; directory and other names, which have no text form, left out."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    kinds = (x509.UniformResourceIdentifier, x509.DNSName, x509.RFC822Name, x509.IPAddress)
    return [str(name.value) for name in extension.value if isinstance(name, kinds)]
