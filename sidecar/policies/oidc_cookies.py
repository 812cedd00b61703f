"""Cookies that only the gateway can read: sealed, bound to their purpose, in parts when long.

Source: RFC 6265; spec/config.md section 3.6 (oidc); NIST SP 800-38D (AES-GCM); hardening case 40.

A value is base64url of a random nonce of 96 bits and the sealed text. What it is for (a session, a
login under way, ...), which policy, issuer and client are authenticated with it, so that no cookie
passes for another. A long value stands in several cookies: the first one's begins with how many
there are and a dot, the others' names end in `.1`, `.2`, ...
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, Literal, final

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sidecar.errors import ConfigError
from sidecar.http.headers import Field, Headers
from sidecar.http.message import Request
from sidecar.policies.base import SECRET_VARIABLE

PREFIX: Final = b"agw_oidc_"
"""Names that begin so are ours: they are taken out of requests before those go upstream."""
_SECRET: Final = re.compile(r"[0-9A-Fa-f]{64}")
_NONCE_BYTES: Final = 12
_PART_BYTES: Final = 3800
"""Of a cookie's value; browsers take 4,096 with name and attributes."""
_MAX_PARTS: Final = 4
_FORM: Final = re.compile(rb"[A-Za-z0-9_-]+")
_MANY: Final = re.compile(rb"([2-4])\.([A-Za-z0-9_-]+)")
_URL_SAFE: Final = bytes.maketrans(b"-_", b"+/")

Purpose = Literal["s", "r", "t"]
"""A session, what renews it, a login under way."""


class CookieTooLargeError(Exception):
    """What is to be kept does not fit into cookies."""


def secret_key(text: str) -> bytes:
    """The key of `OIDC_COOKIE_SECRET`. Raises: ConfigError."""
    if not text:
        raise ConfigError("", f"needs a cookie secret: set {SECRET_VARIABLE}")
    if not _SECRET.fullmatch(text):
        raise ConfigError("", f"{SECRET_VARIABLE} must be 64 hexadecimal digits")
    return bytes.fromhex(text)


@final
class CookieBox:
    """Seals and opens the cookies of one policy.

    `place`: where the policy is configured; `client`: its issuer and client, so that what was made
    for others does not open.
    """

    __slots__ = ("_aead", "_attributes", "_bound", "names")

    def __init__(self, key: bytes, place: str, client: Sequence[str], *, is_secure: bool) -> None:
        self._aead = AESGCM(key)
        mark = sha256(place.encode()).hexdigest()[:16]
        self._bound = orjson.dumps([place, *client])
        self.names: Mapping[Purpose, str] = {
            "s": f"agw_oidc_s_{mark}",
            "r": f"agw_oidc_r_{mark}",
            "t": f"agw_oidc_t_{mark}",
        }
        self._attributes = "; Path=/; HttpOnly; SameSite=Lax" + ("; Secure" if is_secure else "")

    def sealed(self, purpose: Purpose, name: str, value: Mapping[str, Any]) -> str:
        """The value of a cookie, of any length."""
        nonce = os.urandom(_NONCE_BYTES)
        text = self._aead.encrypt(nonce, orjson.dumps(value), self._context(purpose, name))
        return base64.urlsafe_b64encode(nonce + text).rstrip(b"=").decode()

    def opened(self, purpose: Purpose, name: str, value: bytes) -> dict[str, Any] | None:
        """What was sealed under this name; None for anything else."""
        raw = _decoded(value)
        if len(raw) <= _NONCE_BYTES:
            return None
        try:
            nonce, text = raw[:_NONCE_BYTES], raw[_NONCE_BYTES:]
            found = orjson.loads(self._aead.decrypt(nonce, text, self._context(purpose, name)))
        except (InvalidTag, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def _context(self, purpose: Purpose, name: str) -> bytes:
        return b"\0".join((purpose.encode(), name.encode(), self._bound))

    def cookies(
        self, purpose: Purpose, name: str, value: Mapping[str, Any], seconds: int
    ) -> list[Field]:
        """`set-cookie` fields for a value. Raises: CookieTooLargeError."""
        text = self.sealed(purpose, name, value)
        parts = [text[at : at + _PART_BYTES] for at in range(0, len(text), _PART_BYTES)]
        if len(parts) > _MAX_PARTS:
            raise CookieTooLargeError
        if len(parts) > 1:
            parts[0] = f"{len(parts)}.{parts[0]}"
        return [
            self._field(f"{name}.{number}" if number else name, part, seconds)
            for number, part in enumerate(parts)
        ]

    def cleared(self, name: str, present: Mapping[bytes, bytes] | None = None) -> list[Field]:
        """`set-cookie` fields that end a cookie, and parts of it that the request has."""
        parts = [f"{name}.{number}" for number in range(1, _MAX_PARTS)]
        found = [one for one in parts if present and one.encode() in present]
        return [self._field(one, "", 0) for one in (name, *found)]

    def _field(self, name: str, value: str, seconds: int) -> Field:
        text = f"{name}={value}; Max-Age={seconds}{self._attributes}"
        return b"set-cookie", text.encode()

    def value(self, name: str, jar: Mapping[bytes, bytes]) -> bytes:
        """The whole value of a cookie, its parts joined; empty when it is not there."""
        key = name.encode()
        first = jar.get(key, b"")
        many = _MANY.fullmatch(first)
        if many is None:
            return first
        parts = [jar.get(key + b".%d" % number, b"") for number in range(1, int(many[1]))]
        return b"".join((many[2], *parts)) if all(parts) else b""


def _decoded(value: bytes) -> bytes:
    if not _FORM.fullmatch(value):
        return b""
    try:
        return binascii.a2b_base64(value.translate(_URL_SAFE) + b"=" * (-len(value) % 4))
    except binascii.Error:
        return b""


def jar_of(request: Request) -> dict[bytes, bytes]:
    """Our cookies of a request. One that stands twice with two values is left out: another site of
    the same domain may have put one of them there, and nobody can tell which."""
    jar: dict[bytes, bytes] = {}
    torn: set[bytes] = set()
    for field, value in request.headers:
        if field == b"cookie" and PREFIX in value:
            for pair in value.split(b";"):
                name, _, text = pair.strip().partition(b"=")
                if name.startswith(PREFIX) and jar.setdefault(name, text) != text:
                    torn.add(name)
    for name in torn:
        del jar[name]
    return jar


def without_reserved(request: Request) -> None:
    """Take our cookies out of a request. The header list is replaced, never changed."""
    headers = request.headers
    # Fast path: most requests have none.
    if not any(field == b"cookie" and PREFIX in value for field, value in headers):
        return
    kept = Headers()
    for field, value in headers:
        rest = value
        if field == b"cookie" and PREFIX in value:
            pairs = (pair.strip() for pair in value.split(b";"))
            rest = b"; ".join(pair for pair in pairs if pair and not pair.startswith(PREFIX))
            if not rest:
                continue
        kept.append((field, rest))
    request.headers = kept


def without_foreign(headers: Headers) -> None:
    """Take out of an upstream's response what would set our cookies."""
    headers[:] = [
        (name, value)
        for name, value in headers
        # A cookie without a name comes back as its value alone, which may look like one of ours.
        if name != b"set-cookie" or not value.lstrip(b" \t=").startswith(PREFIX)
    ]


@final
class ReservedCookies:
    """Keeps our cookies from every route's upstream, whether or not the route asks for a login:
    whoever got a session's could use it."""

    __slots__ = ()
    is_guard = True

    def on_request(self, request: Request) -> None:
        """See class."""
        without_reserved(request)
