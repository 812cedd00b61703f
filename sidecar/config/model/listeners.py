"""Ports and listeners: gateways, and the older binds.

Source: spec config sections 1.1, 1.3 and 1.4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from sidecar.config.model.base import Model, Renamed
from sidecar.config.model.policies import GatewayPolicies
from sidecar.config.model.routes import Route, TcpRoute
from sidecar.config.scalars import FilePath, Hostname, Port

TlsVersion = Literal["TLS_V1_0", "TLS_V1_1", "TLS_V1_2", "TLS_V1_3"]
GatewayProtocol = Literal["HTTP", "HTTPS", "TCP", "TLS"]


class SpiffeServer(Model):
    """TLS with the workload's SPIFFE identity; it takes no settings."""


class ServerTLS(Renamed):
    """TLS of a listener."""

    OTHER_NAMES: ClassVar[Mapping[str, str]] = {
        "minTlsVersion": "minTLSVersion",
        "maxTlsVersion": "maxTLSVersion",
    }

    mode: Literal["static", "dynamicCa"] = "static"
    """Whether `cert` is the certificate (default) or a CA that makes one for each name."""
    cert: FilePath | None = None
    """PEM file of the certificate chain."""
    key: FilePath | None = None
    """PEM file of the private key."""
    root: FilePath | None = None
    """PEM file of the CAs of which clients must show a certificate. Default: none is asked for."""
    spiffe: SpiffeServer | None = None
    """Certificate and trust come from the Workload API. Excludes all else but hostname and ALPN."""
    cipher_suites: list[str] | None = None
    """In order of preference. Default: the AES-GCM suites."""
    min_tls_version: Annotated[TlsVersion | None, Field(alias="minTLSVersion")] = None
    """Default TLS_V1_2; older ones are not supported."""
    max_tls_version: Annotated[TlsVersion | None, Field(alias="maxTLSVersion")] = None
    """Default TLS_V1_3."""
    key_exchange_groups: list[str] | None = None
    """In order of preference."""


class GatewayListener(GatewayPolicies):
    """A listener of a gateway, with policies that run before a route is chosen."""

    name: str | None = None
    """Default `listener<index>`."""
    hostname: Hostname | None = None
    """Default: any."""
    protocol: GatewayProtocol | None = None
    """Default HTTP, or HTTPS with `tls`."""
    tls: ServerTLS | None = None
    """For HTTPS; and for TLS that ends here rather than passing through."""


class Gateway(GatewayPolicies):
    """A port, with one listener described in place, or several."""

    port: Port | None = None
    """Required."""
    protocol: GatewayProtocol | None = None
    """Default HTTP, or HTTPS with `tls`; not with `listeners`."""
    listeners: list[GatewayListener] = Field(default_factory=list)
    """Listeners told apart by host name."""
    tls: ServerTLS | None = None
    """For HTTPS and TLS; not with `listeners`."""


class Listener(Model):
    """A listener of a bind."""

    name: str | None = None
    """Default `listener<index>`."""
    namespace: str | None = None
    """Default `default`."""
    hostname: Hostname | None = None
    """Default: any."""
    protocol: Literal["HTTP", "HTTPS", "TLS", "TCP", "HBONE"] = "HTTP"
    """Default HTTP."""
    tls: ServerTLS | None = None
    """For HTTPS; and for TLS that ends here rather than passing through."""
    routes: list[Route] | None = None
    """For HTTP and HTTPS."""
    tcp_routes: list[TcpRoute] | None = None
    """For TCP and TLS."""
    policies: GatewayPolicies | None = None
    """Policies that run before a route is chosen."""


class Bind(Model):
    """A port with its listeners."""

    port: Port | None = None
    """Absent, or 0, only with `mode: internal`."""
    listeners: list[Listener]
    """Told apart by host name."""
    tunnel_protocol: Literal["direct", "hboneWaypoint", "hboneGateway", "proxy", "connect"] = (
        "direct"
    )
    """What wraps the connections. Default direct: nothing."""
    mode: Literal["standard", "internal"] = "standard"
    """internal opens no socket. Default standard."""
