"""A key and the request for its certificate, as Istio's CA wants it.

Source: spec istio 3.6; RFC 5280 section 4.2.1.6 (critical, since the subject is empty).
"""

from __future__ import annotations

from typing import NamedTuple, final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from hbone.wire.identity import parse_identity
from istio.errors import CaError


@final
class KeyRequest(NamedTuple):
    """PEM texts. `key`: PKCS#8, which is never sent."""

    csr: bytes
    key: bytes

    def __repr__(self) -> str:
        return "KeyRequest(…)"


def new_request(spiffe_id: str) -> KeyRequest:
    """A new P-256 key, and the request of a certificate for `spiffe_id`. Raises: CaError."""
    if parse_identity(spiffe_id) is None:
        raise CaError(f"`{spiffe_id}` is no identity spiffe://…/ns/…/sa/…")
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe_id)])
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(names, critical=True)
        .sign(key, hashes.SHA256())
    )
    return KeyRequest(
        request.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )
