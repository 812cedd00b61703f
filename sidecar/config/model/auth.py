"""Policies that establish who the client is.

Source: spec config sections 3.6 and 6.5.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Discriminator, Field

from sidecar.config.model.base import Choice, Model, branch, by_key
from sidecar.config.model.budgets import KeyBudget
from sidecar.config.model.callout import Empty
from sidecar.config.model.location import AuthorizationLocation
from sidecar.config.scalars import FileInlineOrRemote, FileOrInline, Secret

AuthMode = Literal["strict", "optional", "permissive"]
"""strict: a valid credential or 401; optional: none is fine, a bad one is not; permissive: any."""


class JwtValidationOptions(Model):
    """What a token must hold."""

    required_claims: list[str] = Field(default_factory=lambda: ["exp"])
    """Among exp, nbf, aud, iss and sub. Default exp."""


class JwtProvider(Model):
    """An issuer of tokens."""

    issuer: str
    """The `iss` to expect."""
    audiences: list[str] | None = None
    """One of which `aud` must hold. Default: `aud` is not looked at."""
    jwks: FileInlineOrRemote
    """The issuer's keys."""
    jwt_validation_options: JwtValidationOptions = Field(default_factory=JwtValidationOptions)
    """What a token must hold."""


class JwtAuthSingle(JwtProvider):
    """Tokens of one issuer."""

    mode: AuthMode = "optional"
    """Default optional."""
    location: AuthorizationLocation | None = None
    """Default: header `authorization` with prefix `Bearer `."""


class JwtAuthMany(Model):
    """Tokens of several issuers."""

    mode: AuthMode = "optional"
    """Default optional."""
    location: AuthorizationLocation | None = None
    """Default: header `authorization` with prefix `Bearer `."""
    providers: list[JwtProvider]
    """The issuers."""


JwtAuth = Annotated[
    Annotated[JwtAuthMany, branch("with")] | Annotated[JwtAuthSingle, branch("without")],
    Discriminator(by_key("providers")),
]


class OidcLogout(Model):
    """The end of a session."""

    path: str
    """The path that ends it."""
    redirect: str = "/"
    """Where the browser is sent then: a path of the same origin. Default `/`."""


class Oidc(Model):
    """Login of browsers by OpenID Connect; by discovery, or with the three endpoints given."""

    issuer: str
    """The issuer."""
    discovery: FileInlineOrRemote | None = None
    """Default: `{issuer}/.well-known/openid-configuration`."""
    authorization_endpoint: str | None = None
    """Without discovery."""
    token_endpoint: str | None = None
    """Without discovery."""
    token_endpoint_auth: Literal["clientSecretBasic", "clientSecretPost"] | None = None
    """Default clientSecretBasic."""
    jwks: FileInlineOrRemote | None = None
    """Without discovery."""
    client_id: str
    """The gateway's client."""
    client_secret: Secret
    """Its secret."""
    redirect_uri: Annotated[str, Field(alias="redirectURI")]
    """Absolute, and not the root path."""
    scopes: list[str] = Field(default_factory=list)
    """Beside `openid`."""
    end_session_endpoint: str | None = None
    """Ours. Without discovery: where browsers are sent for the end of their session."""
    logout: OidcLogout | None = None
    """Ours. Default: no path ends a session."""


class BasicAuth(Model):
    """Name and password."""

    htpasswd: Secret
    """Lines `name:hash`; bcrypt, apr1, SHA-1 or crypt."""
    realm: str | None = None
    """Default `Restricted`."""
    mode: Literal["strict", "optional"] = "optional"
    """Default optional."""
    authorization_location: AuthorizationLocation | None = None
    """Default: header `authorization` with prefix `Basic `."""


class ApiKeyEntry(Choice):
    """A key, or its hash."""

    CHOICES: ClassVar[frozenset[str]] = frozenset(("key", "key_hash"))

    key: Secret | None = None
    """The key."""
    key_hash: str | None = None
    """`sha256:<hex>`."""
    metadata: Any = None
    """What CEL sees as `apiKey.*`."""
    allowed_models: list[str] | None = None
    """Patterns of model names. Default: any; an empty list denies all."""
    budgets: Annotated[list[KeyBudget], Field(max_length=16)] = Field(default_factory=list)
    """What may be spent with the key; needs `metadata.name` and a journal."""


class ApiKeys(Model):
    """Static keys."""

    keys: list[ApiKeyEntry]
    """The keys that are valid."""
    mode: AuthMode = "optional"
    """Default optional."""
    location: AuthorizationLocation | None = None
    """Default: header `authorization` with prefix `Bearer `."""


class McpIdentityProvider(Choice):
    """The product whose peculiarities are catered for."""

    CHOICES: ClassVar[frozenset[str]] = frozenset(
        ("auth0", "keycloak", "okta", "descope", "authentik", "entra")
    )

    auth0: Empty | None = None
    """Auth0."""
    keycloak: Empty | None = None
    """Keycloak."""
    okta: Empty | None = None
    """Okta."""
    descope: Empty | None = None
    """Descope."""
    authentik: Empty | None = None
    """authentik."""
    entra: Empty | None = None
    """Microsoft Entra."""


class ResourceMetadata(Model):
    """The protected resource's metadata (RFC 9728); further keys are served as they are."""

    model_config = ConfigDict(extra="allow")


class McpAuthentication(Model):
    """OAuth for MCP clients."""

    issuer: str
    """The authorization server."""
    audiences: list[str]
    """One of which `aud` must hold."""
    provider: McpIdentityProvider | None = None
    """Default: a plain authorization server."""
    resource_metadata: ResourceMetadata
    """What clients are told of the resource."""
    jwks: FileInlineOrRemote | None = None
    """Default: derived from the issuer."""
    mode: AuthMode = "strict"
    """Default strict."""
    authorization_location: AuthorizationLocation | None = None
    """Default: header `authorization` with prefix `Bearer `."""
    jwt_validation_options: JwtValidationOptions = Field(default_factory=JwtValidationOptions)
    """What a token must hold."""
    client_id: str | None = None
    """A client registered beforehand, given to those that would register."""
    client_secret: FileOrInline | None = None
    """Its secret, for entra."""
