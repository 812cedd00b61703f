"""OAuth for MCP clients: tokens are verified, and who has none is told where to get one.

Source: spec/config.md section 6.5; spec/mcp_a2a.md sections 1.5, 2.9 and 5.2; RFC 9728; RFC 6750.

What it answers itself is in `mcp_metadata`, what differs between providers in `mcp_providers`, how
tokens are verified in `bearer` and `tokens`.
"""

from __future__ import annotations

import re
from typing import Any, Final, final, get_args

from pydantic import Field, model_validator

from sidecar.config.model.auth import AuthMode
from sidecar.errors import ConfigError
from sidecar.http.headers import Headers
from sidecar.http.message import FixedBody, Request, Response
from sidecar.policies.base import PolicyKind, Services
from sidecar.policies.bearer import Bearer, ValidationOptions, fetched_keys, keys_of
from sidecar.policies.callouts import Callout
from sidecar.policies.location import Location
from sidecar.policies.mcp_metadata import (
    RESOURCE,
    Endpoints,
    MetadataSource,
    base_of,
    snake_case,
    suffix_of,
)
from sidecar.policies.mcp_providers import Product, Provider
from sidecar.policies.remote_keys import reachable
from sidecar.policies.schema import PolicyConfig, exactly_one
from sidecar.policies.tokens import MISSING, Issuer, TokenError

CHALLENGE: Final = "mcp.challenge"
"""In a request's state: the parameters of every challenge to it, for those of other refusals."""
_BODY: Final = b'{"error":"unauthorized","error_description":"JWT token required"}'
_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")
_PRODUCTS: Final[tuple[Product, ...]] = get_args(Product)
_NOT_ASKED: Final = "offline_access"
"""A scope that a resource has no say in (spec/mcp_a2a.md section 1.5)."""


class Peculiarities(PolicyConfig):
    """A product; exactly one."""

    auth0: dict[str, Any] | None = None
    """Auth0."""
    keycloak: dict[str, Any] | None = None
    """Keycloak."""
    okta: dict[str, Any] | None = None
    """Okta."""
    descope: dict[str, Any] | None = None
    """Descope."""
    authentik: dict[str, Any] | None = None
    """authentik."""
    entra: dict[str, Any] | None = None
    """Microsoft Entra."""

    @model_validator(mode="after")
    def _one(self) -> Peculiarities:
        exactly_one(self)
        return self

    @property
    def name(self) -> Product:
        """Which."""
        return next(one for one in _PRODUCTS if getattr(self, one) is not None)


class Config(PolicyConfig):
    """The authorization server, and what clients are told of the resource."""

    mode: AuthMode = "strict"
    """strict (default): a valid token or 401; optional: none is fine too, an invalid one is not;
    permissive: anything passes."""
    issuer: str = Field(min_length=1)
    """The authorization server: a URL, and the `iss` that its tokens hold, to the letter."""
    audiences: list[str] = Field(min_length=1)
    """One of which `aud` must hold."""
    resource_metadata: dict[str, Any]
    """What clients are told (RFC 9728): `resource`, `scopesSupported` and more, in snake_case."""
    provider: Peculiarities | None = None
    """The product whose peculiarities are catered for. Default: a plain authorization server."""
    jwks: str | dict[str, Any] | None = None
    """Its keys, as of `jwtAuth`. Default: derived from issuer and provider."""
    authorization_location: Location | None = None
    """Where the token is. Default: header `authorization` with prefix `Bearer `."""
    jwt_validation_options: ValidationOptions = Field(default_factory=ValidationOptions)
    """What a token must hold. Default: exp."""
    client_id: str | None = Field(default=None, min_length=1)
    """A client registered beforehand, given to those that would register."""
    client_secret: str | None = Field(default=None, min_length=1)
    """Its secret, for entra: put into requests for tokens, never shown."""


@final
class McpAuthentication:
    """Answers what is for everybody, then refuses with 401, or notes what the token claims."""

    __slots__ = ("_bearer", "_endpoints", "_scope", "needs_request_body")

    def __init__(self, config: Config, services: Services) -> None:
        product = config.provider.name if config.provider is not None else None
        provider = Provider(config.issuer, product, config.audiences[0], config.client_id)
        if config.client_secret is not None and (product != "entra" or config.client_id is None):
            raise ConfigError("clientSecret", "only used with provider entra and clientId")
        self._scope = _scopes(config.resource_metadata)
        self._bearer = _bearer(config, provider, services)
        self._endpoints = _endpoints(config, provider, services)
        self.needs_request_body = self._bearer.needs_request_body

    async def on_request(self, request: Request) -> Response | None:
        """Raises: RequestError 503 when nobody can tell."""
        answer = await self._endpoints.answer(request)
        if answer is not None:
            return answer
        place = f"{base_of(request)}{RESOURCE}{suffix_of(request.received_path)}"
        metadata = f'resource_metadata="{place}"'
        request.state[CHALLENGE] = metadata
        try:
            await self._bearer.admit_later(request)
        except TokenError as problem:
            return self._refusal(metadata, problem)
        return None

    def _refusal(self, metadata: str, problem: TokenError) -> Response:
        """401 with all that a client needs to do better."""
        parts = [metadata]
        if self._scope:
            parts.append(f'scope="{self._scope}"')
        if str(problem) != MISSING:
            parts.append('error="invalid_token"')
        value = f"Bearer {', '.join(parts)}".encode("latin-1", "replace")
        headers = Headers(((b"content-type", b"application/json"), (b"www-authenticate", value)))
        made = Response(401, headers, FixedBody(_BODY), reason="JwtAuth")
        made.error = f"authentication failure: {problem}"
        return made


def _bearer(config: Config, provider: Provider, services: Services) -> Bearer:
    if config.jwks is None:
        keys = fetched_keys(provider.jwks_url(), services, "issuer")
    else:
        keys = keys_of(config.jwks, services, "jwks")
    required = config.jwt_validation_options.required_claims
    issuer = Issuer(config.issuer, config.audiences, required, keys)
    place = config.authorization_location
    return Bearer(place, [issuer], config.mode, services, "authorizationLocation")


def _endpoints(config: Config, provider: Provider, services: Services) -> Endpoints:
    def place(url: str) -> tuple[str, Callout]:
        try:
            return reachable(url, services.callouts)
        except ConfigError as problem:
            raise ConfigError("issuer", problem.message) from problem

    registration = provider.registration_url()
    return Endpoints(
        provider,
        MetadataSource(
            provider, [place(url) for url in provider.metadata_urls()], services.clock.monotonic_ns
        ),
        config.resource_metadata,
        (config.client_id, config.client_secret),
        None if registration is None else place(registration),
        place(provider.token_url()) if provider.is_entra else None,
        config.issuer,
    )


def _scopes(fields: dict[str, Any]) -> str:
    """What a challenge asks for. Raises: ConfigError for fields that clients could not read."""
    path = "resourceMetadata"
    names = [snake_case(name) for name in fields]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(path, f"`{name}` is there in two spellings")
    found = {snake_case(name): (name, value) for name, value in fields.items()}
    key, value = found.get("resource", ("", "https://"))
    if not isinstance(value, str) or not value.startswith(("http://", "https://")):
        raise ConfigError(f"{path}.{key}", "expected a URL")
    key, value = found.get("authorization_servers", ("", ["-"]))
    if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
        raise ConfigError(f"{path}.{key}", "expected a list of URLs, not empty")
    key, value = found.get("scopes_supported", ("", []))
    if not isinstance(value, list) or not all(
        isinstance(one, str) and _SCOPE.fullmatch(one) for one in value
    ):
        raise ConfigError(f"{path}.{key}", "expected a list of scopes (RFC 6749 section 3.3)")
    return " ".join(one for one in value if one != _NOT_ASKED)


KIND = PolicyKind("mcpAuthentication", Config, McpAuthentication)
