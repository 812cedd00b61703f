"""How the gateway reaches a backend: simple references, TLS, TCP, HTTP and health.

Source: spec config sections 0.4, 3.11, 4.9 and 10.6.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from sidecar.config.model.base import OPEN, Choice, Model
from sidecar.config.scalars import (
    Duration,
    Expression,
    FilePath,
    Hostname,
    Int32,
    NamespacedHostname,
    Port,
    Uint32,
    UrlTarget,
)

KeyExchangeGroup = Literal["X25519", "P-256", "P-384", "X25519_MLKEM768"]


class ServiceReference(Model):
    """A service of the top-level `services` list."""

    name: NamespacedHostname
    """`namespace/hostname`."""
    port: Port
    """Port of the service, which maps to a port of its workloads."""


class SimpleReference(Choice):
    """A destination without policies of its own."""

    model_config = OPEN
    CHOICES: ClassVar[frozenset[str]] = frozenset(("service", "host", "backend"))

    service: ServiceReference | None = None
    """A service of the top-level list."""
    host: UrlTarget | None = None
    """`host:port`, `unix:/path`, or `http(s)://host[:port]`."""
    backend: str | None = None
    """Name of an entry of the top-level `backends`."""


class SpiffeTLS(Model):
    """TLS with the workload's SPIFFE identity; it takes no settings."""


class BackendTLS(Model):
    """TLS to a backend. Empty: the system's roots, and the backend's host name as SNI."""

    cert: FilePath | None = None
    """PEM file of the client certificate."""
    key: FilePath | None = None
    """PEM file of its private key."""
    root: FilePath | None = None
    """PEM file of the roots to trust in place of the system's."""
    hostname: Hostname | None = None
    """Name for SNI and verification. Default: the backend's."""
    insecure: bool = False
    """Trust any certificate. Default false."""
    insecure_host: bool = False
    """Trust a certificate of any name. Default false."""
    alpn: list[str] | None = None
    """Protocols to offer. Default: by the HTTP version."""
    subject_alt_names: list[str] | None = None
    """Names of which the certificate must hold one. Default: the host name."""
    key_exchange_groups: list[KeyExchangeGroup] | None = None
    """In order of preference."""
    spiffe: SpiffeTLS | None = None
    """Excludes cert, key, root, insecure and insecureHost."""


class Keepalives(Model):
    """TCP keepalive probes."""

    enabled: bool = True
    """Default true."""
    time: Duration = "3m0s"
    """Silence before the first probe. Default 3 minutes."""
    interval: Duration = "3m0s"
    """Time between probes. Default 3 minutes."""
    retries: Uint32 = 9
    """Probes without answer before the connection is dead. Default 9."""


class BackendTCP(Model):
    """TCP settings of connections to a backend."""

    keepalives: Keepalives
    """Probes."""
    connect_timeout: Duration
    """Bound on the connect."""


class BackendHTTP(Model):
    """HTTP settings of connections to a backend."""

    version: Literal["HTTP/1.1", "HTTP/2.0"] | None = None
    """Default: the client's version in plain text; HTTP/1.1, or HTTP/2 for gRPC, under TLS."""
    request_timeout: Duration | None = None
    """Bound on each request to this backend. Default: none."""


class Eviction(Model):
    """When an endpoint that fails is left out, and for how long."""

    duration: Duration | None = None
    """First time out; it grows with repetition. Default: the balancer's."""
    restore_health: float | None = None
    """Health score, 0.0 to 1.0, with which an endpoint comes back."""
    consecutive_failures: Int32 | None = None
    """Failures in a row after which an endpoint is left out."""
    health_threshold: float | None = None
    """Health score below which an endpoint is left out."""


class HealthPolicy(Model):
    """What counts as a failure of a backend, and its consequence."""

    unhealthy_expression: Expression | None = None
    """CEL over the response that is true for a failure. Default: 5xx and connection failures."""
    eviction: Eviction | None = None
    """Default: none is left out."""
