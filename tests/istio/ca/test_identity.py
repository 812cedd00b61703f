"""What a source may publish."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from hbone.aio import Credentials
from istio.ca.identity import checked
from istio.errors import CaError
from tests.hbone.pki import Leaf, Pki, spiffe

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CART = spiffe("cart")


def usable(pki: Pki, leaf: Leaf, **changes: Any) -> Any:
    given = {"chain_pem": leaf.chain, "key_pem": leaf.key, "roots_pem": pki.root_pem, **changes}
    return checked(
        given.pop("chain_pem"), given.pop("key_pem"), given.pop("roots_pem"), now=NOW, **given
    )


def test_a_good_one() -> None:
    pki = Pki("intermediate", above=Pki())
    leaf = pki.leaf(CART, start=NOW - timedelta(hours=1), end=NOW + timedelta(hours=3))
    identity = usable(pki, leaf, expected=CART)
    assert identity.spiffe_id == CART
    assert identity.half_life == NOW + timedelta(hours=1)
    credentials = Credentials(identity.chain_pem, identity.key_pem, identity.roots_pem)
    credentials.context(is_server=True)
    assert str(credentials.identity) == CART
    assert "BEGIN" not in repr(identity)


def test_a_bundle_of_several_roots() -> None:
    """ztunnel's `multi_root`: a root is being replaced."""
    old, new = Pki("old"), Pki("new")
    identity = usable(new, new.leaf(CART), roots_pem=old.root_pem + new.root_pem)
    assert identity.roots_pem.count(b"BEGIN CERTIFICATE") == 2


PKI = Pki()
GOOD = PKI.leaf(CART)


def on_no_curve(leaf: Leaf) -> bytes:
    """The certificate, its key on a curve that does not exist."""
    der = leaf.certificate.public_bytes(Encoding.DER)
    p256 = bytes.fromhex("06082a8648ce3d030107")
    assert der.count(p256) == 1
    return ssl.DER_cert_to_PEM_cert(der.replace(p256, p256[:-1] + b"\x7e")).encode()


@pytest.mark.parametrize(
    ("leaf", "changes", "reason"),
    [
        (GOOD, {"chain_pem": b""}, "the certificate chain, empty, cannot be read"),
        (GOOD, {"chain_pem": b"junk"}, "the certificate chain cannot be read"),
        (GOOD, {"chain_pem": GOOD.key}, "the certificate chain cannot be read"),
        (GOOD, {"roots_pem": b""}, "the roots, empty, cannot be read"),
        (
            GOOD,
            {"roots_pem": b"-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n"},
            "th",
        ),
        (GOOD, {"key_pem": b"secret"}, "the private key is no unencrypted PEM key"),
        (GOOD, {"key_pem": PKI.leaf(CART).key}, "the certificate is not for the private key"),
        (GOOD, {"chain_pem": on_no_curve(GOOD)}, "the certificate's public key is of an unknown"),
        (GOOD, {"expected": spiffe("other")}, f"the certificate is for {CART}, and"),
        (PKI.leaf(), {}, "the certificate has no identity"),
        (PKI.leaf("spiffe://td/cart"), {}, "the certificate has no identity"),
        (PKI.leaf(CART, end=NOW), {}, "the certificate expired at"),
        (PKI.leaf(CART, start=NOW + timedelta(minutes=1)), {}, "the certificate is valid from"),
    ],
)
def test_bad_ones(leaf: Leaf, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(CaError) as caught:
        usable(PKI, leaf, **changes)
    assert str(caught.value).startswith(reason)
    assert "secret" not in str(caught.value)
    assert "PRIVATE" not in str(caught.value)
