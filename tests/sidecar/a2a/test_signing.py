"""Signatures of rewritten cards, checked by the official SDK."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from a2a.client.card_resolver import parse_agent_card
from a2a.utils._jcs import canonicalize
from a2a.utils.signing import InvalidSignaturesError, create_signature_verifier
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from sidecar.a2a import card
from sidecar.a2a.canonical import payload
from sidecar.a2a.card import BadCard, Public
from sidecar.a2a.signing import Algorithm, Signer

PUBLIC = Public("https://gw.test", "gw.test:443")
EC = ec.generate_private_key(ec.SECP256R1())
KEYS: dict[Algorithm, Any] = {
    "ES256": EC,
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "RS256": (RSA := rsa.generate_private_key(65537, 2048)),
    "PS256": RSA,
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
CARD = {
    "name": "é\u2028",
    "description": "",
    "url": "http://a/rpc",
    "protocolVersion": "0.3",
    "supportedInterfaces": [{"url": "http://a/rpc", "protocolBinding": "JSONRPC", "own": 1}],
    "capabilities": {
        "streaming": False,
        "extensions": [
            {"uri": "u", "required": False, "params": {"n": 1.5, "big": 1e21, "none": None}},
            {"uri": "v", "required": True},
        ],
    },
    "securitySchemes": {"k": {"apiKeySecurityScheme": {"location": "header", "name": "x"}}},
    "securityRequirements": [{"schemes": {"k": {"list": ["a"]}}}],
    "skills": [{"id": "s", "name": "s", "tags": [], "examples": ["e"], "unknown": {}}],
    "defaultInputModes": ["text/plain"],
    "signatures": [{"protected": "x", "signature": "y"}],
    "x-own": "dropped",
}


def pem(key: Any, encryption: Any = None) -> str:
    encryption = encryption or NoEncryption()
    return str(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption).decode())


def public(key: Any) -> bytes:
    made = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return bytes(made)


@pytest.mark.parametrize("algorithm", KEYS)
def test_the_sdk_verifies_it(algorithm: Algorithm) -> None:
    key = KEYS[algorithm]
    signer = Signer(pem(key), algorithm, "k1", "https://gw.test/jwks")
    raw, tag = card.document(orjson.dumps(CARD), PUBLIC, signer)
    again, same = card.document(orjson.dumps(CARD), PUBLIC, signer)
    assert (raw, tag) == (again, same)
    assert tag.startswith(b'W/"')
    asked: list[tuple[object, object]] = []

    def provider(kid: object, jku: object) -> bytes:
        asked.append((kid, jku))
        return public(key)

    verify = create_signature_verifier(provider, [algorithm])
    parsed = parse_agent_card(orjson.loads(raw))
    verify(parsed)
    assert asked == [("k1", "https://gw.test/jwks")]
    parsed.supported_interfaces[0].url = "https://elsewhere.test/"
    with pytest.raises(InvalidSignaturesError):
        verify(parsed)


def test_answers_are_signed_too() -> None:
    signer = Signer(pem(EC), "ES256", "k1", None)
    raw = orjson.dumps({"jsonrpc": "2.0", "id": 1, "result": CARD})
    made = orjson.loads(card.answer(raw, PUBLIC, signer))["result"]
    create_signature_verifier(lambda *_: public(EC), ["ES256"])(parse_agent_card(made))


def test_a_card_of_0_3_is_covered_as_it_stands() -> None:
    old = {"url": "http://a/", "own": {"b": [], "a": 1}, "signatures": []}
    assert payload(old) == b'{"own":{"a":1},"url":"http://a/"}'


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        ("", "ES256"),
        ("no key", "ES256"),
        (pem(EC, BestAvailableEncryption(b"x")), "ES256"),
        (pem(EC), "ES384"),
        (pem(EC), "RS256"),
        (pem(RSA), "EdDSA"),
        (pem(rsa.generate_private_key(65537, 1024)), "RS256"),
    ],
    ids=["none", "text", "locked", "curve", "kind", "kind 2", "short"],
)
def test_keys_that_do_not_fit(key: str, algorithm: Algorithm) -> None:
    with pytest.raises(ValueError, match=r"PEM|fit"):
        Signer(key, algorithm, "k", None)


@pytest.mark.parametrize("number", [2**53, -(2**60), float("inf"), float("nan")])
def test_numbers_without_a_form(number: float) -> None:
    with pytest.raises(BadCard):
        payload({"url": "x", "n": number})


NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53) + 1, 2**53 - 1)
VALUES = st.recursive(
    NUMBERS | st.booleans() | st.text(min_size=1, max_size=6),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3)
        | st.dictionaries(st.text(max_size=3), inner, min_size=1, max_size=3)
    ),
    max_leaves=6,
)


@given(VALUES)
def test_the_form_is_that_of_the_sdk(value: Any) -> None:
    assert payload({"v": value}).decode() == canonicalize({"v": value})
