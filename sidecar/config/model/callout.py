"""Destinations that policies call, and the credentials that the gateway shows to backends.

The two know each other: a call-out has policies, one of them is a credential, and some
credentials are had by calling out.

Source: spec config sections 0.4, 3.11 and 3.12.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, model_validator
from pydantic_core import PydanticCustomError

from sidecar.config.model.base import Choice, Model, branch, by_key, by_shape
from sidecar.config.model.connection import BackendHTTP, BackendTCP, BackendTLS, SimpleReference
from sidecar.config.model.location import AuthorizationLocation
from sidecar.config.model.traffic import HeaderModifier, Transformations
from sidecar.config.scalars import Duration, Expression, FileOrInline, Secret, Uint


class CalloutPolicies(Model):
    """How a destination that a policy calls is reached."""

    request_header_modifier: HeaderModifier | None = None
    """Changes of request headers."""
    transformations: Transformations | None = None
    """Changes by CEL."""
    backend_tls: Annotated[BackendTLS | None, Field(alias="backendTLS")] = None
    """TLS to the destination."""
    backend_auth: BackendAuthPolicy = None
    """A credential for the destination."""
    http: BackendHTTP | None = None
    """HTTP settings."""
    tcp: BackendTCP | None = None
    """TCP settings."""
    backend_tunnel: Tunnel | None = None
    """A proxy on the way."""


class Callout(SimpleReference):
    """A destination that a policy calls, with the policies of that connection."""

    policies: CalloutPolicies | None = None
    """How the destination is reached. `https://` alone implies `backendTLS: {}`."""

    @model_validator(mode="before")
    @classmethod
    def _nest_service(cls, value: Any) -> Any:
        # The reference takes `name` and `port` beside the policy's own keys too (spec 0.4).
        if type(value) is not dict or not {"name", "port"} <= value.keys() or "service" in value:
            return value
        rest = {key: item for key, item in value.items() if key not in ("name", "port")}
        return {**rest, "service": {"name": value["name"], "port": value["port"]}}


class Tunnel(Model):
    """A way through a proxy by HTTP CONNECT."""

    proxy: SimpleReference
    """The proxy."""
    policies: CalloutPolicies | None = None
    """How the proxy is reached, and what authenticates there."""


class Passthrough(Model):
    """The client's own validated credential, shown to the backend."""

    location: AuthorizationLocation | None = None
    """Default: header `authorization` with prefix `Bearer `."""


class LocatedKey(Model):
    """A key with the place it goes to."""

    value: Secret
    """The key."""
    location: AuthorizationLocation | None = None
    """Default: header `authorization` with prefix `Bearer `."""


class BackendAuthCredential(Model):
    """A further key."""

    location: AuthorizationLocation
    """Where it goes."""
    key: Secret
    """The key."""


class GcpAuth(Model):
    """A Google token. Empty: an access token by application default credentials."""

    type: Literal["accessToken", "idToken"] | None = None
    """Default accessToken."""
    audience: str | None = None
    """For an idToken. Default: the destination's host."""
    credential: Secret | None = None
    """A credential document. Default: the environment's."""


class AwsSessionExpression(Model):
    """A session name computed for each request."""

    expression: Expression
    """CEL."""


AwsSessionName = Annotated[
    Annotated[str, branch("text")] | Annotated[AwsSessionExpression, branch("map")],
    Discriminator(by_shape),
]


class AwsSessionTag(Model):
    """A tag of an assumed role's session."""

    key: str
    """Its name."""
    value: str | None = None
    """A static value, or"""
    expression: Expression | None = None
    """CEL that gives the value."""


class AwsAssumeRole(Model):
    """A role to assume."""

    role_arn: str
    """The role."""
    session_name: AwsSessionName | None = None
    """At most 64 characters of `[\\w+=,.@-]`."""
    tags: list[AwsSessionTag] = Field(default_factory=list)
    """At most 50."""


class AwsAuth(Model):
    """A signature (SigV4). Empty: credentials of the environment."""

    access_key_id: Secret | None = None
    """With `secretAccessKey`: explicit credentials."""
    secret_access_key: Secret | None = None
    """The secret."""
    session_token: Secret | None = None
    """Of temporary credentials."""
    region: str | None = None
    """Default: the environment's, or by the destination."""
    service_name: str | None = None
    """Default: by the destination."""
    assume_role: AwsAssumeRole | None = None
    """A role to assume first; not with explicit credentials."""


class AzureClientSecret(Model):
    """An application's secret. Keys are in snake case, as in the reference."""

    tenant_id: Annotated[str, Field(alias="tenant_id")]
    """The directory."""
    client_id: Annotated[str, Field(alias="client_id")]
    """The application."""
    client_secret: Annotated[Secret, Field(alias="client_secret")]
    """Its secret."""


class AzureUserAssignedIdentity(Choice):
    """Which managed identity."""

    CHOICES: ClassVar[frozenset[str]] = frozenset(("client_id", "object_id", "resource_id"))

    client_id: str | None = None
    """By client id."""
    object_id: str | None = None
    """By object id."""
    resource_id: str | None = None
    """By resource id."""


class AzureManagedIdentity(Model):
    """A managed identity of the machine."""

    user_assigned_identity: AzureUserAssignedIdentity | None = None
    """Default: the system's."""


class Empty(Model):
    """A mapping without keys."""


class AzureExplicit(Choice):
    """One named way to authenticate at Azure."""

    CHOICES: ClassVar[frozenset[str]] = frozenset(
        ("client_secret", "managed_identity", "workload_identity")
    )

    client_secret: AzureClientSecret | None = None
    """An application's secret."""
    managed_identity: AzureManagedIdentity | None = None
    """A managed identity."""
    workload_identity: Empty | None = None
    """The workload's federated identity."""


class AzureAuth(Choice):
    """A Microsoft Entra token."""

    CHOICES: ClassVar[frozenset[str]] = frozenset(
        ("explicit_config", "developer_implicit", "implicit")
    )

    explicit_config: AzureExplicit | None = None
    """A named way."""
    developer_implicit: Empty | None = None
    """A developer's own login."""
    implicit: Empty | None = None
    """Whatever the environment offers."""


JwtSigningAlg = Literal["RS256", "RS384", "RS512", "PS256", "ES256", "ES384"]


class JwtSignAuth(Model):
    """A token that the gateway signs."""

    signing_key: Secret
    """PEM private key."""
    alg: JwtSigningAlg = "RS256"
    """Default RS256."""
    kid: str | None = None
    """Key id of the header."""
    claims: dict[str, Any] = Field(default_factory=dict)
    """Static claims; iat, exp and nbf are the signer's."""
    claim_expressions: dict[str, Expression] = Field(default_factory=dict)
    """More claims, by CEL over the client's request (ours)."""
    ttl: Duration | None = None
    """Life of the token, at least 1 s. Default 300 s."""
    location: AuthorizationLocation | None = None
    """Default: header `authorization` with prefix `Bearer `."""


class TokenSpec(Model):
    """A token to exchange."""

    source: AuthorizationLocation | None = None
    """Default: header `authorization` with prefix `Bearer `."""
    token_type: str = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105
    """RFC 8693 token type."""


class ActorTokenSpec(Model):
    """A token of who acts for the subject."""

    source: AuthorizationLocation
    """Where it is."""
    token_type: str = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105
    """RFC 8693 token type."""
    enforce_may_act: bool = False
    """Whether the subject's `may_act` must name the actor. Default false."""


class OAuthClientAuth(Model):
    """How the gateway authenticates at an authorization server."""

    client_id: str
    """The client."""
    client_secret: Secret | None = None
    """Its secret, for the two secret methods."""
    method: Literal["clientSecretBasic", "clientSecretPost", "privateKeyJwt"] = "clientSecretBasic"
    """Default clientSecretBasic."""
    signing_key: Secret | None = None
    """PEM private key, for privateKeyJwt."""
    certificate: FileOrInline | None = None
    """PEM certificate to name in the assertion."""
    certificate_header: Literal["x5c", "x5t#S256"] | None = None
    """How the certificate is named."""
    alg: JwtSigningAlg = "RS256"
    """Default RS256."""
    kid: str | None = None
    """Key id of the assertion."""
    assertion_audience: str | None = None
    """Audience of the assertion; required for privateKeyJwt."""


class TokenCache(Model):
    """A cache of exchanged tokens."""

    max_entries: Uint | None = None
    """Default 8192."""
    default_ttl: Duration | None = None
    """Life of a token that does not say its own. Default 300 s."""


class OAuthTokenExchange(Callout):
    """A token had for the client's own, by RFC 8693 or RFC 7523."""

    path: str = "/"
    """Path of the token endpoint."""
    allow_plaintext: bool = False
    """Whether tokens may go to a `host` of another machine without TLS (ours). Default false."""
    grant_type: Literal["tokenExchange", "jwtBearer"] = "tokenExchange"
    """Default tokenExchange."""
    subject_token: TokenSpec | None = None
    """Default: an access token from the Authorization header."""
    actor_token: ActorTokenSpec | None = None
    """Default: none."""
    audiences: list[str] = Field(default_factory=list)
    """Audiences to ask for."""
    scopes: list[str] = Field(default_factory=list)
    """Scopes to ask for."""
    resources: list[str] = Field(default_factory=list)
    """RFC 8707 resources to ask for."""
    requested_token_type: str | None = None
    """RFC 8693 token type to ask for."""
    client_auth: OAuthClientAuth | None = None
    """Default: none."""
    additional_params: dict[str, Expression] = Field(default_factory=dict)
    """Further parameters by CEL; OAuth's own names are refused."""
    authorization_location: AuthorizationLocation | None = None
    """Where the new token goes. Default: header `authorization` with prefix `Bearer `."""
    cache: TokenCache | None = None
    """Default: on, with its defaults."""


class CrossAppEndpoint(Callout):
    """A token endpoint of cross-app access."""

    path: str = "/"
    """Its path."""
    allow_plaintext: bool = False
    """Whether tokens may go to a `host` of another machine without TLS (ours). Default false."""
    client_auth: OAuthClientAuth
    """How the gateway authenticates there."""


class CrossAppSubjectToken(Model):
    """The identity assertion to begin with."""

    source: AuthorizationLocation | None = None
    """Default: header `authorization` with prefix `Bearer `."""
    token_type: str = "urn:ietf:params:oauth:token-type:id_token"  # noqa: S105
    """Default: an id_token."""


class CrossAppAccess(Model):
    """A token of another application's authorization server (ID-JAG), in two exchanges."""

    identity_provider: CrossAppEndpoint
    """First leg, RFC 8693."""
    resource_authorization_server: CrossAppEndpoint
    """Second leg, RFC 7523."""
    audience: str
    """The second server's identifier."""
    resources: list[str] = Field(default_factory=list)
    """RFC 8707 resources."""
    scopes: list[str] = Field(default_factory=list)
    """Scopes of the first leg."""
    access_token_scopes: list[str] | None = None
    """Scopes of the second leg."""
    subject_token: CrossAppSubjectToken | None = None
    """Default: an id_token from the Authorization header."""
    cache: TokenCache | None = None
    """Default: on, with its defaults."""


class BackendAuth(Model):
    """A credential for the backend: at most one of the kinds, and any number of further keys."""

    passthrough: Passthrough | None = None
    """The client's own."""
    key: BackendKey | None = None
    """A key: text, `{file}`, or `{value, location}`."""
    gcp: GcpAuth | None = None
    """Google Cloud."""
    aws: AwsAuth | None = None
    """AWS."""
    azure: AzureAuth | None = None
    """Microsoft Azure."""
    copilot: Empty | None = None
    """GitHub Copilot; also written as the text `copilot`."""
    jwt_sign: JwtSignAuth | None = None
    """A token that the gateway signs."""
    oauth_token_exchange: OAuthTokenExchange | None = None
    """A token had in exchange."""
    cross_app_access: CrossAppAccess | None = None
    """A token of another application."""
    credentials: list[BackendAuthCredential] | None = None
    """Further static keys."""

    @model_validator(mode="after")
    def _at_most_one(self) -> BackendAuth:
        kinds = self.model_fields_set - {"credentials"}
        given = [kind for kind in kinds if getattr(self, kind) is not None]
        if len(given) > 1 or (not given and self.credentials is None):
            raise PydanticCustomError("choice", "exactly one kind of credential must be set")
        return self


BackendKey = Annotated[
    Annotated[LocatedKey, branch("with")] | Annotated[Secret, branch("without")],
    Discriminator(by_key("value")),
]

BackendAuthPolicy = (
    Annotated[
        Annotated[BackendAuth, branch("map")] | Annotated[Literal["copilot"], branch("text")],
        Discriminator(by_shape),
    ]
    | None
)
