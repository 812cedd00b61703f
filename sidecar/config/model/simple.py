"""The simplified MCP gateway, and the UI.

Source: spec config sections 1.8 and 6.1.
"""

from __future__ import annotations

from pydantic import Field

from sidecar.config.model.auth import ApiKeys, BasicAuth, JwtAuth, Oidc
from sidecar.config.model.base import Model
from sidecar.config.model.external import ExtAuthzPolicy
from sidecar.config.model.mcp import McpBackend
from sidecar.config.model.policies import RoutePolicies
from sidecar.config.model.traffic import Cors, Csrf, RuleSet
from sidecar.config.scalars import Port, StringOrList


class McpConfig(McpBackend):
    """MCP servers behind one address."""

    gateways: StringOrList = Field(default_factory=list)
    """Where. Default: the gateway called `default`, or a port of its own."""
    port: Port | None = None
    """Deprecated; a port of its own. Default 3000."""
    policies: RoutePolicies | None = None
    """Policies of the address."""


class UiPolicies(Model):
    """Policies of the UI."""

    cors: Cors | None = None
    """Cross-origin requests."""
    oidc: Oidc | None = None
    """Login."""
    jwt_auth: JwtAuth | None = None
    """Tokens."""
    authorization: RuleSet | None = None
    """Rules over requests."""
    ext_authz: ExtAuthzPolicy | None = None
    """Another service's decision."""
    basic_auth: BasicAuth | None = None
    """Name and password."""
    api_key: ApiKeys | None = None
    """Static keys."""
    csrf: Csrf | None = None
    """Refusal of cross-site requests."""


class UiConfig(Model):
    """The UI on gateways, beside the admin address."""

    gateways: StringOrList = Field(default_factory=list)
    """Where. Default: the gateway called `default`."""
    policies: UiPolicies | None = None
    """Its policies."""
