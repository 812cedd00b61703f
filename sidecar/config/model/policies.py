"""Which policies may stand where, and policies attached by target.

Source: spec config sections 1.5 and 3.1.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Discriminator, Field, model_validator
from pydantic_core import PydanticCustomError

from sidecar.config.model.a2a import A2aPolicy
from sidecar.config.model.ai import AIPolicy
from sidecar.config.model.auth import ApiKeys, BasicAuth, JwtAuth, McpAuthentication, Oidc
from sidecar.config.model.base import Choice, Model, NotYet, branch, by_shape
from sidecar.config.model.budgets import BudgetsPolicy
from sidecar.config.model.callout import BackendAuthPolicy, Callout, Tunnel
from sidecar.config.model.connection import (
    BackendHTTP,
    BackendTCP,
    BackendTLS,
    HealthPolicy,
)
from sidecar.config.model.external import (
    ExtAuthz,
    ExtAuthzPolicy,
    ExtProcPolicy,
    FailureMode,
    LocalRateLimitPolicy,
    RemoteRateLimitPolicy,
)
from sidecar.config.model.mcp import McpGuardrails
from sidecar.config.model.mcp_rules import McpRuleSet
from sidecar.config.model.traffic import (
    Buffer,
    Cors,
    Csrf,
    DelayPolicy,
    DirectResponsePolicy,
    HeaderModifier,
    RequestMirror,
    RequestRedirect,
    RetryPolicy,
    RuleSet,
    TimeoutPolicy,
    Transformations,
    TransformationsPolicy,
    UrlRewrite,
)
from sidecar.config.scalars import Expression, Port


class GatewayPolicies(Model):
    """Policies that run before a route is chosen."""

    oidc: Oidc | None = None
    """Login of browsers."""
    jwt_auth: JwtAuth | None = None
    """Tokens."""
    authorization: RuleSet | None = None
    """Rules over the request; they add to those of other levels."""
    ext_authz: ExtAuthzPolicy | None = None
    """Another service's decision."""
    ext_proc: ExtProcPolicy | None = None
    """Another service's processing."""
    cors: Cors | None = None
    """Cross-origin requests."""
    transformations: TransformationsPolicy | None = None
    """Changes by CEL."""
    basic_auth: BasicAuth | None = None
    """Name and password."""
    api_key: ApiKeys | None = None
    """Static keys."""


class RoutePolicies(GatewayPolicies):
    """Policies of a route."""

    request_header_modifier: HeaderModifier | None = None
    """Static changes of request headers."""
    response_header_modifier: HeaderModifier | None = None
    """Static changes of response headers."""
    request_redirect: RequestRedirect | None = None
    """An answer that sends the client elsewhere."""
    url_rewrite: UrlRewrite | None = None
    """Another authority or path for the backend."""
    request_mirror: RequestMirror | None = None
    """Copies of requests."""
    direct_response: DirectResponsePolicy | None = None
    """An answer of the gateway's own."""
    csrf: Csrf | None = None
    """Refusal of cross-site requests."""
    buffer: Buffer | None = None
    """Whole bodies."""
    timeout: TimeoutPolicy | None = None
    """Deadlines."""
    retry: RetryPolicy | None = None
    """Repeated attempts."""
    delay: DelayPolicy | None = None
    """A pause."""
    local_rate_limit: LocalRateLimitPolicy | None = None
    """Limits that the gateway keeps."""
    remote_rate_limit: RemoteRateLimitPolicy | None = None
    """Limits that another service keeps."""
    budgets: BudgetsPolicy | None = None
    """Ours: limits of what is spent."""
    mcp_authentication: McpAuthentication | None = None
    """OAuth for MCP clients."""
    mcp_authorization: McpRuleSet | None = None
    """Rules over MCP methods."""
    mcp_guardrails: McpGuardrails | None = None
    """Guards of MCP messages."""
    a2a: A2aPolicy | None = None
    """Agent-to-agent traffic."""
    ai: AIPolicy | None = None
    """LLM traffic."""
    backend_tls: Annotated[BackendTLS | None, Field(alias="backendTLS")] = None
    """TLS to the backends."""
    backend_tunnel: Tunnel | None = None
    """A proxy on the way to the backends."""
    backend_auth: BackendAuthPolicy = None
    """A credential for the backends."""


class InferenceRouting(Model):
    """Choice of the endpoint by an endpoint picker; only for services."""

    endpoint_picker: Callout
    """The picker."""
    destination_mode: Literal["validated", "passthrough"] = "validated"
    """Default validated: the choice must be an endpoint of the service."""
    failure_mode: FailureMode = "failClosed"
    """Ours: without a choice 500, or the gateway balances by itself. Default failClosed."""


class SessionAffinity(Model):
    """The same endpoint for requests that share a value; only for services."""

    source: Expression
    """CEL that gives the value."""


class BackendPolicies(Model):
    """Policies of a backend."""

    request_header_modifier: HeaderModifier | None = None
    """Static changes of request headers."""
    response_header_modifier: HeaderModifier | None = None
    """Static changes of response headers."""
    request_redirect: RequestRedirect | None = None
    """An answer that sends the client elsewhere."""
    transformations: Transformations | None = None
    """Changes by CEL; not conditional here."""
    authorization: RuleSet | None = None
    """Rules over the request; they add to those of other levels."""
    backend_tls: Annotated[BackendTLS | None, Field(alias="backendTLS")] = None
    """TLS to the backend."""
    http: BackendHTTP | None = None
    """HTTP settings."""
    tcp: BackendTCP | None = None
    """TCP settings."""
    health: HealthPolicy | None = None
    """What counts as a failure."""
    backend_auth: BackendAuthPolicy = None
    """A credential for the backend."""
    backend_tunnel: Tunnel | None = None
    """A proxy on the way."""
    ext_authz: ExtAuthz | None = None
    """Another service's decision; not conditional here."""
    mcp_authorization: McpRuleSet | None = None
    """Rules over MCP methods."""
    mcp_guardrails: McpGuardrails | None = None
    """Guards of MCP messages."""
    a2a: A2aPolicy | None = None
    """Agent-to-agent traffic."""
    inference_routing: InferenceRouting | None = None
    """An endpoint picker."""
    session_affinity: SessionAffinity | None = None
    """Sticky endpoints."""
    ai: AIPolicy | None = None
    """LLM traffic."""


class TcpRoutePolicies(Model):
    """Policies of a TCP route."""

    backend_tls: Annotated[BackendTLS | None, Field(alias="backendTLS")] = None
    """TLS to the backends."""


class TcpBackendPolicies(Model):
    """Policies of a TCP route's backend."""

    backend_tls: Annotated[BackendTLS | None, Field(alias="backendTLS")] = None
    """TLS to the backend."""
    backend_tunnel: Tunnel | None = None
    """A proxy on the way."""


class ResourceName(Model):
    """A policy's name."""

    name: str
    """The name."""
    namespace: str
    """Its name space."""


class GatewayTarget(Model):
    """A gateway, one of its listeners, or a port."""

    gateway_name: str
    """`default` in a configuration file."""
    gateway_namespace: str
    """`default` in a configuration file."""
    listener_name: str | None = None
    """Default: all listeners; not with `port`."""
    port: Port | None = None
    """Default: all ports; not with `listenerName`."""

    @model_validator(mode="after")
    def _one_scope(self) -> GatewayTarget:
        if self.listener_name is not None and self.port is not None:
            raise PydanticCustomError("choice", "only `listenerName` or `port` may be set")
        return self


class ListenerSetTarget(Model):
    """A set of listeners."""

    name: str
    """Its name."""
    namespace: str
    """Its name space."""
    section: str | None = None
    """One listener of it."""


class RouteTarget(Model):
    """A route, or one of its rules."""

    name: str
    """Its name."""
    namespace: str
    """Its name space."""
    rule_name: str | None = None
    """Default: all rules."""
    kind: str | None = None
    """Default: any kind."""


class NamedBackendTarget(Model):
    """A backend."""

    name: str
    """Its name; `/<routeKey>/backend<index>` for one written inline."""
    namespace: str
    """Its name space; empty for one written inline."""
    section: str | None = None
    """Part of it."""


class ServiceTarget(Model):
    """A service."""

    hostname: str
    """Its host name."""
    namespace: str
    """Its name space."""
    port: Port | None = None
    """Default: all ports."""


class BackendChoice(Choice):
    """A backend or a service."""

    CHOICES: ClassVar[frozenset[str]] = frozenset(("backend", "service"))

    backend: NamedBackendTarget | None = None
    """A backend."""
    service: ServiceTarget | None = None
    """A service."""


BackendTarget = Annotated[
    Annotated[BackendChoice, branch("map")] | Annotated[Literal["invalid"], branch("text")],
    Discriminator(by_shape),
]


class PolicyTarget(Choice):
    """What a policy is attached to."""

    CHOICES: ClassVar[frozenset[str]] = frozenset(("gateway", "route", "backend", "listener_set"))

    gateway: GatewayTarget | None = None
    """A gateway."""
    route: RouteTarget | None = None
    """A route."""
    backend: BackendTarget | None = None
    """A backend."""
    listener_set: Annotated[ListenerSetTarget | None, NotYet("listener sets")] = None
    """A set of listeners."""


class TargetedPolicy(Model):
    """A policy attached by target rather than written in place."""

    name: ResourceName
    """Its name."""
    target: PolicyTarget
    """What it is attached to."""
    phase: Literal["route", "gateway"] = "route"
    """When it runs. Default route; gateway takes only the kinds that gateways have."""
    policy: RoutePolicies
    """Exactly one kind."""

    @model_validator(mode="after")
    def _exactly_one(self) -> TargetedPolicy:
        fields = self.policy.model_fields_set
        if sum(getattr(self.policy, name) is not None for name in fields) != 1:
            raise PydanticCustomError("choice", "'policies' must contain exactly 1 policy")
        return self
