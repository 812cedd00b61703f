"""SPIFFE IDs, and certificates that may or may not carry one."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from sidecar.http.spiffe_id import svid_id, trust_domain_named, trust_domain_of
from tests.hbone.pki import START, Pki

LEAF = Pki().leaf("spiffe://example.org/a").certificate


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("spiffe://example.org", "example.org"),
        ("spiffe://example.org/ns/a/sa/b", "example.org"),
        ("spiffe://a_b-1.c/X._-9", "a_b-1.c"),
        ("spiffe://" + "a" * 255, "a" * 255),
        ("", None),
        ("spiffe://", None),
        ("spiffe:///a", None),
        ("https://example.org/a", None),
        ("SPIFFE://example.org/a", None),
        ("spiffe://Example.org/a", None),
        ("spiffe://example.org/", None),
        ("spiffe://example.org/a/", None),
        ("spiffe://example.org//a", None),
        ("spiffe://example.org/./a", None),
        ("spiffe://example.org/a/..", None),
        ("spiffe://example.org/.../a", "example.org"),
        ("spiffe://example.org/a?b", None),
        ("spiffe://example.org/a#b", None),
        ("spiffe://example.org/a%20b", None),
        ("spiffe://example.org/a\n", None),
        ("spiffe://example.org:80/a", None),
        ("spiffe://user@example.org/a", None),
        ("spiffe://" + "a" * 256, None),
        ("spiffe://example.org/" + "a" * 2048, None),
    ],
)
def test_ids(text: str, domain: str | None) -> None:
    assert trust_domain_of(text) == domain


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("example.org", "example.org"),
        ("spiffe://example.org", "example.org"),
        ("spiffe://example.org/a", None),
        ("Example.org", None),
        ("", None),
    ],
)
def test_trust_domains(text: str, domain: str | None) -> None:
    assert trust_domain_named(text) == domain


def certificate(*extensions: x509.ExtensionType) -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name)
    builder = builder.public_key(key.public_key()).serial_number(7)
    builder = builder.not_valid_before(START).not_valid_after(START + timedelta(1))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, hashes.SHA256())


def named(*uris: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])


def usage(*, cert: bool = False, crl: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(True, False, False, False, False, cert, crl, False, False)


ID = "spiffe://example.org/a"
UNKNOWN_NAME = x509.UnrecognizedExtension(
    x509.SubjectAlternativeName.oid, bytes.fromhex("3006 a504a1020c00")
)
"""One ediPartyName (RFC 5280 section 4.2.1.6)."""


def test_an_svid() -> None:
    assert svid_id(LEAF) == ID
    assert svid_id(certificate(named(ID), usage())) == ID


@pytest.mark.parametrize(
    ("extensions", "reason"),
    [
        ((), "no SPIFFE ID"),
        ((x509.SubjectAlternativeName([x509.DNSName("a.test")]),), "it has 0 URIs"),
        ((named(ID, "spiffe://example.org/b"),), "it has 2 URIs"),
        ((named(ID, "https://a.test/"),), "it has 2 URIs"),
        ((UNKNOWN_NAME,), "of a form nobody knows"),
        ((named("https://a.test/"),), "is no SPIFFE ID"),
        ((named(ID), usage(cert=True)), "authority"),
        ((named(ID), usage(crl=True)), "authority"),
        ((named(ID), x509.BasicConstraints(ca=True, path_length=None)), "authority"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_svid(extensions: tuple[x509.ExtensionType, ...], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        svid_id(certificate(*extensions))
