"""Sets of public keys: read from a JWKS, each key with the algorithms it may verify.

Source: RFC 7517; RFC 7518 sections 3 and 6; RFC 8037; RFC 8725 sections 3.1 and 3.5.

What a token says of its algorithm never chooses the kind of a key: each key has its algorithms, and
symmetric keys are not read at all, so that a public key cannot be used as the secret of an HMAC.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final, Protocol, final

import orjson
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm, RSAPSSAlgorithm
from jwt.exceptions import InvalidKeyError

MAX_BYTES: Final = 256 * 1024
"""Of a JWKS; the largest in use have some 30 KiB."""
_MAX_KEYS: Final = 128
_MAX_SAME_KID: Final = 4
_RSA_BITS: Final = range(2048, 8193)
"""Shorter ones are weak, and longer ones cost more than a request is worth."""
_MAX_EXPONENT: Final = 2**32
_log: Final = logging.getLogger("sidecar.policies.jwks")


class JwksError(ValueError):
    """A document that is no JWKS; says nothing of what it holds."""


class _Verify(Protocol):
    def verify(self, msg: bytes, key: Any, sig: bytes) -> bool:
        """Whether the signature is right."""


_SHA: Final[Mapping[str, Any]] = {"256": hashes.SHA256, "384": hashes.SHA384, "512": hashes.SHA512}
_RSA: Final[Mapping[str, _Verify]] = {
    **{f"RS{size}": RSAAlgorithm(sha) for size, sha in _SHA.items()},
    **{f"PS{size}": RSAPSSAlgorithm(sha) for size, sha in _SHA.items()},
}
_EC: Final[Mapping[str, Mapping[str, _Verify]]] = {
    "P-256": {"ES256": ECAlgorithm(hashes.SHA256, ec.SECP256R1)},
    "P-384": {"ES384": ECAlgorithm(hashes.SHA384, ec.SECP384R1)},
}
_EDWARDS: Final[Mapping[str, _Verify]] = {"EdDSA": OKPAlgorithm(), "Ed25519": OKPAlgorithm()}
"""RFC 9864 gives EdDSA over that curve a name of its own."""
_PUBLIC: Final = ("kty", "n", "e", "crv", "x", "y")
"""What makes a public key: a private part given by mistake is not kept."""


@final
class Key:
    """A public key. `algorithms`: name to what verifies, never empty."""

    __slots__ = ("_material", "algorithms", "kid")

    def __init__(self, kid: str, material: object, algorithms: Mapping[str, _Verify]) -> None:
        self.kid = kid
        self._material = material
        self.algorithms = algorithms

    def verifies(self, algorithm: str, message: bytes, signature: bytes) -> bool:
        """Whether the signature is right, and by an algorithm that is the key's."""
        found = self.algorithms.get(algorithm)
        return found is not None and found.verify(message, self._material, signature)


KeySet = Mapping[str, tuple[Key, ...]]
"""By `kid`. Several keys of one kid are of different types, or one of them is about to go."""


def parse(document: object) -> KeySet:
    """The keys of a JWKS (text, octets, or what was read from that).

    Keys that cannot be used (symmetric, for encryption, weak, without a kid, of a curve or
    algorithm we do not know) are left out: a provider may have them for others. Raises: JwksError.
    """
    entries = _entries(document)
    if len(entries) > _MAX_KEYS:
        raise JwksError(f"more than {_MAX_KEYS} keys")
    made: dict[str, tuple[Key, ...]] = {}
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise JwksError("`keys` holds what is no object")
        try:
            key = _key(entry)
        except JwksError as problem:
            _log.info("key %d of a JWKS is left out: %s", number, problem)
            continue
        same = made.get(key.kid, ())
        if len(same) < _MAX_SAME_KID:
            made[key.kid] = (*same, key)
    return made


def _entries(document: object) -> list[object]:
    if isinstance(document, str | bytes):
        if len(document) > MAX_BYTES:
            raise JwksError(f"larger than {MAX_BYTES} bytes")
        try:
            document = orjson.loads(document)
        except orjson.JSONDecodeError:
            raise JwksError("not JSON") from None
    entries = document.get("keys") if isinstance(document, Mapping) else None
    if not isinstance(entries, list):
        raise JwksError('expected {"keys": [...]}')
    return entries


def _key(entry: Mapping[str, Any]) -> Key:
    """Raises: JwksError for a key that cannot be used."""
    kid = entry.get("kid")
    if not isinstance(kid, str) or not kid:
        raise JwksError("it has no kid")
    if entry.get("use", "sig") != "sig":
        raise JwksError("it is not for signatures")
    operations = entry.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise JwksError("it is not for verification")
    algorithms = _algorithms(entry)
    only = entry.get("alg")
    if only is not None:
        algorithms = {name: one for name, one in algorithms.items() if name == only}
        if not algorithms:
            raise JwksError("its algorithm is not one of its type's")
    return Key(kid, _material(entry), algorithms)


def _algorithms(entry: Mapping[str, Any]) -> Mapping[str, _Verify]:
    kind, curve = entry.get("kty"), entry.get("crv")
    found: Mapping[str, _Verify] | None = None
    if kind == "RSA":
        found = _RSA
    elif kind == "EC" and isinstance(curve, str):
        found = _EC.get(curve)
    elif kind == "OKP" and curve == "Ed25519":
        found = _EDWARDS
    if found is None:
        raise JwksError("its type or curve is not supported")
    return found


def _material(entry: Mapping[str, Any]) -> object:
    public = {name: entry[name] for name in _PUBLIC if name in entry}
    if not all(isinstance(value, str) and len(value) <= 2048 for value in public.values()):
        raise JwksError("its numbers are not text")
    try:
        if public["kty"] == "RSA":
            key = RSAAlgorithm.from_jwk(public)
            is_strong = key.key_size in _RSA_BITS
            numbers = key.public_numbers() if hasattr(key, "public_numbers") else None
            if not is_strong or numbers is None or not 3 <= numbers.e <= _MAX_EXPONENT:
                raise JwksError("its size is out of bounds")
            return key
        if public["kty"] == "EC":
            return ECAlgorithm(hashes.SHA256).from_jwk(public)
        return OKPAlgorithm.from_jwk(public)
    except JwksError:
        raise
    except (InvalidKeyError, ValueError, TypeError, KeyError, OverflowError):
        raise JwksError("it is malformed") from None
