"""`jwtSign`: a token that the gateway signs for the backend.

Source: spec config section 3.12.

One token serves for half its life, so that a backend never sees one with less than that left: a
signature costs up to a millisecond, and tells the backend nothing that the last one did not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, final

import orjson

from sidecar.config.scalars import duration_seconds
from sidecar.errors import ConfigError
from sidecar.llm.credentials.base import Outgoing
from sidecar.llm.credentials.signing import MAX_TOKEN_BYTES, SigningKey
from sidecar.llm.credentials.static import DEFAULT_LOCATION, Put, placing
from sidecar.telemetry.clock import Clock

_TTL_SECONDS: Final = 300.0
_BACKDATED_SECONDS: Final = 10
"""For a backend whose clock is behind ours."""
RESERVED: Final = frozenset(("iat", "exp", "nbf"))
"""Claims of the signer's own."""
_NS: Final = 1_000_000_000


@final
class Signer:
    """Makes the tokens of one configuration. `path`: of the payload, for problems."""

    __slots__ = ("_claims", "_clock", "_key", "ttl")

    def __init__(self, payload: Mapping[str, Any], clock: Clock, path: str) -> None:
        """Raises: ConfigError."""
        self._clock = clock
        self.ttl = _ttl_of(payload.get("ttl"), f"{path}.ttl")
        """Life of a token in seconds."""
        self._claims = _claims_of(payload.get("claims") or {}, f"{path}.claims")
        header = {"kid": payload.get("kid")}
        algorithm = payload.get("alg") or "RS256"
        self._key = SigningKey(payload.get("signingKey"), algorithm, header, f"{path}.signingKey")

    def sign(self, more: Mapping[str, Any]) -> str:
        """A new token, with more claims than the configured ones. Their values are JSON's."""
        now = self._clock.time_ns() // _NS
        dates = {"iat": now - _BACKDATED_SECONDS, "exp": now + int(self.ttl)}
        return self._key.sign({**self._claims, **more, **dates})


@final
class JwtSigned:
    """A signed token in its place. See base.Credential. `path`: of the payload, for problems."""

    is_last = False

    def __init__(self, payload: Mapping[str, Any], clock: Clock, path: str = "jwtSign") -> None:
        """Raises: ConfigError."""
        self.explicit_place = payload.get("location") is not None
        self._location = payload.get("location") or DEFAULT_LOCATION
        self._clock = clock
        self._signer = Signer(payload, clock, path)
        self._since_ns = self._until_ns = 0
        # Made here, so that a place or a key that cannot be used is known before it is.
        token = self._signed()
        if len(token) > MAX_TOKEN_BYTES:
            raise ConfigError(f"{path}.claims", f"the token is longer than {MAX_TOKEN_BYTES} bytes")
        self._put = placing(self._location, token, f"{path}.location")

    def _signed(self) -> str:
        self._since_ns = self._clock.time_ns()
        self._until_ns = self._since_ns + int(self._signer.ttl * _NS / 2)
        return self._signer.sign({})

    def _current(self) -> Put:
        # A clock that was set back makes a new token, whose dates are of now.
        if not self._since_ns <= self._clock.time_ns() < self._until_ns:
            self._put = placing(self._location, self._signed(), "jwtSign")
        return self._put

    def apply_nowait(self, request: Outgoing) -> bool:
        """See Credential."""
        self._current()(request)
        return True

    async def apply(self, request: Outgoing) -> None:
        """See Credential."""
        self.apply_nowait(request)

    def close(self) -> None:
        """See Credential."""


def _ttl_of(given: str | None, path: str) -> float:
    seconds = _TTL_SECONDS if given is None else duration_seconds(given)
    if seconds < 1:
        raise ConfigError(path, "at least 1s")
    return seconds


def _claims_of(given: Mapping[str, Any], path: str) -> dict[str, Any]:
    reserved = sorted(RESERVED & given.keys())
    if reserved:
        raise ConfigError(f"{path}.{reserved[0]}", "is set by the signer")
    try:
        orjson.dumps(given)
    except TypeError:
        raise ConfigError(path, "values must be JSON") from None
    return dict(given)
