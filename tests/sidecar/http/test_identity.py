"""What is read out of a peer's certificate."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from sidecar.http.identity import IdentityError, PeerIdentity, identity, subject_alt_names
from tests.support.authority import Authority

AUTHORITY = Authority("test root")
NAMES = x509.SubjectAlternativeName.oid


def der(names: list[str], subject: x509.Name | None = None) -> bytes:
    return ssl.PEM_cert_to_DER_cert(AUTHORITY.issue(names, subject).cert)


def test_workload() -> None:
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "DE"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example, Inc."),
            x509.NameAttribute(NameOID.COMMON_NAME, "client"),
        ]
    )
    names = ["spiffe://cluster.local/ns/shop/sa/cart", "cart.shop", "10.0.0.7", "a@b.example"]
    assert identity(der(names, subject)) == PeerIdentity(
        spiffe_id="spiffe://cluster.local/ns/shop/sa/cart",
        trust_domain="cluster.local",
        namespace="shop",
        service_account="cart",
        subject=r"C=DE, O=Example\, Inc., CN=client",
        subject_cn="client",
        issuer="CN=test root",
        subject_alt_names=tuple(names),
    )


@pytest.mark.parametrize(
    ("names", "spiffe_id", "workload"),
    [
        (["spiffe://td/any/path"], "spiffe://td/any/path", False),
        (["spiffe://td/ns/n/sa/s/more"], "spiffe://td/ns/n/sa/s/more", False),
        (["spiffe://td/ns/n/sa/"], "spiffe://td/ns/n/sa/", False),
        (["spiffe://td/ns/n/sa/s", "spiffe://td/ns/n/sa/admin"], None, False),
        (["https://td/ns/n/sa/s"], None, False),
        (["a.example"], None, False),
        ([], None, False),
    ],
)
def test_no_workload(names: list[str], spiffe_id: str | None, workload: bool) -> None:
    found = identity(der(names))
    assert found.spiffe_id == spiffe_id
    assert (found.trust_domain is not None) is workload
    assert found.subject_alt_names == tuple(names) == subject_alt_names(der(names))


def test_no_common_name() -> None:
    found = identity(der(["a.example"], x509.Name([])))
    assert (found.subject, found.subject_cn) == ("", None)


def test_not_a_certificate() -> None:
    with pytest.raises(IdentityError):
        identity(b"not DER")


def test_a_kind_of_name_that_nobody_knows() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name, begin = x509.Name([]), datetime(2020, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).serial_number(7)
    builder = builder.public_key(key.public_key())
    builder = builder.not_valid_before(begin).not_valid_after(begin + timedelta(1))
    # One ediPartyName (RFC 5280 section 4.2.1.6).
    names = x509.UnrecognizedExtension(NAMES, bytes.fromhex("3006a504a1020c00"))
    certificate = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    with pytest.raises(IdentityError):
        identity(certificate.public_bytes(Encoding.DER))
