"""Sets of keys: which keys are taken, and for which algorithms."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from sidecar.policies.jwks import MAX_BYTES, JwksError, parse
from tests.support.issuer import encoded, jwk, jwks


def algorithms(entry: dict[str, Any]) -> list[str]:
    """Of the one key of a set; none when it was left out."""
    made = parse({"keys": [entry]})
    return sorted(name for keys in made.values() for key in keys for name in key.algorithms)


RSA = ["PS256", "PS384", "PS512", "RS256", "RS384", "RS512"]
BIG = encoded(b"\xff" * 1100)

ENTRIES = {
    "RSA": (jwk("rsa"), RSA),
    "RSA for one algorithm": (jwk("rsa", alg="RS512"), ["RS512"]),
    "P-256": (jwk("p256"), ["ES256"]),
    "P-384": (jwk("p384"), ["ES384"]),
    "Ed25519": (jwk("ed25519"), ["Ed25519", "EdDSA"]),
    "for signatures": (jwk("p256", use="sig", key_ops=["verify"]), ["ES256"]),
    "with strangers' parameters": (jwk("p256", x5c=["x"], x5t="y", foo={}), ["ES256"]),
    "with its private part": ({**jwk("p256"), "d": "AAAA"}, ["ES256"]),
    "RSA with a broken private part": ({**jwk("rsa"), "d": "AQAB", "p": "AQ"}, RSA),
    # Left out.
    "P-521": (jwk("p521"), []),
    "RSA of 1024 bits": (jwk("rsa-1024"), []),
    "RSA too large": ({**jwk("rsa"), "n": BIG}, []),
    "RSA with exponent 1": ({**jwk("rsa"), "e": "AQ"}, []),
    "RSA with an exponent too large": ({**jwk("rsa"), "e": BIG}, []),
    "RSA without modulus": ({k: v for k, v in jwk("rsa").items() if k != "n"}, []),
    "RSA with a number as modulus": ({**jwk("rsa"), "n": 7}, []),
    "RSA with a modulus beyond all bounds": ({**jwk("rsa"), "n": "A" * 5000}, []),
    "a point not on the curve": ({**jwk("p256"), "x": encoded(b"\x01" * 32)}, []),
    "a point of another curve": ({**jwk("p384"), "crv": "P-256"}, []),
    "Ed25519 too short": ({**jwk("ed25519"), "x": "AAAA"}, []),
    "X25519": ({**jwk("ed25519"), "crv": "X25519"}, []),
    "symmetric": ({"kty": "oct", "kid": "k", "k": "AAAA"}, []),
    "symmetric, said to be RSA's": ({"kty": "oct", "kid": "k", "k": "AAAA", "alg": "RS256"}, []),
    "for encryption": (jwk("rsa", use="enc"), []),
    "for signing only": (jwk("rsa", key_ops=["sign"]), []),
    "key_ops no list": (jwk("rsa", key_ops="verify"), []),
    "alg of encryption": (jwk("rsa", alg="RSA-OAEP"), []),
    "alg of HMAC": (jwk("rsa", alg="HS256"), []),
    "alg none": (jwk("rsa", alg="none"), []),
    "alg no text": (jwk("rsa", alg=["RS256"]), []),
    "no kid": ({k: v for k, v in jwk("rsa").items() if k != "kid"}, []),
    "kid empty": (jwk("rsa", ""), []),
    "kid a number": ({**jwk("rsa"), "kid": 1}, []),
    "no kty": ({k: v for k, v in jwk("rsa").items() if k != "kty"}, []),
    "kty unknown": ({**jwk("rsa"), "kty": "RSA2"}, []),
    "crv no text": ({**jwk("p256"), "crv": ["P-256"]}, []),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_keys(name: str) -> None:
    entry, expected = ENTRIES[name]
    assert algorithms(entry) == expected


def test_the_others_stay() -> None:
    made = parse(jwks({"kty": "oct", "k": "AA"}, jwk("rsa-1024"), "p256"))
    assert list(made) == ["p256"]


def test_no_keys_at_all() -> None:
    assert parse('{"keys":[]}') == {}


def test_several_of_one_kid_are_bounded() -> None:
    made = parse(jwks(*[jwk("p256", "k")] * 9))
    assert len(made["k"]) == 4


@pytest.mark.parametrize(
    "document",
    [
        *("", "x", "[]", "null", '{"keys":{}}', '{"keys":null}', "{}", '{"keys":[1]}'),
        orjson.dumps({"keys": [{}] * 129}),
        b'{"keys":[' + b" " * MAX_BYTES + b"]}",
        b"[" * 5000,
        b"\xff",
        None,
        7,
    ],
)
def test_no_sets(document: object) -> None:
    with pytest.raises(JwksError):
        parse(document)
