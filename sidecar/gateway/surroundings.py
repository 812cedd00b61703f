"""What a worker lends to compilation: what outlives one configuration, and makers of what does not.

Source: design section 2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

from sidecar.gateway.callouts import Backlog
from sidecar.gateway.endpoints import Endpoints
from sidecar.gateway.mcp_kept import KeptMcp
from sidecar.gateway.mesh import WorkerMesh
from sidecar.gateway.plan import Observer
from sidecar.gateway.upstream import Pools
from sidecar.llm.credentials.kept import KeptCredentials
from sidecar.net.dialer import Address
from sidecar.net.svid import Svids
from sidecar.policies.base import Services
from sidecar.telemetry.access import AccessLog
from sidecar.telemetry.bodies import Recorder
from sidecar.telemetry.metrics import RequestMetrics, UpstreamMetrics
from sidecar.telemetry.trace import Tracer

Data = Mapping[str, Any]


@final
@dataclass(frozen=True, slots=True)
class Telemetry:
    """What compiled objects write to; made once per configuration of it."""

    requests: RequestMetrics
    upstreams: UpstreamMetrics
    access_log: AccessLog | None
    tracer: Tracer | None
    observer: Observer | None
    recorder: Recorder | None = None
    """None where no expression names a body."""


@final
@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the worker lends to compilation."""

    pools: Pools
    random: Callable[[], float]
    services: Callable[[Data, int], Services]
    """Makes the policies' services from `config` and the buffer bound, per full compilation."""
    telemetry: Callable[[Data, Data, Services], Telemetry]
    """Makes telemetry from `config`, the frontend policies and the services."""
    admin: Callable[[Data], Address | None]
    backlog: Backlog = field(default_factory=Backlog)
    """The worker's calls in the background, over all compilations."""
    endpoints: Endpoints = field(default_factory=Endpoints)
    """Those it balances over, over all compilations."""
    credentials: KeptCredentials = field(default_factory=KeptCredentials)
    """Those of model providers, over all compilations."""
    svids: Svids = field(default_factory=Svids)
    """What listeners and backends with `spiffe` show, over all compilations."""
    mcp: KeptMcp | None = None
    """What MCP keeps over all compilations; None where there is no MCP."""
    mesh: Callable[[], WorkerMesh | None] = lambda: None
    """That of the worker, once it has one."""
