"""A certificate authority for tests: SPIFFE leaves, good ones and every kind of bad one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID as Usage

from hbone.aio import Credentials, RevocationList

BOTH = (Usage.CLIENT_AUTH, Usage.SERVER_AUTH)
START = datetime(2020, 1, 1, tzinfo=UTC)
END = datetime(2120, 1, 1, tzinfo=UTC)


def spiffe(account: str, domain: str = "cluster.local", namespace: str = "default") -> str:
    return f"spiffe://{domain}/ns/{namespace}/sa/{account}"


@dataclass(frozen=True)
class Leaf:
    """PEM texts, and the certificate."""

    chain: bytes
    key: bytes
    certificate: x509.Certificate


class Pki:
    """A root, or an intermediate under `above`, whose leaves bring it along."""

    def __init__(self, name: str = "root", above: Pki | None = None) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        issuer, by = (name, self._key) if above is None else (above._name, above._key)
        self._name = name
        self.root = self._sign(name, self._key, by, issuer, START, END, ca=True)
        own_pem = self.root.public_bytes(Encoding.PEM)
        self.root_pem = own_pem if above is None else above.root_pem
        self._brings = b"" if above is None else own_pem

    def leaf(
        self,
        *uris: str,
        usages: tuple[x509.ObjectIdentifier, ...] = BOTH,
        start: datetime = START,
        end: datetime = END,
        dns: str = "",
    ) -> Leaf:
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
        if dns:
            names.insert(0, x509.DNSName(dns))
        certificate = self._sign("", key, self._key, None, start, end, names=names, usages=usages)
        return Leaf(
            certificate.public_bytes(Encoding.PEM) + self._brings,
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            certificate,
        )

    def credentials(self, *uris: str, roots: bytes = b"") -> Credentials:
        leaf = self.leaf(*uris)
        return Credentials(leaf.chain, leaf.key, roots or self.root_pem)

    def crl(self, *leaves: x509.Certificate, by: Pki | None = None) -> bytes:
        """PEM; signed by another authority's key for a forged one."""
        now = datetime.now(UTC)
        builder = x509.CertificateRevocationListBuilder(self.root.subject, now, now + timedelta(1))
        for leaf in leaves:
            revoked = x509.RevokedCertificateBuilder(leaf.serial_number, now)
            builder = builder.add_revoked_certificate(revoked.build())
        return builder.sign((by or self)._key, hashes.SHA256()).public_bytes(Encoding.PEM)

    def revoked(self, *leaves: x509.Certificate) -> RevocationList:
        return RevocationList(self.crl(*leaves), self.root_pem)

    def _sign(
        self,
        subject: str,
        key: ec.EllipticCurvePrivateKey,
        by: ec.EllipticCurvePrivateKey,
        issuer: str | None,
        start: datetime,
        end: datetime,
        *,
        ca: bool = False,
        names: list[x509.GeneralName] | None = None,
        usages: tuple[x509.ObjectIdentifier, ...] = (),
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(subject))
            .issuer_name(self.root.subject if issuer is None else _name(issuer))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if names:
            # Critical, since the subject is empty (RFC 5280 section 4.2.1.6).
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
        if usages:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        return builder.sign(by, hashes.SHA256())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)] if text else [])
