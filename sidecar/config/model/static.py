"""Process-wide settings, read at the start only.

Source: spec config section 8.1. Environment variables win over them.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Discriminator, Field

from sidecar.config.model.base import Choice, Model, NotYet, branch, by_shape
from sidecar.config.model.connection import Keepalives
from sidecar.config.scalars import (
    Duration,
    Expression,
    HeaderName,
    Secret,
    StringBoolFloat,
    StringOrInt,
    StringOrList,
    Uint,
    Uint32,
)

CONTROL_PLANE = NotYet("xDS control plane")
MESH = NotYet("mesh identity")
DATABASE = NotYet("database")


class DnsConfig(Model):
    """Name resolution."""

    lookup_family: Literal["All", "Auto", "V4Preferred", "V4Only", "V6Only"] | None = None
    """Default Auto."""
    edns0: Annotated[bool | None, NotYet("EDNS0")] = None
    """Default: the system's."""


class Rates(Model):
    """Prices in USD for 1,000,000 tokens, as decimal text."""

    input: str | None = None
    """Of prompts."""
    output: str | None = None
    """Of answers."""
    cache_read: str | None = None
    """Of prompts read from a cache."""
    cache_write: str | None = None
    """Of prompts written to a cache."""
    reasoning: str | None = None
    """Default: as output."""
    input_audio: str | None = None
    """Default: as input."""
    output_audio: str | None = None
    """Default: as output."""


class RateTier(Model):
    """Prices of long prompts."""

    context_over: Uint
    """Tokens above which they hold."""
    rates: Rates
    """The prices."""


class CatalogModel(Model):
    """A model's prices."""

    rates: Rates = Field(default_factory=Rates)
    """The usual ones."""
    tiers: list[RateTier] = Field(default_factory=list)
    """Those of long prompts."""
    tags: list[str] = Field(default_factory=list)
    """What it can do."""


class CatalogProvider(Model):
    """A provider's models."""

    models: dict[str, CatalogModel] = Field(default_factory=dict)
    """By name."""


class Catalog(Model):
    """A catalogue of prices."""

    providers: dict[str, CatalogProvider] = Field(default_factory=dict)
    """By name."""


class CatalogSource(Choice):
    """Where a catalogue is."""

    CHOICES: ClassVar[frozenset[str]] = frozenset(("file", "inline"))

    file: str | None = None
    """A JSON file, watched."""
    inline: (
        Annotated[
            Annotated[Catalog, branch("map")] | Annotated[str, branch("text")],
            Discriminator(by_shape),
        ]
        | None
    ) = None
    """The catalogue itself, or its JSON text."""


class DatabaseConfig(Model):
    """A database."""

    url: Secret
    """`sqlite://…` or `postgres://…`; it may hold a password."""
    max_connections: Annotated[Uint32, Field(ge=1)] | None = None
    """Default 5."""


class StorageConfig(Model):
    """Where changes made in the UI go."""

    mode: Literal["file", "hybrid", "readOnly"] = "file"
    """Default file."""


class SpiffeConfig(Model):
    """The SPIFFE Workload API."""

    endpoint: str | None = None
    """Its socket."""


class StandardAttributes(Model):
    """CEL for the attributes of the database log."""

    user: Expression | None = None
    """Who."""
    group: Expression | None = None
    """Of which group."""


class SessionConfig(Model):
    """MCP session ids."""

    key: Secret
    """64 hexadecimal digits."""


class McpSettings(Model):
    """MCP of the whole process."""

    session_ttl: Duration | None = None
    """Default 30 minutes."""


class LoggingFields(Model):
    """Changes of log entries or spans."""

    remove: list[str] = Field(default_factory=list)
    """Fields to drop."""
    add: dict[str, Expression] = Field(default_factory=dict)
    """Fields by CEL."""


class TracingConfig(Model):
    """Deprecated; becomes `frontendPolicies.tracing`."""

    otlp_endpoint: str | None = None
    """URL of the collector."""
    headers: dict[HeaderName, str] = Field(default_factory=dict)
    """Headers of exports."""
    otlp_protocol: Literal["grpc", "http"] = "grpc"
    """Default grpc."""
    fields: LoggingFields | None = None
    """Changes of spans."""
    random_sampling: StringBoolFloat | None = None
    """Share of requests without a sampled parent."""
    client_sampling: StringBoolFloat | None = None
    """Share of requests with one."""
    path: str | None = None
    """Default /v1/traces."""


class LoggingConfig(Model):
    """The application's log."""

    filter: Expression | None = None
    """Deprecated; becomes `frontendPolicies.accessLog.filter`."""
    fields: LoggingFields | None = None
    """Deprecated; becomes part of `frontendPolicies.accessLog`."""
    level: StringOrList | None = None
    """Default info."""
    format: Literal["text", "json"] | None = None
    """Default text."""
    database: Annotated[DatabaseConfig | None, DATABASE] = None
    """A database of its own."""


class MetricFields(Model):
    """Further labels."""

    add: dict[str, Expression] = Field(default_factory=dict)
    """Labels by CEL."""


class MetricsConfig(Model):
    """Metrics."""

    remove: list[str] = Field(default_factory=list)
    """Metrics to leave out."""
    fields: MetricFields | None = None
    """Further labels."""


class BackendDefaults(Model):
    """Connections to backends, where they do not say otherwise."""

    keepalives: Keepalives = Field(default_factory=Keepalives)
    """Probes."""
    connect_timeout: Duration = "10s"
    """Default 10 s."""
    pool_idle_timeout: Duration = "1m30s"
    """Default 90 s."""
    pool_max_size: Uint | None = None
    """Idle connections kept to a host. Default: no limit."""


class HboneConfig(Model):
    """HBONE tunnels."""

    window_size: Uint32 | None = None
    """Bytes of a stream's window. Default 4 MiB."""
    connection_window_size: Uint32 | None = None
    """Bytes of a connection's window. Default 16 MiB."""
    frame_size: Uint32 | None = None
    """Bytes of a frame. Default 1 MiB."""
    pool_max_streams_per_conn: Annotated[int, Field(ge=0, le=65535)] | None = None
    """Default 100."""
    pool_unused_release_timeout: Duration | None = None
    """Default 5 minutes."""


class StaticConfig(Model):
    """Process-wide settings."""

    enable_ipv6: bool | None = None
    """Default true."""
    dns: DnsConfig | None = None
    """Name resolution."""
    local_xds_path: Annotated[str | None, NotYet("configuration file beside the main one")] = None
    """Default: the file given on the command line."""
    model_catalog: Annotated[list[CatalogSource] | None, NotYet("LLM prices")] = None
    """Prices, later ones over earlier."""
    database: Annotated[DatabaseConfig | None, DATABASE] = None
    """A database."""
    storage: Annotated[StorageConfig | None, NotYet("changes made in the UI")] = None
    """Where changes made in the UI go."""
    ca_address: Annotated[str | None, MESH] = None
    """The certificate authority."""
    ca_auth_token: Annotated[Secret | None, MESH] = None
    """A token for it."""
    xds_address: Annotated[str | None, CONTROL_PLANE] = None
    """The control plane."""
    xds_auth_token: Annotated[Secret | None, CONTROL_PLANE] = None
    """A token for it."""
    spiffe: Annotated[SpiffeConfig | None, NotYet("SPIFFE")] = None
    """The SPIFFE Workload API."""
    namespace: Annotated[str | None, CONTROL_PLANE] = None
    """The name space that the gateway is in."""
    gateway: Annotated[str | None, CONTROL_PLANE] = None
    """The gateway's name."""
    trust_domain: Annotated[str | None, MESH] = None
    """Default cluster.local."""
    additional_trust_domains: Annotated[str | None, MESH] = None
    """Separated by commas."""
    skip_validate_trust_domain: Annotated[bool | None, MESH] = None
    """Default false."""
    service_account: Annotated[str | None, MESH] = None
    """The gateway's own."""
    cluster_id: Annotated[str | None, MESH] = None
    """Default Kubernetes."""
    network: Annotated[str | None, MESH] = None
    """Default empty."""
    admin_addr: str | None = None
    """`ip:port`, `localhost:port`, `unix:/path` or `off`. Default localhost:15000."""
    standard_attributes: Annotated[StandardAttributes | None, DATABASE] = None
    """CEL for the database log."""
    stats_addr: str | None = None
    """Default [::]:15020."""
    histograms: Annotated[
        Literal["classic", "native", "both"], NotYet("native histograms", ("native", "both"))
    ] = "classic"
    """Default classic."""
    readiness_addr: str | None = None
    """Default [::]:15021."""
    session: Annotated[SessionConfig | None, NotYet("MCP gateway")] = None
    """MCP session ids."""
    mcp: Annotated[McpSettings | None, NotYet("MCP gateway")] = None
    """MCP of the whole process."""
    sensitive_headers: list[HeaderName] = Field(default_factory=list)
    """Headers whose values are not shown, beside the usual ones."""
    custom_functions: str = ""
    """Functions for CEL."""
    connection_termination_deadline: Duration | None = None
    """Longest drain. Default 5 s, or by TERMINATION_GRACE_PERIOD_SECONDS."""
    connection_min_termination_deadline: Duration | None = None
    """Shortest drain. Default 0."""
    worker_threads: StringOrInt | None = None
    """Worker processes: a number, or a share of the CPUs such as `50%`. Default: all CPUs."""
    front_door: Literal["auto", "granian", "native"] | None = None
    """Who speaks HTTP/2 without TLS to clients. Default auto, which is native in this release."""
    tracing: TracingConfig | None = None
    """Deprecated."""
    logging: LoggingConfig | None = None
    """The application's log."""
    metrics: MetricsConfig | None = None
    """Metrics."""
    backend: BackendDefaults = Field(default_factory=BackendDefaults)
    """Connections to backends."""
    hbone: Annotated[HboneConfig | None, NotYet("HBONE")] = None
    """HBONE tunnels."""
