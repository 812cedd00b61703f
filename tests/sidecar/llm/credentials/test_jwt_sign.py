"""Tokens that the gateway signs, read back by another library's verification."""

from __future__ import annotations

from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from sidecar.errors import ConfigError
from sidecar.http.headers import Headers
from sidecar.llm.credentials.base import Outgoing
from sidecar.llm.credentials.jwt_sign import JwtSigned
from tests.support.clock import HeldClock
from tests.support.issuer import private_key


def pem(key: Any, password: bytes = b"") -> str:
    form = BestAvailableEncryption(password) if password else NoEncryption()
    text: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, form)
    return text.decode()


def token(signed: JwtSigned, name: bytes = b"authorization") -> str:
    request = Outgoing("GET", "https", "h", "/", Headers())
    assert signed.apply_nowait(request)
    return (request.headers.get(name) or b"").decode().removeprefix("Bearer ")


def claimed(text: str, name: str, alg: str) -> dict[str, Any]:
    options: Any = {"verify_exp": False, "verify_iat": False}
    found: dict[str, Any] = jwt.decode(
        text, private_key(name).public_key(), [alg], options=options, audience="api"
    )
    return found


@pytest.mark.parametrize(
    ("alg", "name"),
    [
        ("RS256", "rsa"),
        ("RS384", "rsa"),
        ("RS512", "rsa"),
        ("PS256", "rsa"),
        ("ES256", "p256"),
        ("ES384", "p384"),
    ],
)
def test_every_algorithm(alg: str, name: str) -> None:
    clock = HeldClock()
    payload = {
        "signingKey": f"\n{pem(private_key(name))} ",
        "alg": alg,
        "kid": "one",
        "claims": {"iss": "me", "aud": ["api"], "n": 1},
    }
    text = token(JwtSigned(payload, clock))
    now = clock.time_ns() // 10**9
    assert jwt.get_unverified_header(text) == {"alg": alg, "kid": "one", "typ": "JWT"}
    assert claimed(text, name, alg) == {
        "iss": "me",
        "aud": ["api"],
        "n": 1,
        "iat": now - 10,
        "exp": now + 300,
    }


def test_a_token_serves_for_half_its_life() -> None:
    clock = HeldClock()
    location = {"header": {"name": "X-Token"}}
    payload = {"signingKey": pem(private_key("p256")), "alg": "ES256", "ttl": "60s"}
    signed = JwtSigned({**payload, "location": location}, clock)
    assert signed.explicit_place
    first = token(signed, b"x-token")
    clock.pass_seconds(29.9)
    assert token(signed, b"x-token") == first
    clock.pass_seconds(0.1)
    second = token(signed, b"x-token")
    assert second != first
    # A clock that was set back: the dates of the token would lie in the future.
    clock.pass_seconds(-1000)
    assert token(signed, b"x-token") not in (first, second)


def small() -> str:
    return pem(rsa.generate_private_key(65537, 1024))


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        ({}, "jwtSign.signingKey"),
        ({"signingKey": "-----BEGIN PRIVATE KEY-----\nSECRET\n"}, "jwtSign.signingKey"),
        ({"signingKey": pem(private_key("p256"))}, "jwtSign.signingKey"),
        ({"signingKey": pem(private_key("rsa")), "alg": "ES256"}, "jwtSign.signingKey"),
        ({"signingKey": pem(private_key("p256")), "alg": "ES384"}, "jwtSign.signingKey"),
        ({"signingKey": pem(private_key("ed25519")), "alg": "ES256"}, "jwtSign.signingKey"),
        ({"signingKey": pem(private_key("rsa")), "alg": "HS256"}, "jwtSign.signingKey"),
        ({"signingKey": pem(private_key("rsa"), b"password")}, "jwtSign.signingKey"),
        ({"signingKey": small()}, "jwtSign.signingKey"),
        ({"signingKey": pem(private_key("rsa")), "ttl": "999ms"}, "jwtSign.ttl"),
        ({"signingKey": pem(private_key("rsa")), "claims": {"nbf": 1}}, "jwtSign.claims.nbf"),
        ({"signingKey": pem(private_key("rsa")), "claims": {"a": "x" * 9000}}, "jwtSign.claims"),
        (
            {"signingKey": pem(private_key("rsa")), "location": {"expression": "x"}},
            "jwtSign.location",
        ),
    ],
)
def test_configuration_that_is_refused(payload: Any, path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        JwtSigned(payload, HeldClock())
    assert caught.value.path == path
    assert "SECRET" not in str(caught.value)
