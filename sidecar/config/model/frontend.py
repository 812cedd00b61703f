"""Policies of all downstream connections.

Source: spec config section 1.10.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from sidecar.config.model.base import Model, Renamed
from sidecar.config.model.callout import Callout
from sidecar.config.model.connection import Keepalives
from sidecar.config.model.external import ExtAuthz
from sidecar.config.model.listeners import TlsVersion
from sidecar.config.model.traffic import RuleSet
from sidecar.config.scalars import (
    Duration,
    Expression,
    StringBoolFloat,
    Uint,
    Uint8,
    Uint32,
    duration_ns,
)


class FrontendHTTP(Model):
    """HTTP of clients."""

    max_buffer_size: Uint = 2097152
    """Most bytes of a body held whole, by whatever policy. Default 2 MiB."""
    http1_max_headers: Uint | None = None
    """Default 100."""
    http1_idle_timeout: Duration = "1m0s"
    """Default 1 minute, where the reference waits 10."""
    http1_header_case: Literal["lowercase", "preserve"] = "lowercase"
    """How names of HTTP/1 go on to HTTP/1, both ways. Default lowercase."""
    http2_window_size: Uint32 | None = None
    """Bytes of a stream's window. Default: the codec's."""
    http2_connection_window_size: Uint32 | None = None
    """Bytes of a connection's window. Default: the codec's."""
    http2_frame_size: Uint32 | None = None
    """Bytes of a frame. Default: the codec's."""
    http2_max_header_size: Uint32 | None = None
    """Bytes of a header list. Default: the codec's."""
    http2_keepalive_interval: Duration | None = None
    """Time between pings. Default: none are sent."""
    http2_keepalive_timeout: Duration | None = None
    """Wait for the answer to a ping."""
    max_connection_duration: Duration | None = None
    """Age at which a connection is drained. Default: none."""


class FrontendTLS(Model):
    """TLS of clients, for listeners that do not say otherwise."""

    handshake_timeout: Duration = "15s"
    """Default 15 s."""
    alpn: list[list[Uint8]] | None = None
    """Protocols, each a list of bytes. Default: by the listener's protocol."""
    min_version: TlsVersion | None = None
    """Default TLS_V1_2."""
    max_version: TlsVersion | None = None
    """Default TLS_V1_3."""
    cipher_suites: list[str] | None = None
    """In order of preference."""
    key_exchange_groups: list[str] | None = None
    """In order of preference."""


class FrontendTCP(Model):
    """TCP of clients."""

    keepalives: Keepalives
    """Probes."""


class ProxyProtocol(Model):
    """The PROXY protocol, as load balancers speak it."""

    version: Literal["v1", "v2", "all"] = "v2"
    """Default v2."""
    mode: Literal["strict", "optional"] = "strict"
    """Whether a connection without it is closed (default)."""


class Connect(Model):
    """HTTP CONNECT of clients."""

    mode: Literal["deny", "route", "tunnel"]
    """deny: 405; route: routed as a request; tunnel: what is inside enters the gateway again."""


class AccessLogFields(Model):
    """Changes of a log entry."""

    remove: list[str] = Field(default_factory=list)
    """Fields to drop."""
    add: dict[str, Expression] = Field(default_factory=dict)
    """Fields by CEL."""


class OtlpAccessLog(Callout):
    """Export of log entries by OTLP."""

    filter: Expression | None = None
    """CEL. Default: that of the log."""
    fields: AccessLogFields | None = None
    """Default: those of the log."""
    protocol: Literal["grpc", "http"] = "grpc"
    """Default grpc."""
    path: str = "/v1/logs"
    """For http."""


def _age(value: str) -> str:
    if duration_ns(value) < duration_ns("1m"):
        raise ValueError("must be at least 1m")
    return value


class DatabaseAccessLog(Model):
    """The request log: requests of models in the database of `config`."""

    llm: Literal["metadata", "full"] | None = None
    """Whether prompts and answers are kept too (full). Default metadata."""
    add: dict[str, Expression] = Field(default_factory=dict)
    """Attributes by CEL, of the rows only."""
    retention: Annotated[Duration, AfterValidator(_age)] | None = None
    """Age at which rows are deleted, at least 1m (ours). Default: never."""


class AccessLog(AccessLogFields):
    """The access log."""

    filter: Expression | None = None
    """CEL that is true for what is logged. Default: all."""
    otlp: OtlpAccessLog | None = None
    """Export by OTLP."""
    database: DatabaseAccessLog | None = None
    """Entries in a database."""


class Tracing(Callout):
    """Export of traces."""

    attributes: dict[str, Expression] = Field(default_factory=dict)
    """Attributes of spans, in order, by CEL."""
    resources: dict[str, Expression] = Field(default_factory=dict)
    """Attributes of the resource, by CEL."""
    remove: list[str] = Field(default_factory=list)
    """Attributes to drop, before others are added."""
    random_sampling: StringBoolFloat | None = None
    """Share of requests without a sampled parent."""
    client_sampling: StringBoolFloat | None = None
    """Share of requests with one."""
    filter: Expression | None = None
    """CEL that is true for what is exported; an error exports nothing. Default: all."""
    path: str = "/v1/traces"
    """For http."""
    protocol: Literal["grpc", "http"] = "grpc"
    """Default grpc."""


class FrontendPolicies(Renamed):
    """Policies of all downstream connections."""

    OTHER_NAMES: ClassVar[Mapping[str, str]] = {"proxy": "proxyProtocol", "logging": "accessLog"}

    http: FrontendHTTP | None = None
    """HTTP."""
    tls: FrontendTLS | None = None
    """TLS."""
    tcp: FrontendTCP | None = None
    """TCP."""
    network_authorization: RuleSet | None = None
    """Rules over `source.*` and `destination.*`, once a connection."""
    network_ext_authz: ExtAuthz | None = None
    """Another service's decision, once a connection."""
    proxy_protocol: ProxyProtocol | None = None
    """The PROXY protocol; also written `proxy`."""
    connect: Connect | None = None
    """HTTP CONNECT. Default: denied."""
    access_log: AccessLog | None = None
    """The access log; also written `logging`."""
    tracing: Tracing | None = None
    """Traces."""
