"""Session ids that clients get: sealed, so that any worker or replica with the key can go on.

Source: spec/mcp_a2a.md sections 2.6 and 5.2 rows 1, 2 and 4; design section 5.

AES-256-GCM over a compressed JSON array, in base64url without padding, which is visible ASCII.
Nobody without the key can make one, read the servers' own ids in it, or change whose it is.
"""

from __future__ import annotations

import os
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final, final

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES: Final = 32
MAX_CHARS: Final = 12_288
_NONCE_BYTES: Final = 12
_PURPOSE: Final = b"agentgateway mcp session 1"
_CLIENT_MAX_BYTES: Final = 1024
_KNOWN_MAX: Final = 4096


@final
@dataclass(frozen=True, slots=True)
class Upstream:
    """What a session is at one server. Without `version` it was not opened there."""

    name: str
    upstream_id: str = ""
    version: str = ""
    pin: str = ""
    capabilities: int = 0
    """Bits of mcp.capabilities."""


@final
@dataclass(frozen=True, slots=True)
class Claims:
    """What a session id says."""

    uuid: bytes
    """16 random bytes."""
    backend: bytes
    """Hash of the backend that it belongs to; it is nothing anywhere else."""
    principal: bytes
    """16 bytes, a hash; zeros: of nobody in particular."""
    version: str
    """Protocol version agreed with the client."""
    created_seconds: int
    upstreams: tuple[Upstream, ...]
    client: dict[str, Any] | None = None
    """`params` of the client's initialize; None when they were too long to be kept."""


@final
class Sealer:
    """Makes and reads session ids. `key`: 32 bytes."""

    __slots__ = ("_cipher", "_known")

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)
        self._known: OrderedDict[str, Claims] = OrderedDict()

    def seal(self, claims: Claims) -> str:
        """The id."""
        text = base64(self._sealed(claims))
        self._remember(text, claims)
        return text

    def _sealed(self, claims: Claims) -> bytes:
        client = claims.client
        if client is not None and len(zlib.compress(orjson.dumps(client), 6)) > _CLIENT_MAX_BYTES:
            client = None
        plain = orjson.dumps(
            [
                claims.uuid.hex(),
                claims.backend.hex(),
                claims.principal.hex(),
                claims.version,
                claims.created_seconds,
                [
                    [u.name, u.upstream_id, u.version, u.pin, u.capabilities]
                    for u in claims.upstreams
                ],
                client,
            ]
        )
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, zlib.compress(plain, 6), _PURPOSE)

    def open(self, text: str) -> Claims | None:
        """What an id says; None for anything this key did not seal."""
        known = self._known.get(text)
        if known is not None:
            return known
        if len(text) > MAX_CHARS:
            return None
        raw = unbase64(text)
        if raw is None or len(raw) <= _NONCE_BYTES:
            return None
        try:
            packed = self._cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], _PURPOSE)
        except InvalidTag:
            return None
        claims = _claims(zlib.decompress(packed))
        self._remember(text, claims)
        return claims

    def _remember(self, text: str, claims: Claims) -> None:
        # Sound, since an id never changes its meaning: whether the session lives is not said here.
        self._known[text] = claims
        if len(self._known) > _KNOWN_MAX:
            self._known.popitem(last=False)

    def seal_bytes(self, plain: bytes, purpose: bytes) -> str:
        """Another secret of the gateway that a client carries for it."""
        nonce = os.urandom(_NONCE_BYTES)
        return base64(nonce + self._cipher.encrypt(nonce, plain, purpose))

    def open_bytes(self, text: str, purpose: bytes) -> bytes | None:
        """What `seal_bytes` was given for the same purpose; None for anything else."""
        raw = unbase64(text) if len(text) <= MAX_CHARS else None
        if raw is None or len(raw) <= _NONCE_BYTES:
            return None
        try:
            return self._cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], purpose)
        except InvalidTag:
            return None


def _claims(plain: bytes) -> Claims:
    """From what only we can have written."""
    uuid, backend, principal, version, created, upstreams, client = orjson.loads(plain)
    return Claims(
        bytes.fromhex(uuid),
        bytes.fromhex(backend),
        bytes.fromhex(principal),
        version,
        created,
        tuple(Upstream(*one) for one in upstreams),
        client,
    )


def base64(raw: bytes) -> str:
    """Base64url without padding."""
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def unbase64(text: str) -> bytes | None:
    """The bytes; None for what is no base64url, or not in its one form."""
    try:
        raw = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    except ValueError:
        return None
    # The lenient decoder skips strangers: two texts must not name one session.
    return raw if base64(raw) == text else None
