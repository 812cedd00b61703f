"""Tokens that the gateway signs itself: with a private key of the configuration, for a short life.

Source: RFC 7515 (JWS), RFC 7518 section 3 (algorithms), RFC 7519 (JWT); spec config section 3.12.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Final, final

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from sidecar.errors import ConfigError

_RSA: Final = frozenset(("RS256", "RS384", "RS512", "PS256"))
_CURVES: Final = {"ES256": "secp256r1", "ES384": "secp384r1"}
_MIN_BITS: Final = 2048
"""RFC 7518 section 3.3."""
MAX_TOKEN_BYTES: Final = 8192
"""Longer ones fit no header that a careful server reads."""


@final
class SigningKey:
    """A private key and the algorithm it signs with."""

    __slots__ = ("_algorithm", "_header", "_key")

    def __init__(self, pem: object, algorithm: str, header: Mapping[str, Any], path: str) -> None:
        """`header`: what stands beside `alg` and `typ`, as `kid`. Raises: ConfigError at `path`,
        which repeats nothing of the key."""
        self._key = _loaded(pem, algorithm, path)
        self._algorithm = algorithm
        self._header = {name: value for name, value in header.items() if value is not None}

    def sign(self, claims: Mapping[str, Any]) -> str:
        """The token that claims this."""
        return jwt.encode(dict(claims), self._key, algorithm=self._algorithm, headers=self._header)

    @property
    def public_bytes(self) -> bytes:
        """The public half (DER), to compare with a certificate's."""
        return public_bytes(self._key.public_key())


def public_bytes(key: Any) -> bytes:
    """A public key as DER."""
    der, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return bytes(key.public_bytes(der, form))


def _loaded(pem: object, algorithm: str, path: str) -> Any:
    text = pem.strip().encode() if isinstance(pem, str) else b""
    try:
        with warnings.catch_warnings():
            # A key of an odd form is judged below; nobody reads the warning.
            warnings.simplefilter("ignore")
            key = serialization.load_pem_private_key(text, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # Without its cause, whose message may hold some of the text.
        raise ConfigError(path, "a private key (PEM, without a passphrase) expected") from None
    if algorithm in _RSA:
        if not isinstance(key, rsa.RSAPrivateKey):
            raise ConfigError(path, f"{algorithm} needs an RSA key")
        if key.key_size < _MIN_BITS:
            raise ConfigError(path, f"an RSA key of at least {_MIN_BITS} bits expected")
        return key
    curve = _CURVES.get(algorithm)
    if curve is None:
        raise ConfigError(path, "the algorithm is not supported")
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != curve:
        raise ConfigError(path, f"{algorithm} needs an EC key on {curve}")
    return key
