"""The whole file.

Source: spec config section 1.
"""

from __future__ import annotations

from pydantic import Field

from sidecar.config.model.backends import NamedBackend
from sidecar.config.model.base import Model
from sidecar.config.model.discovery import Service, Workload
from sidecar.config.model.frontend import FrontendPolicies
from sidecar.config.model.listeners import Bind, Gateway
from sidecar.config.model.llm import LlmConfig
from sidecar.config.model.policies import TargetedPolicy
from sidecar.config.model.routes import AttachedRoute, AttachedTcpRoute, RouteGroup
from sidecar.config.model.simple import McpConfig, UiConfig
from sidecar.config.model.static import StaticConfig


class Config(Model):
    """A configuration file. Every key may be absent, and so may the content."""

    config: StaticConfig | None = None
    """Process-wide settings, read at the start only."""
    binds: list[Bind] = Field(default_factory=list)
    """Ports with all that is on them; deprecated in favour of `gateways` and `routes`."""
    frontend_policies: FrontendPolicies = Field(default_factory=FrontendPolicies)
    """Policies of all downstream connections."""
    policies: list[TargetedPolicy] = Field(default_factory=list)
    """Policies attached by target."""
    workloads: list[Workload] = Field(default_factory=list)
    """Endpoints of services."""
    services: list[Service] = Field(default_factory=list)
    """Names for sets of workloads."""
    backends: list[NamedBackend] = Field(default_factory=list)
    """Backends that others name."""
    route_groups: list[RouteGroup] = Field(default_factory=list)
    """Routes to which other routes delegate."""
    gateways: dict[str, Gateway] = Field(default_factory=dict)
    """Ports and listeners, by name; `default` is what routes attach to when they do not say."""
    routes: list[AttachedRoute] = Field(default_factory=list)
    """HTTP routes attached to gateways."""
    tcp_routes: list[AttachedTcpRoute] = Field(default_factory=list)
    """TCP routes attached to gateways."""
    llm: LlmConfig | None = None
    """The simplified LLM gateway."""
    mcp: McpConfig | None = None
    """The simplified MCP gateway."""
    ui: UiConfig | None = None
    """The UI on gateways."""
