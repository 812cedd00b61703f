"""An issuer of tokens: keys of every type, tokens of any form, right or wrong."""

from __future__ import annotations

import base64
import hmac
import threading
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from typing import Any

import orjson
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm, RSAPSSAlgorithm

ISSUER = "https://idp.example"
AUDIENCE = "api"
NOW = 1_800_000_000
"""Seconds since 1970 at which the clocks of tests stand."""
_ALGORITHMS: dict[str, Any] = {
    "RS256": RSAAlgorithm(hashes.SHA256),
    "RS384": RSAAlgorithm(hashes.SHA384),
    "RS512": RSAAlgorithm(hashes.SHA512),
    "PS256": RSAPSSAlgorithm(hashes.SHA256),
    "PS384": RSAPSSAlgorithm(hashes.SHA384),
    "PS512": RSAPSSAlgorithm(hashes.SHA512),
    "ES256": ECAlgorithm(hashes.SHA256),
    "ES384": ECAlgorithm(hashes.SHA384),
    "ES512": ECAlgorithm(hashes.SHA512),
    "EdDSA": OKPAlgorithm(),
}


_making = threading.Lock()


def private_key(name: str) -> Any:
    """A key by name: `rsa`, `rsa-1024`, `p256`, `p384`, `p521`, `ed25519`, with any suffix `/x`."""
    # Two threads must not make two keys of one name.
    with _making:
        return _made(name)


@cache
def _made(name: str) -> Any:
    kind = name.partition("/")[0]
    if kind == "rsa":
        return rsa.generate_private_key(65537, 2048)
    if kind == "rsa-1024":
        return rsa.generate_private_key(65537, 1024)
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    curves = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}
    return ec.generate_private_key(curves[kind])


def jwk(name: str, kid: str | None = None, **more: Any) -> dict[str, Any]:
    """The public key as a JWK; its kid is the name unless another is given."""
    key = private_key(name).public_key()
    kind = RSAAlgorithm if name.startswith("rsa") else ECAlgorithm
    made = (OKPAlgorithm if name.startswith("ed") else kind).to_jwk(key, as_dict=True)
    return {**made, "kid": name if kid is None else kid, **more}


def jwks(*entries: dict[str, Any] | str) -> str:
    """A set of keys: JWKs, or names of keys."""
    made = [jwk(one) if isinstance(one, str) else one for one in entries]
    return orjson.dumps({"keys": made}).decode()


def encoded(octets: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def claims(**changes: Any) -> dict[str, Any]:
    """Good claims with changes; None takes one away."""
    made = {"iss": ISSUER, "sub": "ada", "aud": AUDIENCE, "exp": NOW + 600, "iat": NOW, **changes}
    return {name: value for name, value in made.items() if value is not None}


def token(
    payload: Mapping[str, Any] | bytes | None = None,
    *,
    key: str = "rsa",
    alg: str = "RS256",
    head: Mapping[str, Any] | None = None,
    raw_head: bytes | None = None,
) -> str:
    """A signed token. `head`: changes of the header, None takes one away; `raw_head`: all of it."""
    header = {"alg": alg, "kid": key, **(head or {})}
    header = {name: value for name, value in header.items() if value is not None}
    octets = orjson.dumps(header) if raw_head is None else raw_head
    body = claims() if payload is None else payload
    text = body if isinstance(body, bytes) else orjson.dumps(body)
    signed = f"{encoded(octets)}.{encoded(text)}"
    signature = _ALGORITHMS[alg].sign(signed.encode(), private_key(key))
    return f"{signed}.{encoded(signature)}"


def with_hmac(secret: bytes, head: Mapping[str, Any]) -> str:
    """A token of HS256."""
    signed = f"{encoded(orjson.dumps(dict(head)))}.{encoded(orjson.dumps(claims()))}"
    return f"{signed}.{encoded(hmac.new(secret, signed.encode(), sha256).digest())}"
