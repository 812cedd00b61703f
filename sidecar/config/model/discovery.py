"""Services and workloads written in the file rather than discovered.

Source: spec config section 1.7; spec istio sections 3.8 and 5.1 (the local file of Istio's own
proxy, whose spellings these are).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sidecar.config.model.base import OPEN, Model
from sidecar.config.scalars import Hostname, NonZeroUint16, Port, Uint32

PortMap = dict[str, Port]
"""Port of the service → port of the workload; YAML keys are text."""


class GatewayAddress(Model):
    """A waypoint, or the gateway of another network."""

    destination: str
    """`network/ip` or `namespace/hostname`."""
    hbone_mtls_port: Port | None = None
    """Where it accepts tunnels. Default 15008."""


class WeightedWaypoint(Model):
    """One of several waypoints."""

    destination: GatewayAddress
    """The waypoint."""
    weight: Uint32 = 0
    """Its share of the connections."""


class LoadBalancer(Model):
    """Which endpoints are preferred."""

    routing_preferences: list[
        Literal["Region", "Zone", "Subzone", "Node", "Cluster", "Network"]
    ] = Field(default_factory=list)
    """What an endpoint should share with the caller, the most important first."""
    mode: Literal["Standard", "Strict", "Failover", "Passthrough"] = "Standard"
    """Strict: all of it; Failover: as much as can be; Passthrough: the address that was called."""
    health_policy: Literal["OnlyHealthy", "AllowAll"] = "OnlyHealthy"
    """Whether unhealthy workloads are endpoints. Default OnlyHealthy."""


class Service(Model):
    """A name for a set of workloads."""

    model_config = OPEN

    name: str
    """Its name."""
    namespace: str
    """Its name space."""
    hostname: Hostname
    """What references call it, as `namespace/hostname`."""
    vips: list[str] = Field(default_factory=list)
    """`network/ip`."""
    cidr_vips: list[str] = Field(default_factory=list)
    """`network/ip/length`."""
    ports: PortMap = Field(default_factory=dict)
    """The ports; 0 for a target that each workload names itself."""
    app_protocols: dict[str, str] = Field(default_factory=dict)
    """Port of the service → what is spoken there: `agentgateway.dev/a2a`, or HTTP11, HTTP2, GRPC,
    TCP or TLS."""
    subject_alt_names: list[str] = Field(default_factory=list)
    """Identities that its endpoints may prove beside their own."""
    waypoint: GatewayAddress | None = None
    """What calls of the service go through."""
    weighted_waypoints: list[WeightedWaypoint] = Field(default_factory=list)
    """Several of them, in place of `waypoint`."""
    load_balancer: LoadBalancer | None = None
    """Default: any healthy endpoint."""
    ip_families: Literal["IPv4", "IPv6", "Dual"] | None = None
    """Which addresses its endpoints have. Default: any."""
    canonical: bool = False
    """Wins over others with the same address."""
    ingress_use_waypoint: bool = False
    """Whether calls from ingress gateways go through the waypoint too."""
    visibility: Literal["Public", "Namespace"] = "Public"
    """Namespace: its address is known in its own name space only."""


class Locality(Model):
    """Where a workload is."""

    region: str = ""
    """Region."""
    zone: str = ""
    """Zone."""
    subzone: str = ""
    """Part of the zone."""


class ApplicationTunnel(Model):
    """How a workload takes what arrives by a tunnel."""

    protocol: Literal["NONE", "PROXY"] = "NONE"
    """PROXY: with a PROXY protocol header."""
    port: Port | None = None
    """Default: the port that was called."""


class Workload(Model):
    """An endpoint of services."""

    model_config = OPEN

    uid: str | None = None
    """Default: its name."""
    name: str | None = None
    """Default: its uid."""
    namespace: str
    """Its name space."""
    workload_ips: list[str] = Field(default_factory=list)
    """Its addresses."""
    hostname: str | None = None
    """A name to resolve in place of addresses."""
    network: str = ""
    """Default: the only network."""
    network_gateway: GatewayAddress | None = None
    """How it is reached from other networks."""
    network_mode: Literal["Standard", "HostNetwork"] = "Standard"
    """HostNetwork: it shares its address with others."""
    protocol: Literal["HBONE", "TCP", "LEGACY_ISTIO_MTLS"] = "TCP"
    """TCP (default), HBONE or LEGACY_ISTIO_MTLS."""
    hbone_mtls_port: NonZeroUint16 | None = None
    """Where it accepts tunnels. Default 15008."""
    native_tunnel: bool = False
    """Whether it speaks HBONE itself, without a proxy of the node."""
    application_tunnel: ApplicationTunnel | None = None
    """Default: none."""
    trust_domain: str | None = None
    """Default: the gateway's own."""
    service_account: str | None = None
    """Default `default`."""
    waypoint: GatewayAddress | None = None
    """What calls of its address go through."""
    capacity: Uint32 = 1
    """Share of the load. Default 1."""
    locality: Locality | None = None
    """Where it is."""
    node: str | None = None
    """The machine it is on."""
    cluster_id: str | None = None
    """The cluster it is in."""
    status: Literal["Healthy", "Unhealthy"] = "Healthy"
    """Default Healthy."""
    authorization_policies: list[str] = Field(default_factory=list)
    """`namespace/name` of the policies that select it."""
    labels: dict[str, str] = Field(default_factory=dict)
    """What selectors of policies in files look at (ours)."""
    canonical_name: str | None = None
    """What telemetry calls it."""
    canonical_revision: str | None = None
    """Its version there."""
    workload_type: Literal["deployment", "cronjob", "pod", "job"] | None = None
    """What made it. Default deployment."""
    workload_name: str | None = None
    """The name of that."""
    services: dict[str, PortMap] = Field(default_factory=dict)
    """`namespace/hostname` → ports."""
