"""Signatures of cards that the gateway has rewritten, by a key of its own.

Source: A2A 1.0 section 8.4; RFC 7515 (JWS) appendix F: the payload is not part of the signature.
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import sha256
from typing import Any, Final, Literal, final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jwt import PyJWS

from sidecar.a2a.canonical import payload

Algorithm = Literal["ES256", "ES384", "RS256", "PS256", "EdDSA"]
_KEPT: Final = 64
"""Signatures that are made once: most cards do not change from one request to the next."""
_RSA_BITS: Final = 2048
_CURVES: Final = {"ES256": "secp256r1", "ES384": "secp384r1"}


@final
class Signer:
    """Raises: ValueError, which says nothing of the key, when it does not fit the algorithm."""

    __slots__ = ("_algorithm", "_header", "_jws", "_key", "_known")

    def __init__(self, pem: str, algorithm: Algorithm, key_id: str, jwks_url: str | None) -> None:
        self._key = _loaded(pem, algorithm)
        self._algorithm = algorithm
        self._header: dict[str, Any] = {"typ": "JOSE", "kid": key_id}
        if jwks_url is not None:
            self._header["jku"] = jwks_url
        self._jws = PyJWS()
        self._known: OrderedDict[bytes, dict[str, str]] = OrderedDict()

    def __call__(self, card: dict[str, Any]) -> dict[str, str]:
        """The entry of `signatures` for a card. Raises: BadCard."""
        covered = payload(card)
        digest = sha256(covered).digest()
        found = self._known.get(digest)
        if found is None:
            found = self._known[digest] = self._signed(covered)
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return found

    def _signed(self, covered: bytes) -> dict[str, str]:
        whole = self._jws.encode(covered, self._key, self._algorithm, self._header)
        protected, _, signature = whole.split(".")
        return {"protected": protected, "signature": signature}


def _loaded(pem: str, algorithm: Algorithm) -> Any:
    try:
        key = load_pem_private_key(pem.encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError("must be a PEM private key without a passphrase") from error
    if algorithm in _CURVES:
        fits = isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name == _CURVES[algorithm]
    elif algorithm == "EdDSA":
        fits = isinstance(key, ed25519.Ed25519PrivateKey)
    else:
        fits = isinstance(key, rsa.RSAPrivateKey) and key.key_size >= _RSA_BITS
    if not fits:
        raise ValueError(f"does not fit {algorithm}")
    return key
