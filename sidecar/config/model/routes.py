"""Routes of HTTP and TCP, in listeners, in groups, and attached to gateways.

Source: spec config sections 1.2, 1.3 and 1.6.
"""

from __future__ import annotations

from pydantic import Field

from sidecar.config.model.backends import RouteBackend, TcpRouteBackend
from sidecar.config.model.base import OPEN, Model
from sidecar.config.model.matching import RouteMatch
from sidecar.config.model.policies import RoutePolicies, TcpRoutePolicies
from sidecar.config.scalars import Hostname, StringOrList


class Route(Model):
    """A route of HTTP requests."""

    name: str | None = None
    """Default `route<index>`; routes of equal rank are ordered by it."""
    namespace: str | None = None
    """Default `default`."""
    rule_name: str | None = None
    """Default: none."""
    hostnames: list[Hostname] = Field(default_factory=list)
    """Default: any."""
    matches: list[RouteMatch] = Field(default_factory=list)
    """One of which must hold. Default `[{path: {pathPrefix: /}}]`."""
    policies: RoutePolicies | None = None
    """Its policies."""
    backends: list[RouteBackend] = Field(default_factory=list)
    """Where requests go; none is an error at request time unless a policy answers."""


class TcpRoute(Model):
    """A route of connections."""

    name: str | None = None
    """Default `tcproute<index>`."""
    namespace: str | None = None
    """Default `default`."""
    rule_name: str | None = None
    """Default: none."""
    hostnames: list[Hostname] = Field(default_factory=list)
    """Matched on SNI; must be empty for plain TCP."""
    policies: TcpRoutePolicies | None = None
    """Its policies."""
    backends: list[TcpRouteBackend] = Field(default_factory=list)
    """Where connections go."""


class AttachedRoute(Route):
    """A route attached to gateways."""

    model_config = OPEN

    gateways: StringOrList = Field(default_factory=list)
    """`gateway` or `gateway/listener`. Default: the gateway called `default`."""


class AttachedTcpRoute(TcpRoute):
    """A TCP route attached to gateways."""

    model_config = OPEN

    gateways: StringOrList = Field(default_factory=list)
    """`gateway` or `gateway/listener`. Default: the gateway called `default`."""


class RouteGroup(Model):
    """Routes to which other routes delegate."""

    name: str
    """Its name."""
    routes: list[Route]
    """Matched against the whole request."""
