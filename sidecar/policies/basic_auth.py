"""Knows clients by name and password.

Source: spec/config.md sections 0.3, 3.6 and 11; RFC 7617; RFC 9110 section 11.7.

Hashes of passwords are slow by design, so they are computed in threads, two at a time, and what
came of it is remembered by a keyed hash of the credential: under a random key, so that what is in
memory is worth nothing elsewhere. A name that is not there costs as much as one that is.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import secrets
from collections.abc import Mapping
from hashlib import blake2b
from typing import Final, Literal, final

from pydantic import Field

from sidecar.errors import ConfigError, RequestError, SidecarError
from sidecar.http.message import Request
from sidecar.policies import fields
from sidecar.policies.base import PolicyKind, Services
from sidecar.policies.htpasswd import HtpasswdError, Password, parse
from sidecar.policies.location import HeaderPlace, Location, source_of
from sidecar.policies.schema import PolicyConfig, nested

_STATE: Final = "basicAuth"
_DEFAULT: Final = Location(header=HeaderPlace(name="authorization", prefix="Basic "))
_PROXY: Final = "proxy-authorization"
_FAILURE: Final = "basic authentication failure: "
_MAX_BYTES: Final = 1024
"""Of a credential."""
_MAX_KNOWN: Final = 1024
_AT_ONCE: Final = 2
_MAX_WAITING: Final = 64


class Config(PolicyConfig):
    """Who may come in."""

    htpasswd: str
    """Lines `name:hash` by bcrypt, apr1 or {SHA}; empty lines and ones beginning with # are not
    looked at."""
    realm: str | None = None
    """What browsers show. Default `Restricted`."""
    mode: Literal["strict", "optional"] = "optional"
    """strict: a valid credential or 401; optional (default): none is fine too, a wrong one not."""
    authorization_location: Location | None = Field(default=None)
    """Default: header `authorization` with prefix `Basic `."""


@final
class NotVerifiedError(SidecarError):
    """A credential has to be verified first, which takes its time."""


@final
class _Verdicts:
    """What is known of credentials, by a keyed hash; the oldest is forgotten."""

    __slots__ = ("_key", "_known")

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._known: dict[bool, dict[bytes, str]] = {True: {}, False: {}}

    def digest(self, given: bytes) -> bytes:
        """Names a credential."""
        return blake2b(given, digest_size=32, key=self._key).digest()

    def get(self, digest: bytes) -> str | None:
        """Whose it is, "" for nobody's; None when that is not known."""
        found = self._known[True].get(digest)
        return self._known[False].get(digest) if found is None else found

    def put(self, digest: bytes, name: str) -> None:
        """Wrong ones have a place of their own, and drive no right one out."""
        known = self._known[bool(name)]
        known[digest] = name
        if len(known) > _MAX_KNOWN:
            del known[next(iter(known))]


@final
class BasicAuth:
    """Refuses with 401, or notes who it is and takes the credential out of the request."""

    __slots__ = (
        "_challenge",
        "_decoy",
        "_is_strict",
        "_passwords",
        "_running",
        "_source",
        "_verdicts",
        "_waiting",
        "guard",
        "is_guard",
        "needs_request_body",
    )

    def __init__(self, config: Config, services: Services) -> None:
        location = config.authorization_location or _DEFAULT
        try:
            self._source = source_of(location, services)
        except ConfigError as problem:
            raise nested("authorizationLocation", problem) from problem
        try:
            self._passwords: Mapping[bytes, Password] = parse(config.htpasswd)
        except HtpasswdError as problem:
            raise ConfigError("htpasswd", str(problem)) from problem
        self._decoy = max(self._passwords.values(), key=lambda one: one.cost, default=None)
        self._challenge = _challenge(config.realm, location)
        self._is_strict = config.mode == "strict"
        self._verdicts = _Verdicts()
        self._running: asyncio.Semaphore | None = None
        self._waiting = 0
        self.needs_request_body = self._source.needs_request_body
        self.is_guard = self._source.keeps_target and not self.needs_request_body
        self.guard = self._admitted

    async def on_request(self, request: Request) -> None:
        """Raises: RequestError 401 or 407; 503 when too many passwords are to be verified."""
        try:
            self._admitted(request)
        except NotVerifiedError:
            given = self._source.read(request) or b""
            self._verdicts.put(self._verdicts.digest(given), await self._owner(given))
            self._admitted(request)

    def _admitted(self, request: Request) -> None:
        """Raises: RequestError; NotVerifiedError, and then nothing is done."""
        given = self._source.read(request)
        if given is None:
            if self._is_strict:
                raise self._refusal("no basic authentication credentials found")
            return
        name = self._verdicts.get(self._verdicts.digest(given))
        if name is None:
            raise NotVerifiedError("the password is not verified yet")
        if not name:
            raise self._refusal("invalid credentials")
        request.state[_STATE] = {"username": name}
        self._source.remove(request)

    def _refusal(self, reason: str) -> RequestError:
        status, header = self._challenge
        return RequestError(status, "BasicAuth", _FAILURE + reason, headers=(header,))

    async def _owner(self, given: bytes) -> str:
        """Whose credential it is; "" when it is nobody's."""
        name, password = _parted(given)
        found = self._passwords.get(name)
        tested = found or self._decoy
        if tested is None:
            return ""
        is_right = await self._tested(tested, password)
        return name.decode() if is_right and found is not None else ""

    async def _tested(self, tested: Password, password: bytes) -> bool:
        if not tested.cost:
            return tested.is_right(password)
        if self._waiting >= _MAX_WAITING:
            headers = ((b"retry-after", b"1"),)
            raise RequestError(503, "BasicAuth", _FAILURE + "too many at once", headers=headers)
        if self._running is None:
            self._running = asyncio.Semaphore(_AT_ONCE)
        self._waiting += 1
        try:
            async with self._running:
                return await asyncio.to_thread(tested.is_right, password)
        finally:
            self._waiting -= 1


def _challenge(realm: str | None, location: Location) -> tuple[int, tuple[bytes, bytes]]:
    """Status and header. Raises: ConfigError for a realm that no header can carry."""
    text = (realm or "Restricted").replace("\\", "\\\\").replace('"', '\\"')
    value = fields.header_value(f'Basic realm="{text}"', "realm")
    place = location.header.name.lower() if location.header is not None else ""
    if place == _PROXY:
        return 407, (b"proxy-authenticate", value)
    return 401, (b"www-authenticate", value)


def _parted(given: bytes) -> tuple[bytes, bytes]:
    """Name and password; two empty ones for what is no credential."""
    if len(given) > _MAX_BYTES:
        return b"", b""
    try:
        name, colon, password = base64.b64decode(given, validate=True).partition(b":")
        name.decode()
    except (binascii.Error, UnicodeDecodeError):
        return b"", b""
    return (name, password) if colon and b"\0" not in password else (b"", b"")


KIND = PolicyKind("basicAuth", Config, BasicAuth)
