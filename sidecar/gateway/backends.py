"""Backends of a snapshot, made ready to be called.

Source: spec/config.md sections 3.11, 4 and 10.5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final, Protocol, final

from sidecar.config.scalars import duration_seconds
from sidecar.errors import ConfigError, RequestError, SidecarError
from sidecar.gateway.connect_proxy import name_of, proxy_of
from sidecar.gateway.connecting import Connecting, pool_settings
from sidecar.gateway.discovered import Discovery
from sidecar.gateway.endpoints import Endpoints
from sidecar.gateway.health import outliers_of
from sidecar.gateway.plan import Backend
from sidecar.gateway.service_backends import ServiceBackends
from sidecar.gateway.upstream import (
    BrokenUpstream,
    DynamicUpstream,
    FixedUpstream,
    NamedUpstream,
    PoolKey,
    Pools,
    Upstream,
    authority_destination,
)
from sidecar.http.message import Request
from sidecar.llm.credentials.kept import KeptCredentials
from sidecar.net.dialer import Address
from sidecar.net.pool import PoolSettings, Version
from sidecar.net.resolve import is_literal
from sidecar.net.svid import Svids
from sidecar.net.tls_client import ClientTls
from sidecar.policies.base import Services
from sidecar.policies.chain import Hook
from sidecar.policies.expressions import Expression
from sidecar.policies.order import build
from sidecar.policies.schema import nested
from sidecar.routing.outlier import Outliers

_HAS_OWN_AUTH: Final = frozenset(("ai", "llm", "mcp", "group"))
"""Targets that show credentials themselves, or lead to others that do."""
_TUNNELLED: Final = frozenset(("host", "service", "workload", "dynamic"))
"""Targets that a proxy can lead to; the others have connections of their own, or none."""
_VERSIONS: Final[Mapping[str, Version]] = {"HTTP/1.1": "h1", "HTTP/2.0": "h2"}
Data = Mapping[str, Any]


class ModelBackends(Protocol):
    """Makes the backends behind which there are model providers (gateway.llm_backends)."""

    def routed(self, base: Backend, target: Data, policies: Data) -> Backend:
        """An `ai` backend of a route. Raises: ConfigError."""

    def router(self, base: Backend, target: Data, policies: Data) -> Backend:
        """The models of the `llm` section. Raises: ConfigError."""


class ServerBackends(Protocol):
    """Makes the backends behind which there are MCP servers (gateway.mcp_backends)."""

    def routed(self, base: Backend, target: Data, policies: Data) -> Backend:
        """An `mcp` backend. Raises: ConfigError."""


class AgentBackends(Protocol):
    """Makes the backends behind which there are A2A agents (gateway.a2a_backends)."""

    def served(self, made: Backend, policy: Data) -> Backend:
        """The same backend with the policy `a2a`. Raises: ConfigError."""


@final
class Backends:
    """Makes Backend objects of backend references for one snapshot."""

    def __init__(
        self,
        pools: Pools,
        services: Services,
        random: Callable[[], float],
        static: Data,
        named: Mapping[str, Data],
        discovery: Discovery,
        endpoints: Endpoints,
        admin: Address | None,
        credentials: KeptCredentials | None = None,
        svids: Svids | None = None,
    ) -> None:
        """`endpoints`, `credentials`: those of the worker, kept over reloads."""
        self._pools = pools
        self._services = services
        self._named = named
        self._discovery = discovery
        self._admin = admin
        self._kept = credentials or KeptCredentials()
        self._connecting = Connecting(pools, svids)
        self._discovered = ServiceBackends(
            pools,
            self._connecting,
            services,
            random,
            discovery,
            endpoints,
            0 if admin is None else admin.port,
        )
        self._defaults = pool_settings(static.get("backend") or {})
        self._proxies: set[str] = set()
        self.make_models: Callable[[], ModelBackends] | None = None
        """What makes the backends of models, for the first that asks."""
        self._made: ModelBackends | None = None
        """Set before the first backend is made."""
        self.make_servers: Callable[[], ServerBackends] | None = None
        """The same of MCP servers."""
        self._made_servers: ServerBackends | None = None
        self.make_agents: Callable[[], AgentBackends] | None = None
        """The same of A2A agents."""
        self._made_agents: AgentBackends | None = None

    def target_of(self, target: Data) -> tuple[Data, Data]:
        """A target with references followed, and the named backend's own policies."""
        own: Data = {}
        for _ in range(8):
            name = target.get("ref")
            if name is None:
                return target, own
            found = self._named.get(name)
            if found is None:
                return {"invalid": True}, own
            target, own = found["target"], found["policies"] or own
        return {"invalid": True}, own

    def make(self, reference: Data, policies: Data) -> Backend:
        """One backend from its reference and its merged policies. Raises ConfigError."""
        made = self._without_agent(reference, policies)
        target, _ = self.target_of(reference["target"])
        agent = policies.get("a2a")
        if agent is None and "service" in target:
            of = target["service"]
            agent = {} if self._discovery.is_agent(of["name"], of["port"]) else None
        if agent is None or "group" in target:
            return made
        if self._made_agents is None:
            assert self.make_agents is not None
            self._made_agents = self.make_agents()
        return self._made_agents.served(made, agent)

    def _without_agent(self, reference: Data, policies: Data) -> Backend:
        target, _ = self.target_of(reference["target"])
        made = self._bare(reference, target, policies)
        payload = policies.get("backendAuth")
        if (payload is None and "agent_core" not in target) or _HAS_OWN_AUTH & target.keys():
            return made
        from sidecar.gateway.authenticated import authenticated

        return authenticated(made, payload, target, self._services, self._kept)

    def _bare(self, reference: Data, target: Data, policies: Data) -> Backend:
        """The backend without what authenticates there."""
        chain = build("backend", policies, self._services)
        if "group" in target:
            upstream: Upstream = BrokenUpstream(404, "NotFound", "route not found")
            return Backend(target["group"], "unknown", upstream, group=target["group"])
        http = policies.get("http") or {}
        seconds = http.get("requestTimeout")
        base = Backend(
            label=reference["name"],
            kind="unknown",
            upstream=BrokenUpstream(500, "NoHealthyBackend", "backend does not exist"),
            chain=chain,
            version=_VERSIONS.get(http.get("version") or ""),
            request_seconds=None if seconds is None else duration_seconds(seconds) or None,
        )
        settings = self._settings(policies, target)
        tls = policies.get("backendTLS")
        if tls is None and (target.get("host") or {}).get("tls"):
            tls = {}
        if "host" in target:
            return self._host(base, target["host"], tls, settings)
        if "unix" in target:
            return self._fixed(base, Address("", 0, target["unix"]), tls, settings, "localhost")
        if "workload" in target or "service" in target:
            return self._discovered.make(base, target, tls, settings, policies)
        if "dynamic" in target:
            return self._dynamic(base, target["dynamic"], tls, settings)
        if "internal" in target:
            return self._internal(base, target["internal"], settings)
        if "ai" in target:
            return self._models().routed(base, target["ai"], policies)
        if "llm" in target:
            return self._models().router(base, target["llm"], policies)
        if "mcp" in target:
            return self._servers().routed(base, target["mcp"], policies)
        return base

    def _models(self) -> ModelBackends:
        if self._made is None:
            assert self.make_models is not None
            self._made = self.make_models()
        return self._made

    def _servers(self) -> ServerBackends:
        if self._made_servers is None:
            assert self.make_servers is not None
            self._made_servers = self.make_servers()
        return self._made_servers

    def _internal(self, base: Backend, path: str, settings: PoolSettings) -> Backend:
        if self._admin is None:
            raise ConfigError("internal", "needs config.adminAddr, which is off")
        # The admin service refuses names it does not know (DNS rebinding), so it gets its own.
        made = self._fixed(base, self._admin, None, settings, "localhost")
        chain = made.chain
        if path != "forward":
            hooks: tuple[Hook, ...] = (*chain.request_hooks, (partial(_set_path, path), False))
            chain = replace(chain, request_hooks=hooks)
        return replace(made, auto_host="localhost", label="internal", chain=chain)

    def _settings(self, policies: Data, target: Data) -> PoolSettings:
        tcp = policies.get("tcp")
        settings = self._defaults if tcp is None else pool_settings(tcp, self._defaults)
        tunnel = policies.get("backendTunnel")
        if tunnel is None or _TUNNELLED.isdisjoint(target):
            return settings
        name = name_of(tunnel)
        if name not in self._proxies:
            try:
                made = proxy_of(tunnel, self.target_of, self.make, self._services.clock)
            except ConfigError as problem:
                raise nested("backendTunnel", problem) from problem
            self._proxies.add(name)
            self._pools.proxies[name] = made
        return replace(settings, proxy=name)

    def _fixed(
        self, base: Backend, address: Address, tls: Data | None, settings: PoolSettings, name: str
    ) -> Backend:
        made = self._connecting.tls(tls, name)
        return replace(
            base,
            label=str(address),
            kind="static",
            upstream=FixedUpstream(self._connecting.pool(address, made, settings)),
            has_tls=made[1] is not None,
            default_authority=name if address.unix else str(address),
        )

    def _host(self, base: Backend, host: Data, tls: Data | None, settings: PoolSettings) -> Backend:
        name, port = host["address"], host["port"]
        if is_literal(name):
            return self._fixed(base, Address(name, port), tls, settings, name)
        made = self._connecting.tls(tls, name)
        pool = partial(self._connecting.pool, tls=made, settings=settings)
        # RFC 9110 section 7.2: Host carries the port unless it is the scheme's own.
        default = 443 if made[1] is not None else 80
        authority = name if port == default else f"{name}:{port}"
        # A proxy on the way resolves names itself: they may mean something to it alone.
        upstream: Upstream = (
            FixedUpstream(pool(Address(name, port)))
            if settings.proxy
            else NamedUpstream(name, port, self._pools.resolver, pool)
        )
        return replace(
            base,
            label=f"{name}:{port}",
            kind="static",
            upstream=upstream,
            has_tls=made[1] is not None,
            auto_host=authority,
            default_authority=authority,
        )

    def _dynamic(
        self, base: Backend, dynamic: Data, tls: Data | None, settings: PoolSettings
    ) -> Backend:
        source = dynamic.get("target")
        destination: Callable[[Request], tuple[str, int]] = authority_destination
        if source is not None:
            destination = _Destination(source, self._services)
        made = self._connecting.tls(tls, "")

        def key_of(address: Address, host: str) -> tuple[PoolKey, ClientTls | None]:
            digest, client = made
            if client is None:
                return PoolKey(address, "", settings), None
            return PoolKey(address, f"{digest}:{host}", settings), client.named(host)

        resolver = None if settings.proxy else self._pools.resolver
        upstream = DynamicUpstream(
            destination,
            resolver,
            key_of,
            self._pools,
            allows_all=bool(dynamic.get("link_local")),
            admin_port=0 if self._admin is None else self._admin.port,
        )
        return replace(
            base, label="dynamic", kind="dynamic", upstream=upstream, has_tls=tls is not None
        )

    def outliers(self, health: Data | None) -> Outliers:
        """See outliers_of."""
        return outliers_of(health, self._services)


def _set_path(path: str, request: Request) -> None:
    """The last request hook of an `internal: /path` backend; the query stays."""
    query = request.query
    request.target = f"{path}?{query}" if query else path


@final
class _Destination:
    """The `target` expression of a dynamic backend."""

    __slots__ = ("_expression",)

    def __init__(self, source: str, services: Services) -> None:
        self._expression = Expression(source, services, "dynamic.target")

    def __call__(self, request: Request) -> tuple[str, int]:
        try:
            value = self._expression.value(request)
        except SidecarError as error:
            raise RequestError(503, "Internal", f"processing failed: {error}") from error
        host, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
        if not host or not port.isdigit() or int(port) > 65535:
            raise RequestError(503, "Internal", "processing failed: target is not host:port")
        return host, int(port)
