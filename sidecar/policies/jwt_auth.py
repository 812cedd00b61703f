"""Knows clients by tokens that their identity providers signed (JWT).

Source: spec/config.md sections 0.3, 3.6 and 11; RFC 6750 section 3; RFC 7519; RFC 8725.

How tokens are verified is in `tokens`, where keys come from in `jwks` and `remote_keys`.
"""

from __future__ import annotations

from typing import Any, Final, final

from pydantic import Field, model_validator

from sidecar.config.model.auth import AuthMode
from sidecar.errors import ConfigError, RequestError
from sidecar.http.message import Request
from sidecar.policies.base import PolicyKind, Services
from sidecar.policies.bearer import REASON, Bearer, ValidationOptions, keys_of
from sidecar.policies.location import Location
from sidecar.policies.schema import PolicyConfig, nested
from sidecar.policies.tokens import MISSING, Issuer, TokenError

_CHALLENGE: Final = b"Bearer"
_INVALID: Final = b'Bearer error="invalid_token"'


class Provider(PolicyConfig):
    """An issuer of tokens."""

    issuer: str = Field(min_length=1)
    """The `iss` that its tokens hold, to the letter."""
    audiences: list[str] | None = None
    """One of which `aud` must hold. Default, and when empty: `aud` is not looked at."""
    jwks: str | dict[str, Any]
    """Its keys: a JWKS, as text or structure, or `{url: http(s)://...}`, which is fetched."""
    jwt_validation_options: ValidationOptions = Field(default_factory=ValidationOptions)
    """What a token must hold. Default: exp."""


class Config(PolicyConfig):
    """One issuer, or several under `providers`."""

    mode: AuthMode = "optional"
    """strict: a valid token or 401; optional (default): none is fine too, an invalid one is not;
    permissive: anything passes."""
    location: Location | None = None
    """Default: header `authorization` with prefix `Bearer `."""
    providers: list[Provider] | None = Field(default=None, min_length=1, max_length=64)
    """Several issuers; then nothing of what follows is set."""
    issuer: str | None = Field(default=None, min_length=1)
    """See Provider."""
    audiences: list[str] | None = None
    """See Provider."""
    jwks: str | dict[str, Any] | None = None
    """See Provider."""
    jwt_validation_options: ValidationOptions | None = None
    """See Provider."""

    @model_validator(mode="after")
    def _one_form(self) -> Config:
        own = (self.issuer, self.audiences, self.jwks, self.jwt_validation_options)
        if self.providers is not None:
            if any(one is not None for one in own):
                raise ValueError("with `providers`, issuers are set there")
        elif self.issuer is None or self.jwks is None:
            raise ValueError("must set `issuer` and `jwks`, or `providers`")
        return self


@final
class JwtAuth:
    """Refuses with 401, or notes what the token claims and takes it out of the request."""

    __slots__ = ("_bearer", "guard", "is_guard", "needs_request_body", "on_request")

    def __init__(self, config: Config, services: Services) -> None:
        issuers = _issuers(config, services)
        self._bearer = Bearer(config.location, issuers, config.mode, services, "location")
        self.needs_request_body = self._bearer.needs_request_body
        self.is_guard = self._bearer.is_guard
        self.guard = self._admitted
        self.on_request = self._admitted_later if self._bearer.waits else self._admitted

    def _admitted(self, request: Request) -> None:
        """Raises: RequestError; KeysPendingError while keys are being fetched."""
        try:
            self._bearer.admit(request)
        except TokenError as problem:
            raise refusal(problem) from problem

    async def _admitted_later(self, request: Request) -> None:
        """As `_admitted`, with keys that are being fetched. Raises: RequestError."""
        try:
            await self._bearer.admit_later(request)
        except TokenError as problem:
            raise refusal(problem) from problem


def refusal(problem: TokenError) -> RequestError:
    """401, with the challenge of RFC 6750."""
    text = str(problem)
    challenge = _CHALLENGE if text == MISSING else _INVALID
    headers = ((b"www-authenticate", challenge),)
    return RequestError(401, REASON, f"authentication failure: {text}", headers=headers)


def _issuers(config: Config, services: Services) -> list[Issuer]:
    if config.providers is None:
        assert config.issuer is not None
        assert config.jwks is not None
        options = config.jwt_validation_options or ValidationOptions()
        keys = keys_of(config.jwks, services, "jwks")
        return [Issuer(config.issuer, config.audiences or (), options.required_claims, keys)]
    made: list[Issuer] = []
    for number, one in enumerate(config.providers):
        try:
            keys = keys_of(one.jwks, services, "jwks")
        except ConfigError as problem:
            raise nested(f"providers[{number}]", problem) from problem
        required = one.jwt_validation_options.required_claims
        made.append(Issuer(one.issuer, one.audiences or (), required, keys))
    return made


KIND = PolicyKind("jwtAuth", Config, JwtAuth)
