"""What policies that take tokens share: where they stand, whose they are, what is known then.

Source: spec/config.md sections 0.3, 3.6 and 6.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, final

from pydantic import Field

from sidecar.config.model.auth import AuthMode
from sidecar.errors import ConfigError, RequestError, SidecarError
from sidecar.http.message import Request
from sidecar.policies.base import Services
from sidecar.policies.jwks import JwksError, parse
from sidecar.policies.location import HeaderPlace, Location, source_of
from sidecar.policies.remote_keys import RemoteKeys, kept_keys, reachable
from sidecar.policies.schema import PolicyConfig, nested
from sidecar.policies.tokens import (
    MISSING,
    FixedKeys,
    Issuer,
    KeySource,
    TokenError,
    UnknownKeyError,
    Verifier,
)

STATE: Final = "jwt"
_TOKEN: Final = "jwt.rawToken"  # noqa: S105 - the name of a variable
REASON: Final = "JwtAuth"
_UNAVAILABLE: Final = "authentication failure: the keys of the issuer cannot be had now"
_DEFAULT: Final = Location(header=HeaderPlace(name="authorization", prefix="Bearer "))


class ValidationOptions(PolicyConfig):
    """What a token must hold."""

    required_claims: list[str] = Field(default_factory=lambda: ["exp"], max_length=32)
    """Claims that must be there and not null, any names. Default exp."""


@final
class KeysPendingError(SidecarError):
    """Nothing is known of a token before fetches that are under way have ended."""

    def __init__(self, keys: tuple[RemoteKeys, ...]) -> None:
        super().__init__("keys are being fetched")
        self.keys = keys


def keys_of(given: str | dict[str, Any], services: Services, path: str) -> KeySource:
    """The keys of `jwks`: a document, or what is behind `{url}`. Raises: ConfigError."""
    if isinstance(given, dict) and given.keys() == {"url"}:
        return fetched_keys(given["url"], services, path)
    try:
        return FixedKeys(parse(given))
    except JwksError as problem:
        raise ConfigError(path, f"not a JWKS: {problem}") from problem


def fetched_keys(url: object, services: Services, path: str) -> KeySource:
    """The keys behind a URL. Raises: ConfigError."""
    if not isinstance(url, str):
        raise ConfigError(path, "expected `{url: http(s)://...}`")
    try:
        target, callout = reachable(url, services.callouts)
    except ConfigError as problem:
        raise nested(path, problem) from problem
    if services.keys is None:
        return FixedKeys({})
    return kept_keys(services.keys, url, target, callout, services.clock)


@final
class Bearer:
    """Tokens of some issuers at one place of requests.

    `path`: of the location, for problems. Raises: ConfigError.
    """

    __slots__ = (
        "_is_strict",
        "_now_ns",
        "_refuses",
        "_remote",
        "_source",
        "_verifier",
        "is_guard",
        "needs_request_body",
        "waits",
    )

    def __init__(
        self,
        location: Location | None,
        issuers: Sequence[Issuer],
        mode: AuthMode,
        services: Services,
        path: str,
    ) -> None:
        try:
            self._source = source_of(location or _DEFAULT, services)
        except ConfigError as problem:
            raise nested(path, problem) from problem
        self._verifier = Verifier(issuers)
        found = {id(one.keys): one.keys for one in issuers}.values()
        self._remote = tuple(keys for keys in found if isinstance(keys, RemoteKeys))
        self._is_strict = mode == "strict"
        self._refuses = mode != "permissive"
        self._now_ns = services.clock.time_ns
        self.waits = bool(self._remote)
        """Whether `admit` may raise KeysPendingError."""
        self.needs_request_body = self._source.needs_request_body
        self.is_guard = self._source.keeps_target and not self.needs_request_body

    def admit(self, request: Request, *, is_last: bool = False) -> None:
        """Note what the request's token claims, and take it out of the request.

        Raises: TokenError when it is refused; RequestError 503 when nobody can tell;
        KeysPendingError, unless `is_last`, when that will change soon, and then nothing is done.
        """
        given = self._source.read(request)
        if given is None:
            if self._is_strict:
                raise TokenError(MISSING)
            return
        try:
            found = self._verifier.verify(given, self._now_ns())
        except UnknownKeyError:
            if not is_last:
                self._look_for_keys()
            if self._refuses:
                if any(keys.current is None for keys in self._remote):
                    raise RequestError(503, REASON, _UNAVAILABLE) from None
                raise
            return
        except TokenError:
            if self._refuses:
                raise
            return
        state = request.state
        state[STATE] = found.claims
        state[_TOKEN] = found.text
        self._source.remove(request)

    def _look_for_keys(self) -> None:
        waiting = tuple(keys for keys in self._remote if keys.is_worth_waiting())
        if waiting:
            raise KeysPendingError(waiting)

    async def admit_later(self, request: Request) -> None:
        """As `admit`, once the fetches that it depends on have ended."""
        try:
            self.admit(request)
        except KeysPendingError as pending:
            for keys in pending.keys:
                await keys.wait()
        else:
            return
        self.admit(request, is_last=True)
