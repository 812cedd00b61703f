"""Backends: those of routes, those with a name, and what they may be.

Source: spec config section 4.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field

from sidecar.config.model.ai import AIProvider
from sidecar.config.model.base import OPEN, Choice, Model, branch, by_key
from sidecar.config.model.connection import ServiceReference
from sidecar.config.model.mcp import McpBackend
from sidecar.config.model.policies import BackendPolicies, TcpBackendPolicies
from sidecar.config.scalars import Expression, Target, Uint


class DynamicBackend(Model):
    """The destination that the request names."""

    target: Expression | None = None
    """CEL that gives `host:port`. Default: the request's authority, or SNI and port for TCP."""
    allow_link_local: bool = False
    """Ours: whether it may be a link-local address or a metadata service of a cloud."""


class NamedAIProvider(Model):
    """An LLM provider."""

    name: str
    """Its name."""
    provider: AIProvider
    """Which one."""
    host_override: str | None = None
    """Another `host:port`."""
    path_override: str | None = None
    """Another path."""
    path_prefix: str | None = None
    """A prefix before the provider's path."""
    tokenize: bool = False
    """Whether prompts are counted before they are sent. Default false."""
    policies: BackendPolicies | None = None
    """How it is reached."""


class AIProviders(Model):
    """Providers of equal rank."""

    providers: list[NamedAIProvider]
    """The load is balanced among them."""


class AIProviderGroups(Model):
    """Ranks of providers."""

    groups: list[AIProviders]
    """The first one that has a healthy provider is used."""


AIBackend = Annotated[
    Annotated[AIProviderGroups, branch("with")] | Annotated[NamedAIProvider, branch("without")],
    Discriminator(by_key("groups")),
]


class AgentCore(Model):
    """A runtime of Bedrock AgentCore."""

    agent_runtime_arn: str
    """`arn:aws:bedrock-agentcore:REGION:ACCOUNT:runtime/ID`."""
    qualifier: str | None = None
    """Which endpoint. Default: the runtime's default."""


class AwsBackend(Choice):
    """A service of AWS."""

    CHOICES: ClassVar[frozenset[str]] = frozenset(("agent_core",))

    agent_core: AgentCore | None = None
    """Bedrock AgentCore."""


def _null_is_given(value: Any) -> Any:
    # `invalid: null` is the reference's spelling; true, so that the choice is seen as made.
    return True if value is None else value


Invalid = Annotated[Literal[True] | None, BeforeValidator(_null_is_given)]


class RouteBackend(Choice):
    """Where a route sends requests."""

    model_config = OPEN
    CHOICES: ClassVar[frozenset[str]] = frozenset(
        (
            *("service", "backend", "host", "internal", "dynamic"),
            *("mcp", "ai", "aws", "route_group", "invalid"),
        )
    )

    service: ServiceReference | None = None
    """A service of the top-level list."""
    backend: str | None = None
    """Name of an entry of the top-level `backends`."""
    host: Target | None = None
    """`host:port`, or `unix:/path`."""
    internal: str | None = None
    """`forward`, or a path: the gateway's own admin service."""
    dynamic: DynamicBackend | None = None
    """The destination that the request names."""
    mcp: McpBackend | None = None
    """MCP servers."""
    ai: AIBackend | None = None
    """LLM providers."""
    aws: AwsBackend | None = None
    """A service of AWS."""
    route_group: str | None = None
    """Name of an entry of `routeGroups`."""
    invalid: Invalid = None
    """Requests that come here are answered with 500."""
    weight: Uint = 1
    """Share among the route's backends. Default 1; 0 takes none."""
    policies: BackendPolicies | None = None
    """Policies of this backend."""


class TcpRouteBackend(Choice):
    """Where a TCP route sends connections."""

    model_config = OPEN
    CHOICES: ClassVar[frozenset[str]] = frozenset(("service", "host", "dynamic", "backend"))

    service: ServiceReference | None = None
    """A service of the top-level list."""
    host: Target | None = None
    """`host:port`, or `unix:/path`."""
    dynamic: DynamicBackend | None = None
    """The destination that the connection names."""
    backend: str | None = None
    """Name of an entry of the top-level `backends`."""
    weight: Uint = 1
    """Share among the route's backends. Default 1."""
    policies: TcpBackendPolicies | None = None
    """Policies of this backend."""


class NamedBackend(Choice):
    """A backend that others name."""

    CHOICES: ClassVar[frozenset[str]] = frozenset(("host", "internal", "mcp", "ai", "aws"))

    name: Annotated[str, Field(min_length=1)]
    """Its name."""
    host: Target | None = None
    """`host:port`, or `unix:/path`."""
    internal: str | None = None
    """`forward`, or a path: the gateway's own admin service."""
    mcp: McpBackend | None = None
    """MCP servers."""
    ai: AIBackend | None = None
    """LLM providers."""
    aws: AwsBackend | None = None
    """A service of AWS."""
    policies: BackendPolicies | None = None
    """Its policies."""
