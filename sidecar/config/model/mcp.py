"""MCP backends, their guards, and the simplified MCP gateway.

Source: spec config section 6.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from sidecar.config.model.base import Choice, Model
from sidecar.config.model.callout import Callout, CalloutPolicies
from sidecar.config.model.external import LocalRateLimitPolicy
from sidecar.config.model.mcp_tools import ToolControl, ToolPins
from sidecar.config.scalars import Duration, Expression, FileInlineOrRemote, HeaderOrPseudo, Port

_NAME = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"


class HeaderFilter(Model):
    """Which headers are told."""

    allowed: list[HeaderOrPseudo] = Field(default_factory=list)
    """Only these. Default: all."""
    disallowed: list[HeaderOrPseudo] = Field(default_factory=list)
    """Not these."""


class McpProcessor(Callout):
    """A service that sees MCP messages."""

    kind: Literal["remote", "webhook"]
    """By gRPC (ExtMcp); ours: `webhook`, JSON over HTTP."""
    methods: dict[str, Literal["off", "request", "response", "full"]] = Field(default_factory=dict)
    """Which side of which method is shown."""
    failure_mode: Literal["failClosed", "failOpen"] = "failClosed"
    """Default failClosed."""
    metadata: dict[str, Expression] = Field(default_factory=dict)
    """Further values by CEL."""
    request_headers: HeaderFilter = Field(default_factory=HeaderFilter)
    """Which headers are shown."""
    path: str | None = None
    """Ours: path of a webhook. Default `/`."""


class McpGuardrails(Model):
    """Guards of MCP messages."""

    processors: list[McpProcessor]
    """In order."""


class McpEndpoint(Choice):
    """An MCP server: a URI, a host with port and path, or a named backend."""

    CHOICES: ClassVar[frozenset[str]] = frozenset(("host", "backend"))

    host: str | None = None
    """A URI; or a host, with `port` and `path`."""
    backend: str | None = None
    """Name of an entry of `backends`; the target has no policies then."""
    port: Port | None = None
    """With `host` and `path`."""
    path: str | None = None
    """Path of the endpoint."""


class McpStdio(Model):
    """A server run as a child process."""

    cmd: str
    """The program."""
    args: list[str] = Field(default_factory=list)
    """Its arguments."""
    env: dict[str, str] = Field(default_factory=dict)
    """Further environment variables."""
    clear_env: Annotated[bool, Field(alias="clear_env")] = False
    """Whether the gateway's own environment is kept from it. Default false."""


class McpOpenApi(McpEndpoint):
    """An HTTP API whose operations become tools."""

    api_schema: Annotated[FileInlineOrRemote, Field(alias="schema")]
    """The OpenAPI document (3.0 or later), as JSON or YAML."""
    output_schemas: bool | None = None
    """Ours: whether the schemas of JSON objects that the API answers are told to clients, and its
    answers checked by them. Default true."""


class McpTarget(Choice):
    """A server behind the gateway."""

    CHOICES: ClassVar[frozenset[str]] = frozenset(("sse", "mcp", "stdio", "openapi"))

    name: Annotated[str, StringConstraints(pattern=_NAME, max_length=253)]
    """Prefix of its tools' names."""
    sse: McpEndpoint | None = None
    """By the older SSE transport."""
    mcp: McpEndpoint | None = None
    """By streamable HTTP."""
    stdio: McpStdio | None = None
    """As a child process; without policies."""
    openapi: McpOpenApi | None = None
    """An HTTP API."""
    policies: CalloutPolicies | None = None
    """How it is reached."""
    tools: ToolControl | None = None
    """Ours: which of its tools are offered, and as what."""
    pin: ToolPins | None = None
    """Ours: definitions of its tools that were approved."""


class McpBackend(Model):
    """Several servers that look like one."""

    targets: list[McpTarget]
    """The servers."""
    stateful_mode: Literal["stateless", "stateful"] = "stateful"
    """Default stateful."""
    prefix_mode: Literal["conditional", "always", "never"] | None = None
    """Default conditional: a prefix when there are several targets."""
    failure_mode: Literal["failClosed", "failOpen"] | None = None
    """Default failClosed."""
    dns_rebinding_protection: bool = False
    """Whether Host and Origin must be local. Default false."""
    allowed_origins: list[str] | None = None
    """Ours: the only values of Origin that are served, such as `https://app.example.com`; requests
    without one are. Default: any."""
    mirrored_headers: Literal["strict", "lenient"] | None = None
    """Ours: whether the headers that repeat a 2026-07-28 message must be there and agree with it
    (strict, default), or are not looked at."""
    max_name_length: Annotated[int, Field(ge=0, le=128)] | None = None
    """Ours: characters of a tool's name with its prefix; longer ones are cut, 0 cuts none.
    Default 64."""
    rate_limits: LocalRateLimitPolicy | None = None
    """Ours: buckets for each message of a client, which may be kept by `mcp.methodName`,
    `mcp.tool.name` and the like; see `localRateLimit`. Default: none."""
    list_cache_ttl: Duration | None = None
    """Ours: how long lists of servers are kept that cannot say it themselves (before 2026-07-28),
    for each principal. Default: not at all."""
