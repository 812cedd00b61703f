"""Keys and certificate requests."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from istio.ca.csr import new_request
from istio.errors import CaError

ID = "spiffe://cluster.local/ns/shop/sa/cart"


def test_the_form_that_istio_wants() -> None:
    request = new_request(ID)
    csr = x509.load_pem_x509_csr(request.csr)
    assert request.csr.startswith(b"-----BEGIN CERTIFICATE REQUEST-----")
    assert csr.is_signature_valid
    assert isinstance(csr.signature_hash_algorithm, SHA256)
    assert list(csr.subject) == []
    names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.critical
    assert names.value.get_values_for_type(x509.UniformResourceIdentifier) == [ID]
    assert [one.oid for one in csr.extensions] == [names.oid]


def test_the_key() -> None:
    request, other = new_request(ID), new_request(ID)
    assert request.key.startswith(b"-----BEGIN PRIVATE KEY-----")
    key = load_pem_private_key(request.key, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(key.curve, ec.SECP256R1)
    assert x509.load_pem_x509_csr(request.csr).public_key() == key.public_key()
    assert request.key != other.key
    assert "PRIVATE" not in repr(request)


@pytest.mark.parametrize(
    "name", ["", "cart", "spiffe://td/cart", f"{ID}/more", "spiffe://td/ns//sa/x"]
)
def test_what_is_no_identity(name: str) -> None:
    with pytest.raises(CaError, match="no identity"):
        new_request(name)
