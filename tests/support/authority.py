"""A certificate authority for tests: issues server and client certificates when asked for."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.support.certificates import Pair

_BEGIN = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_END = datetime.datetime(2120, 1, 1, tzinfo=datetime.UTC)


def general_name(text: str) -> x509.GeneralName:
    """A URI, an address, a mail address or a DNS name, by its looks."""
    if "://" in text:
        return x509.UniformResourceIdentifier(text)
    if "@" in text:
        return x509.RFC822Name(text)
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


class Authority:
    """One root; `root` is its certificate as PEM."""

    def __init__(self, name: str = "root", parent: Authority | None = None) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        issuer = self if parent is None else parent
        builder = self._builder(self.name, issuer.name, self.key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(True, None), critical=True)
        self.certificate = builder.sign(issuer.key, hashes.SHA256())
        self.root = self.certificate.public_bytes(Encoding.PEM).decode()

    @staticmethod
    def _builder(
        subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(_BEGIN)
            .not_valid_after(_END)
        )

    def issue(self, names: Sequence[str], subject: x509.Name | None = None) -> Pair:
        """A leaf with these alternative names; without any, it has no such extension."""
        key = ec.generate_private_key(ec.SECP256R1())
        if subject is None:
            common = names[0][:60] if names else "nobody"
            subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common)])
        builder = self._builder(subject, self.name, key.public_key())
        if names:
            alternative = x509.SubjectAlternativeName([general_name(name) for name in names])
            builder = builder.add_extension(alternative, critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        return Pair(
            certificate.public_bytes(Encoding.PEM).decode(),
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        )
