"""Bearer tokens that are JWTs: whether one is what it says, by which issuer, and what it claims.

Source: RFC 7515 (JWS), RFC 7519 (JWT), RFC 8725 (best current practices), RFC 9068; spec/config.md
section 3.6.

The header of a token only says which of our own keys to try: `jku`, `x5u`, `jwk` and `x5c` are not
looked at. What is behind it is read once its signature is right. Tokens that passed are remembered
by their SHA-256, with what may end their validity: time, and their issuer's set of keys.
"""

from __future__ import annotations

import binascii
import json
import math
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, Protocol, final

import orjson

from sidecar.policies.jwks import Key, KeySet

MAX_BYTES: Final = 16 * 1024
"""Of a token."""
LEEWAY_SECONDS: Final = 60
"""By which clocks may differ, as in the reference."""
_LEEWAY_NS: Final = LEEWAY_SECONDS * 1_000_000_000
_MAX_HEADER_BYTES: Final = 4096
_MAX_DEPTH: Final = 32
_MAX_KID: Final = 256
_KNOWN_TOKENS: Final = 2048
_KNOWN_BYTES: Final = 4 * 1024 * 1024
_FOREVER: Final = 2**63
_FORM: Final = re.compile(rb"[A-Za-z0-9_-]+")
_URL_SAFE: Final = bytes.maketrans(b"-_", b"+/")
_TYPES: Final = frozenset(("jwt", "at+jwt", "jose"))
"""Other types are tokens for another purpose: logout, proofs of possession, security events."""
_TEXTS: Final = ("sub", "jti")

MISSING: Final = "no bearer token found"
_NO_KID: Final = "the token header does not specify a `kid`"


class TokenError(Exception):
    """A token that is not valid. The text may be shown to the client."""


@final
class UnknownKeyError(TokenError):
    """No issuer has the key now; one whose set is fetched may have it soon."""

    def __init__(self, kid: str) -> None:
        super().__init__(f'token uses the unknown key "{kid}"')
        self.kid = kid


class KeySource(Protocol):
    """Where an issuer's keys are. `current` is another object after every change."""

    current: KeySet | None
    """None: they could not be fetched yet, or not for too long."""


@final
class FixedKeys:
    """Keys that the configuration holds."""

    __slots__ = ("current",)

    def __init__(self, current: KeySet) -> None:
        self.current: KeySet | None = current


@final
class Issuer:
    """An issuer and what its tokens must hold. `audiences`: empty for any."""

    __slots__ = ("audiences", "keys", "name", "required")

    def __init__(
        self, name: str, audiences: Sequence[str], required: Sequence[str], keys: KeySource
    ) -> None:
        self.name = name
        self.audiences = frozenset(audiences)
        names = (*required, "iss", "aud") if audiences else (*required, "iss")
        self.required = tuple(dict.fromkeys(names))
        self.keys = keys


@final
class Verified:
    """A token that is valid from `since_ns` until `until_ns` (wall clock, leeway included)."""

    __slots__ = ("claims", "issuer", "keys", "since_ns", "size", "text", "until_ns")

    def __init__(
        self, claims: dict[str, Any], text: str, issuer: Issuer, since_ns: int, until_ns: int
    ) -> None:
        self.claims = claims
        self.text = text
        self.size = len(text)
        self.issuer = issuer
        self.keys = issuer.keys.current
        """The set that its key was in."""
        self.since_ns = since_ns
        self.until_ns = until_ns


@final
class Verifier:
    """Verifies tokens of some issuers."""

    __slots__ = ("_issuers", "_known", "_known_bytes")

    def __init__(self, issuers: Sequence[Issuer]) -> None:
        self._issuers = tuple(issuers)
        self._known: dict[bytes, Verified] = {}
        self._known_bytes = 0

    def verify(self, token: bytes, now_ns: int) -> Verified:
        """What the token claims. `now_ns`: wall clock. Raises: TokenError."""
        digest = sha256(token).digest()
        known = self._known.get(digest)
        # Fast path: seen before, its time has come and not passed, its key is where it was.
        if known is not None:
            if known.since_ns <= now_ns < known.until_ns and known.keys is (
                known.issuer.keys.current
            ):
                return known
            self._forget(digest)
        found = self._verified(token, now_ns)
        self._remember(digest, found)
        return found

    def _remember(self, digest: bytes, found: Verified) -> None:
        known = self._known
        known[digest] = found
        self._known_bytes += found.size
        while len(known) > _KNOWN_TOKENS or self._known_bytes > _KNOWN_BYTES:
            self._forget(next(iter(known)))

    def _forget(self, digest: bytes) -> None:
        self._known_bytes -= self._known.pop(digest).size

    def _verified(self, token: bytes, now_ns: int) -> Verified:
        if len(token) > MAX_BYTES:
            raise _invalid(f"longer than {MAX_BYTES} bytes")
        parts = token.split(b".")
        if len(parts) != 3:
            raise _invalid("encrypted" if len(parts) == 5 else "not three parts")
        algorithm, kid = _head(parts[0])
        signature = _decoded(parts[2], "signature")
        signed = token[: len(token) - len(parts[2]) - 1]
        problem: TokenError | None = None
        is_theirs = False
        for issuer, key in self._candidates(kid):
            if not key.verifies(algorithm, signed, signature):
                problem = problem or _mismatch(key, algorithm)
                continue
            claims = _object(_decoded(parts[1], "payload"), "the token is invalid or malformed")
            is_theirs = is_theirs or claims.get("iss") == issuer.name
            try:
                since_ns, until_ns = _span(claims, issuer, now_ns)
            except TokenError as error:
                # Another issuer, or another audience of the same one, may have the same key.
                problem = error
                continue
            return Verified(claims, token.decode("ascii"), issuer, since_ns, until_ns)
        # An issuer whose keys are not here may use the same kid for a key of its own.
        if problem is None or (
            not is_theirs and any(one.keys.current is None for one in self._issuers)
        ):
            raise UnknownKeyError(kid)
        raise problem

    def _candidates(self, kid: str) -> list[tuple[Issuer, Key]]:
        return [
            (issuer, key)
            for issuer in self._issuers
            for key in (issuer.keys.current or {}).get(kid, ())
        ]


def _invalid(reason: str) -> TokenError:
    return TokenError(f"the token is invalid or malformed: {reason}")


def _malformed(reason: str) -> TokenError:
    return TokenError(f"the token header is malformed: {reason}")


def _mismatch(key: Key, algorithm: str) -> TokenError:
    if algorithm not in key.algorithms:
        return _invalid("InvalidAlgorithm")
    return _invalid("InvalidSignature")


# --- the parts ----------------------------------------------------------------------------------


def _decoded(part: bytes, name: str) -> bytes:
    """The octets of base64url without padding, in the one form they have (RFC 7515 section 2)."""
    if _FORM.fullmatch(part):
        standard = part.translate(_URL_SAFE)
        try:
            octets = binascii.a2b_base64(standard + b"=" * (-len(part) % 4))
        except binascii.Error:
            octets = b""
        # Bits left over could make two texts of one token.
        if octets and binascii.b2a_base64(octets, newline=False).rstrip(b"=") == standard:
            return octets
    raise _invalid(f"the {name} is not base64url")


def _head(part: bytes) -> tuple[str, str]:
    """`(alg, kid)`."""
    if len(part) > _MAX_HEADER_BYTES:
        raise _malformed(f"longer than {_MAX_HEADER_BYTES} bytes")
    header = _object(_decoded(part, "header"), "the token header is malformed")
    if "crit" in header or "b64" in header or "zip" in header:
        # Extensions that must be understood (RFC 7515 section 4.1.11), and none is.
        raise _malformed("unsupported parameter")
    if "enc" in header or _media(header.get("cty", "json")) in ("jwt", None):
        raise _malformed("nested or encrypted")
    if _media(header.get("typ", "JWT")) not in _TYPES:
        raise _malformed("unexpected typ")
    algorithm = header.get("alg")
    if not isinstance(algorithm, str):
        raise _malformed("no alg")
    kid = header.get("kid")
    if kid is None:
        raise TokenError(_NO_KID)
    # It is shown in an answer and in logs.
    if not isinstance(kid, str) or not 0 < len(kid) <= _MAX_KID or not kid.isprintable():
        raise _malformed("bad kid")
    return algorithm, kid


def _media(value: object) -> str | None:
    """A media type as header parameters abbreviate it; None for what is no text."""
    return value.lower().removeprefix("application/") if isinstance(value, str) else None


def _unique(pairs: list[tuple[str, object]]) -> None:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError


_CHECK_NAMES: Final = json.JSONDecoder(object_pairs_hook=_unique)


def _object(octets: bytes, what: str) -> dict[str, Any]:
    """A JSON object, no name of which stands twice: readers differ in which one they take."""
    try:
        found = orjson.loads(octets)
        _CHECK_NAMES.decode(octets.decode())
    except (ValueError, RecursionError):
        raise TokenError(f"{what}: not JSON") from None
    if not isinstance(found, dict):
        raise TokenError(f"{what}: not an object")
    if octets.count(b"[") + octets.count(b"{") > _MAX_DEPTH and _is_deep(found):
        raise TokenError(f"{what}: nested too deep")
    return found


def _is_deep(value: object) -> bool:
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [
            child
            for one in level
            if isinstance(one, dict | list)
            for child in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return False
    return True


# --- the claims ---------------------------------------------------------------------------------


def _span(claims: Mapping[str, Any], issuer: Issuer, now_ns: int) -> tuple[int, int]:
    """From when and until when the token is valid, in nanoseconds. Raises: TokenError."""
    for name in issuer.required:
        if claims.get(name) is None:
            # The registered claims have plain names; any other was chosen by the operator.
            raise _invalid(f"Missing required claim: {name}")
    if claims["iss"] != issuer.name:
        raise _invalid("InvalidIssuer")
    if issuer.audiences and issuer.audiences.isdisjoint(_audiences(claims["aud"])):
        raise _invalid("InvalidAudience")
    for name in _TEXTS:
        if not isinstance(claims.get(name, ""), str):
            raise _invalid(f"{name} is not text")
    _date(claims, "iat")
    expires, begins = _date(claims, "exp"), _date(claims, "nbf")
    until_ns = _FOREVER if expires is None else expires + _LEEWAY_NS
    since_ns = 0 if begins is None else begins - _LEEWAY_NS
    if now_ns >= until_ns:
        raise _invalid("ExpiredSignature")
    if now_ns < since_ns:
        raise _invalid("ImmatureSignature")
    return since_ns, until_ns


def _audiences(given: object) -> list[str]:
    many = given if isinstance(given, list) else [given]
    texts = [one for one in many if isinstance(one, str)]
    if len(texts) != len(many):
        raise _invalid("aud is not text")
    return texts


def _date(claims: Mapping[str, Any], name: str) -> int | None:
    """A NumericDate in nanoseconds; None when it is absent."""
    value = claims.get(name)
    if value is None:
        if name in claims:
            raise _invalid(f"{name} is not a number")
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _invalid(f"{name} is not a number")
    return int(max(min(value, 2.0**33), -(2.0**33)) * 1_000_000_000)
