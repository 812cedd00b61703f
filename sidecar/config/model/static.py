"""Process-wide settings, read at the start only.

Source: spec config section 8.1. Environment variables win over them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.util import find_spec
from typing import Annotated, ClassVar, Final, Literal, Self, TypeGuard
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, Discriminator, Field, model_validator
from pydantic_core import PydanticCustomError

from sidecar.config.model.base import NOT_YET, Choice, Model, NotYet, branch, by_shape
from sidecar.config.model.connection import Keepalives
from sidecar.config.model.mesh import IstioConfig
from sidecar.config.scalars import (
    Duration,
    Expression,
    FilePath,
    HeaderName,
    Secret,
    StringBoolFloat,
    StringOrInt,
    StringOrList,
    Uint,
    Uint32,
    duration_ns,
)


class DnsConfig(Model):
    """Name resolution."""

    lookup_family: Literal["All", "Auto", "V4Preferred", "V4Only", "V6Only"] | None = None
    """Default Auto."""
    edns0: bool | None = None
    """Whether look-ups ask for large answers. Default: the system's."""


def _between(least: str, most: str) -> Callable[[str], str]:
    def checked(value: str) -> str:
        if not duration_ns(least) <= duration_ns(value) <= duration_ns(most):
            raise ValueError(f"must be {least} to {most}")
        return value

    return checked


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
    cache_write_1h: Annotated[str | None, Field(alias="cacheWrite1h")] = None
    """Of prompts written to a cache for an hour (ours). Default: as cacheWrite."""
    input_image: str | None = None
    """Ours. Default: as input."""
    output_image: str | None = None
    """Ours. Default: as output."""


class PiecePrices(Model):
    """Prices beside those of tokens, USD for one each, as decimal text (ours)."""

    request: str | None = None
    """Of each call."""
    web_search: str | None = None
    """Of a search of the web by the provider."""
    file_search: str | None = None
    """Of a search of files at the provider."""
    input_audio_second: str | None = None
    """Of a second of sound to be transcribed."""
    input_character: str | None = None
    """Of a character to be spoken."""
    output_image: str | None = None
    """Of a picture that was made."""
    input_page: str | None = None
    """Of a page to be read."""
    rerank_search: str | None = None
    """Of a unit that a ranking is billed by."""


class RateTier(Model):
    """Prices of long prompts."""

    context_over: Uint
    """Tokens above which they hold."""
    rates: Rates
    """The prices."""


class ServiceTier(Model):
    """Prices of a service tier (ours)."""

    rates: Rates = Field(default_factory=Rates)
    """Those that differ from the usual ones."""
    tiers: list[RateTier] = Field(default_factory=list)
    """Those of its long prompts."""
    pieces: PiecePrices = Field(default_factory=PiecePrices)
    """Those that differ from the usual ones."""


class CatalogModel(Model):
    """A model's prices."""

    rates: Rates = Field(default_factory=Rates)
    """The usual ones."""
    tiers: list[RateTier] = Field(default_factory=list)
    """Those of long prompts."""
    tags: list[str] = Field(default_factory=list)
    """What it can do."""
    service_tiers: dict[str, ServiceTier] = Field(default_factory=dict)
    """By the name that providers answer with: batch, flex, priority (ours)."""
    pieces: PiecePrices = Field(default_factory=PiecePrices)
    """Of what is paid for by the piece (ours)."""


class CatalogProvider(Model):
    """A provider's models."""

    models: dict[str, CatalogModel] = Field(default_factory=dict)
    """By name."""


class Catalog(Model):
    """A catalogue of prices."""

    providers: dict[str, CatalogProvider] = Field(default_factory=dict)
    """By name."""


def _web_url(value: str) -> str:
    # Without the value: what is wrong with it may be that it holds a password.
    try:
        parts = urlsplit(value)
        is_right = parts.scheme in ("http", "https") and bool(parts.hostname)
        is_right = is_right and parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        is_right = False
    if not is_right:
        raise ValueError("expected https://host/path or http://host/path, without a user")
    return value


class CatalogSource(Choice):
    """Where a catalogue is."""

    CHOICES: ClassVar[frozenset[str]] = frozenset(("file", "inline", "url"))

    file: FilePath | None = None
    """A JSON file, watched."""
    inline: (
        Annotated[
            Annotated[Catalog, branch("map")] | Annotated[str, branch("text")],
            Discriminator(by_shape),
        ]
        | None
    ) = None
    """The catalogue itself, or its JSON text."""
    url: Annotated[str, AfterValidator(_web_url)] | None = None
    """A JSON file on a web server, fetched at the start and again and again (ours)."""
    refresh: Annotated[Duration, AfterValidator(_between("1m", "720h"))] | None = None
    """How often `url` is fetched (ours). Default 1h."""

    @model_validator(mode="after")
    def _refreshes_a_url(self) -> Self:
        if self.refresh is not None and self.url is None:
            raise ValueError("`refresh` is for `url` only: files are watched")
        return self


class DatabaseConfig(Model):
    """A database."""

    url: Secret
    """`sqlite://…` or `postgres://…`; it may hold a password."""
    max_connections: Annotated[Uint32, Field(ge=1)] | None = None
    """Default 5."""


def _is_known(database: DatabaseConfig) -> DatabaseConfig:
    # The request log needs a database that stays.
    if sqlite_path(database.url) is None and not is_postgres(database.url):
        raise PydanticCustomError(
            NOT_YET, "{feature}", {"feature": "databases but PostgreSQL and SQLite files"}
        )
    return database


def is_postgres(url: object) -> TypeGuard[str]:
    """Whether it is the URL of a PostgreSQL database."""
    return isinstance(url, str) and url.partition(":")[0] in ("postgres", "postgresql")


def sqlite_path(url: object) -> str | None:
    """The file of a `sqlite://` URL; None for any other database, and for one in memory."""
    if not isinstance(url, str):  # it stands in a file of its own
        return None
    scheme, _, rest = url.partition(":")
    path = rest.removeprefix("//").partition("?")[0]
    return None if scheme != "sqlite" or not path or ":memory:" in path else path


class StorageConfig(Model):
    """Where changes made in the UI go."""

    mode: Literal["file", "hybrid", "readOnly"] = "file"
    """Default file."""


class SpiffeConfig(Model):
    """The SPIFFE Workload API, an agent on the same machine."""

    endpoint: str | None = None
    """`unix:///path` or `tcp://ip:port`. Default: SPIFFE_ENDPOINT_SOCKET."""


class StandardAttributes(Model):
    """CEL for the attributes of the request log."""

    user: Expression | None = None
    """Who."""
    group: Expression | None = None
    """Of which group."""


def _is_session_key(value: object) -> object:
    # Without the value, which is a secret.
    if isinstance(value, str) and not re.fullmatch("[0-9a-fA-F]{64}", value):
        raise ValueError("expected 64 hexadecimal digits")
    return value


class SessionConfig(Model):
    """MCP session ids."""

    key: Annotated[Secret, AfterValidator(_is_session_key)]
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
    database: Annotated[DatabaseConfig, AfterValidator(_is_known)] | None = None
    """The request log's own database. Default: `config.database`."""


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


_REDIS_QUERY: Final = frozenset(("db", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile"))


def _redis_url(value: object) -> object:
    if not isinstance(value, str):
        return value
    # Without the value: it may hold a password.
    try:
        parts = urlsplit(value)
        is_right = parts.scheme in ("redis", "rediss") and bool(parts.hostname)
        is_right = (is_right and parts.port != 0) or (parts.scheme == "unix" and bool(parts.path))
    except ValueError:
        is_right = False
    if not is_right:
        raise ValueError("expected redis://host:port/db, rediss://… or unix:///path")
    names = {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)}
    if not names <= _REDIS_QUERY or parts.fragment:
        # What the library knows besides would undo what we promise: verified TLS, calls sent once.
        raise ValueError(f"behind ? only: {', '.join(sorted(_REDIS_QUERY))}")
    if find_spec("redis") is None:
        raise ValueError("needs a library: pip install redis")
    return value


class StateConfig(Model):
    """State that all workers share (ours)."""

    rate_keys: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    """Token buckets there is room for, at 111 bytes each. Default 100,000."""
    keep: bool = False
    """Whether it outlives the gateway, for its next start. Default false."""
    budget_keys: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    """Budgets there is room for, at about 420 bytes each. Default 10,000."""
    sessions: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """MCP sessions there is room for. Default 10,000."""
    tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Tokens for backends that workers share, at 8.3 KB each. Default 256."""
    endpoints: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Endpoints of services there is room for, 340 bytes each with 4 workers. Default 4,096."""
    journal: Annotated[str, Field(min_length=1)] | None = None
    """SQLite file that spend is written to, each second. Default: none."""
    redis: Annotated[Secret, AfterValidator(_redis_url)] | None = None
    """`redis://…`, `rediss://…` or `unix://…`: limits and budgets are shared with the other
    gateways that use it. Default: none."""
    redis_failure_mode: Literal["failOpen", "failClosed"] | None = None
    """When Redis cannot be reached and no lease is left: each gateway for itself (default), or
    503."""
    redis_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,64}$")] | None = None
    """Begins the names of all keys. Default agw."""
    redis_lease_percent: Annotated[int, Field(ge=1, le=50)] | None = None
    """How much of a limit one lease may be, in percent. Default 10."""
    redis_lease_ttl: Annotated[Duration, AfterValidator(_between("1s", "10m"))] | None = None
    """After which time Redis takes back the leases of a gateway that is gone. Default 10s."""
    redis_wait: Annotated[Duration, AfterValidator(_between("5ms", "5s"))] | None = None
    """How long a request waits for a lease at most. Default 50ms."""


class StaticConfig(Model):
    """Process-wide settings."""

    enable_ipv6: bool | None = None
    """Default true."""
    dns: DnsConfig | None = None
    """Name resolution."""
    local_xds_path: Annotated[str | None, NotYet("configuration file beside the main one")] = None
    """Default: the file given on the command line."""
    model_catalog: list[CatalogSource] | None = None
    """Prices, later ones over earlier."""
    database: Annotated[DatabaseConfig, AfterValidator(_is_known)] | None = None
    """The request log is in it. Of a SQLite file, budgets are in one beside it."""
    storage: Annotated[StorageConfig | None, NotYet("changes made in the UI")] = None
    """Where changes made in the UI go."""
    ca_address: str | None = None
    """The certificate authority."""
    ca_auth_token: Secret | None = None
    """A token for it."""
    xds_address: str | None = None
    """The control plane."""
    xds_auth_token: Secret | None = None
    """A token for it."""
    spiffe: SpiffeConfig | None = None
    """The SPIFFE Workload API."""
    namespace: str | None = None
    """The name space that the gateway is in."""
    gateway: str | None = None
    """The gateway's name."""
    trust_domain: str | None = None
    """Default cluster.local."""
    additional_trust_domains: str | None = None
    """Separated by commas."""
    skip_validate_trust_domain: bool | None = None
    """Default false."""
    service_account: str | None = None
    """The gateway's own."""
    cluster_id: str | None = None
    """Default Kubernetes."""
    network: str | None = None
    """Default empty."""
    admin_addr: str | None = None
    """`ip:port`, `localhost:port`, `unix:/path` or `off`. Default localhost:15000."""
    standard_attributes: StandardAttributes | None = None
    """CEL for the request log."""
    stats_addr: str | None = None
    """Default [::]:15020."""
    histograms: Literal["classic", "native", "both"] = "classic"
    """Default classic. Scrapes see native ones in protobuf alone."""
    readiness_addr: str | None = None
    """Default [::]:15021."""
    session: SessionConfig | None = None
    """MCP session ids."""
    mcp: McpSettings | None = None
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
    max_requests_in_flight: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Requests and streams that a worker has under way; more get 503 (ours). Default 1,000."""
    tracing: TracingConfig | None = None
    """Deprecated."""
    logging: LoggingConfig | None = None
    """The application's log."""
    metrics: MetricsConfig | None = None
    """Metrics."""
    backend: BackendDefaults = Field(default_factory=BackendDefaults)
    """Connections to backends."""
    hbone: HboneConfig | None = None
    """HBONE tunnels."""
    istio: IstioConfig | None = None
    """The mesh that the gateway is in (ours)."""
    state: StateConfig | None = None
    """State that all workers share (ours)."""
